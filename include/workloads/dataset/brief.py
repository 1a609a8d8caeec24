"""What the dataset step tells Airflow of its report: all numbers, and the first rows as far as there is room.

A page of Airflow shows it while the training goes on and after it, so it must be where Airflow has it without asking
anybody: in the step's result. The work volume can only be read by a pod, and a pod that is made whenever somebody looks
would want a node, and the volume while a GPU node has it. The referrer beside the adapter is there after the push only,
needs the registry's credentials, and has no rows by rule: a registry has other readers than the data.

A result has 4 KiB (`contract.fit_result`). The numbers take one; rows take what is left, are cut in their middle before
a number is, and what looks like personal data or a secret is masked in them. `DATASET_SAMPLES=false` keeps them here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from include.contracts import dataset_samples
from include.contracts.redaction import redacted
from include.workloads.contract import TERMINATION_LIMIT
from include.workloads.dataset.personal import masked

Piece = tuple[str, bool]

SHOWN_REASONS = 5
#: Characters of each row that are tried, the most first; and the pieces of a row that are shown.
SAMPLE_CHARS, MOST_PIECES = (900, 600, 400, 250, 150), 8
LEFT_OUT = " [...] "

_SOURCE = ("url", "sha256", "bytes", "rows")
_REPORT = (
    *("rows", "format", "columns", "digest", "bytes", "dropped_rows", "duplicate_rows", "unread", "sentence"),
    *("added", "removed"),
)
_CONTENT = ("scanned_rows", "tokens", "scripts", "languages", "personal", "held_out")


def brief(report: Mapping[str, Any], samples: Sequence[Sequence[Piece]] = ()) -> dict[str, Any]:
    """The result of the step, as plain JSON values.

    :param report: the whole report, with how its rows have changed where that is known.
    :param samples: the first rows in pieces, each with whether it is learnt.
    """
    content = report.get("content") or {}
    layouts = dict.fromkeys(str(one["layout"]) for one in report["sources"] if one.get("layout"))
    found = {
        **{key: report[key] for key in _REPORT if key in report},
        "findings": report["findings"],
        "dropped": dict(list(report["dropped"].items())[:SHOWN_REASONS]),
        "characters": (report.get("characters") or {}).get("total", 0),
        "sources": [{key: source[key] for key in _SOURCE} for source in report["sources"]],
        "layouts": list(layouts),
        **{key: content[key] for key in _CONTENT if content.get(key)},
    }
    hidden = [_hidden(one) for one in samples]
    for characters in SAMPLE_CHARS if samples else ():
        shown = [_cut(one, characters) for one in hidden]
        if _bytes(told := {**found, dataset_samples.KEY: shown}) <= TERMINATION_LIMIT:
            return told
    return found


def _hidden(sample: Sequence[Piece]) -> list[Piece]:
    shown = masked([text for text, _ in sample])
    return [(text, learnt) for text, (_, learnt) in zip(shown, sample, strict=True)]


def _bytes(result: Mapping[str, Any]) -> int:
    return len(json.dumps(redacted(dict(result)), ensure_ascii=False, separators=(",", ":")).encode())


def _cut(sample: Sequence[Piece], characters: int) -> list[list[object]]:
    """A row in so many characters: long pieces lose their middle, so that question and answer are both seen."""
    pieces = sample[:MOST_PIECES]
    rooms, left = [0] * len(pieces), characters
    for done, place in enumerate(sorted(range(len(pieces)), key=lambda one: len(pieces[one][0]))):
        rooms[place] = min(len(pieces[place][0]), left // (len(pieces) - done))
        left -= rooms[place]
    shown: list[list[object]] = [
        [_shortened(text, room), learnt] for (text, learnt), room in zip(pieces, rooms, strict=True)
    ]
    return [*shown, [LEFT_OUT, False]] if len(sample) > MOST_PIECES else shown


def _shortened(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    half = room // 2
    return f"{text[:half]}{LEFT_OUT}{text[len(text) - half :]}"
