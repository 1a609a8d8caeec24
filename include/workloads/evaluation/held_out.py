"""The held-out rows of the dataset, and the proof that none of them was trained on.

The tuning has written down the digest of every row that it learnt from and of every row that it held out. Both lists
are compared with each other and with the dataset, so that a leak is a failure here and no good number.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.contracts.evaluation import HELD_OUT_ROWS_FILE, TRAINED_ROWS_FILE, HeldOut
from include.contracts.held_out import set_digest
from include.workloads.chat import Conversation, Marked, is_learnt
from include.workloads.contract import UserDataError
from include.workloads.tuning import rows

log = logging.getLogger("workload")

_MAX_LIST = 1 << 30  # bytes of a list of digests: 16 million rows


@dataclass(frozen=True)
class HeldOutRows:
    """Held-out rows in the order of their digests, without repeats, and the proof."""

    column: str
    values: list[Any]
    proof: HeldOut


@dataclass(frozen=True)
class HeldOutPrompt:
    """What a held-out conversation asks last, and its answer."""

    messages: list[dict[str, Any]]
    tools: Any
    expected: str


def read(data: Path, results: Path, trained_digest: str | None = None) -> HeldOutRows | None:
    """The held-out rows; None where nothing was held out.

    :param data: the folder of the dataset's table.
    :param results: the folder of the tuning's lists.
    :param trained_digest: what the tuning has reported of its rows; the list must be that one.
    :raises UserDataError: a row is in both lists, or the lists are not of this dataset and tuning.
    """
    trained, held = (_lines(results / name) for name in (TRAINED_ROWS_FILE, HELD_OUT_ROWS_FILE))
    if held is None or not held:
        return None
    if trained is None:
        raise UserDataError(
            f"There is no {TRAINED_ROWS_FILE} beside {HELD_OUT_ROWS_FILE}: whether the held-out rows were trained on "
            "is unknown. Tune again."
        )
    if trained_digest and set_digest(trained) != trained_digest:
        raise UserDataError(
            f"{TRAINED_ROWS_FILE} is not of the tuning that is evaluated: it is another one's."
        )
    column, values = rows.read_table(data)
    by_digest = dict(zip(rows.digests(values), values, strict=True))
    overlap = held & trained
    proof = HeldOut(
        rows=len(held),
        digest=set_digest(held),
        trained_rows=len(trained),
        trained_digest=set_digest(trained),
        overlap=len(overlap),
    )
    if overlap:
        raise UserDataError(
            f"{len(overlap)} of {len(held)} held-out rows were trained on (the first: {min(overlap)[:12]}): an "
            "evaluation on them would show what was learnt by heart."
        )
    missing = held - by_digest.keys()
    if missing:
        raise UserDataError(
            f"{len(missing)} of {len(held)} held-out rows are not in this dataset: it is not the one of the tuning."
        )
    log.info("%d held-out rows, none of them among %d trained ones", proof.rows, proof.trained_rows)
    kept = [by_digest[digest] for digest in sorted(held)]
    good = [one for one in kept if not _is_bad(one)]
    return HeldOutRows(column, good, proof) if good else None


def _is_bad(value: Any) -> bool:
    """Whether this is an answer that nobody should give: what a model says is not measured by it."""
    return isinstance(value, Marked) and not value.good


def overlap_with(proof_rows: Sequence[str], trained: Path) -> int | None:
    """How many of the held-out rows an earlier tuning has learnt from; None where its list is not there."""
    known = _lines(trained)
    return None if known is None else len(known & set(proof_rows))


def prompts(found: HeldOutRows) -> list[HeldOutPrompt]:
    """The last learnt answer of each conversation as a question; none of plain text, or of calls of tools."""
    if found.column == "text":
        return []
    asked = (_prompt(conversation) for conversation in found.values)
    return [prompt for prompt in asked if prompt is not None]


def _prompt(conversation: Conversation) -> HeldOutPrompt | None:
    messages = list(conversation.messages)
    for place in range(len(messages) - 1, 0, -1):
        message = messages[place]
        if is_learnt(message) and str(message.get("content") or "").strip() and not message.get("tool_calls"):
            return HeldOutPrompt(messages[:place], conversation.tools, str(message["content"]))
    return None


def _lines(path: Path) -> set[str] | None:
    try:
        if path.stat().st_size > _MAX_LIST:
            raise UserDataError(f"{path.name} is too big to be a list of rows.")
        return {line for line in path.read_text().splitlines() if line}
    except FileNotFoundError:
        return None
