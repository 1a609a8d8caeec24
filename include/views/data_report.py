"""What a training learnt from: the data report of a Workspace's page, of what the dataset step of its run has told.

The step's result has all numbers, and an XCom beside it the first rows (`include.workloads.dataset.brief` says why).
What the step told is a pod's words: anything may be missing, or be something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.contracts.redaction import redact, redact_url
from include.contracts.results import DatasetResult
from include.contracts.token_histogram import Histogram, histogram

#: Files, findings and reasons that are shown; the page of the report has all.
MOST_LINES = 20
#: Rows that are shown, and their pieces: a step sends no more.
MOST_SAMPLES, MOST_PIECES = 3, 20
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class DataReport:
    """A dataset in words.

    :param facts: labels and texts.
    :param findings: what a person should know of the rows, a sentence each.
    :param unused: why rows were not used, and how many for each reason.
    :param sources: each file's address without its query, its rows and its size.
    :param lengths: how many tokens rows have; None where the model's tokenizer was not at hand.
    :param personal: what looks like personal data or a secret, and in how many rows.
    :param languages: of the rows with their shares; `scripts` are their writing systems.
    :param samples: the first rows in pieces, each with whether it is learnt.
    """

    facts: Sequence[tuple[str, str]]
    findings: Sequence[str]
    unused: Sequence[tuple[str, str]]
    sources: Sequence[tuple[str, str, str]]
    lengths: Histogram | None
    personal: Sequence[tuple[str, str]]
    languages: Sequence[tuple[str, str]]
    scripts: Sequence[tuple[str, str]]
    samples: Sequence[Sequence[tuple[str, bool]]]

    @property
    def masked(self) -> bool:
        """Whether the rows tell what is learnt of them: they do where the model's tokenizer was at hand."""
        return any(learnt for row in self.samples for _, learnt in row)


def data_report(told: object, samples: object = None) -> DataReport | None:
    """The report of a dataset step's result, None where it has none.

    :param samples: the first rows, as the step told them beside it.
    """
    result = DatasetResult.read(told)
    more: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    if not result:
        return None
    return DataReport(
        facts=[(label, redact(text)) for label, text in _facts(result, more) if text],
        findings=[redact(one) for one in (result.findings or ())[:MOST_LINES]],
        unused=[(redact(str(reason)), _count(count)) for reason, count in _items(more.get("dropped"))],
        sources=[
            (redact_url(str(one.get("url") or "")), _count(one.get("rows")), size(one.get("bytes")))
            for one in _list(more.get("sources"))[:MOST_LINES]
            if isinstance(one, Mapping)
        ],
        lengths=histogram(more.get("tokens")),
        personal=[
            (redact(str(kind)), _count(count)) for kind, count in _items(more.get("personal")) if count
        ],
        languages=_shares(more.get("languages")),
        scripts=_shares(more.get("scripts")),
        samples=[row for one in _list(samples)[:MOST_SAMPLES] if (row := _sample(one))],
    )


def _facts(result: DatasetResult, more: Mapping[str, Any]) -> list[tuple[str, str]]:
    layouts = ", ".join(str(one) for one in _list(more.get("layouts"))[:MOST_LINES])
    return [
        ("In short", result.sentence or ""),
        ("Rows", _count(result.rows)),
        ("Rows not used", _count(more.get("dropped_rows"))),
        ("Rows that repeat another", _count(more.get("duplicate_rows"))),
        ("Held out, and the question trained on as well", _overlap(more.get("held_out"))),
        ("Layout", layouts or str(more.get("format") or "")),
        ("Size", size(more.get("bytes"))),
        ("Rows searched", _count(more.get("scanned_rows"))),
        ("Personal data or secrets", _unseen(more.get("personal"))),
        ("Digest", result.digest or ""),
    ]


def _overlap(told: object) -> str:
    if not isinstance(told, Mapping):
        return ""
    rows, same = told.get("rows"), told.get("asked_in_training")
    return f"{_count(rows)} rows, {_count(same)} of them" if _count(rows) and _count(same) else ""


def _unseen(told: object) -> str:
    searched = isinstance(told, Mapping) and told
    return "none seen by simple patterns" if searched and not any(count for _, count in _items(told)) else ""


def _shares(told: object) -> list[tuple[str, str]]:
    found = [(name, share) for name, share in _items(told) if isinstance(share, int | float)]
    return [(redact(str(name)), f"{share:.1%}") for name, share in found]


def _sample(told: object) -> list[tuple[str, bool]]:
    pieces = [one for one in _list(told)[:MOST_PIECES] if isinstance(one, list | tuple) and len(one) == 2]
    return [(redact(str(text)), learnt is True) for text, learnt in pieces]


def _items(told: object) -> list[tuple[object, Any]]:
    return list(told.items())[:MOST_LINES] if isinstance(told, Mapping) else []


def _list(told: object) -> list[Any]:
    return told if isinstance(told, list) else []


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else ""


def size(value: object) -> str:
    """A number of bytes as people read it, "" where it is none."""
    if not isinstance(value, int | float) or value < 0:
        return ""
    number, unit = float(value), 0
    while number >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.0f} {UNITS[unit]}" if unit == 0 or number >= 10 else f"{number:.1f} {UNITS[unit]}"
