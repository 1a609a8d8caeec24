"""What a training learnt from: the data report of a Workspace's page, of what the dataset step of its run has told.

The whole report, with the first rows and their tokens, is a page of its own that lies on the work volume and beside a
pushed adapter. What the step told is a pod's words: anything may be missing, or be something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.contracts.redaction import redact, redact_url
from include.contracts.results import DatasetResult

#: Files, findings and reasons that are shown; the page of the report has all.
MOST_LINES = 20
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class DataReport:
    """A dataset in words.

    :param facts: labels and texts.
    :param findings: what a person should know of the rows, a sentence each.
    :param unused: why rows were not used, and how many for each reason.
    :param sources: each file's address without its query, its rows and its size.
    """

    facts: Sequence[tuple[str, str]]
    findings: Sequence[str]
    unused: Sequence[tuple[str, str]]
    sources: Sequence[tuple[str, str, str]]


def data_report(told: object) -> DataReport | None:
    """The report of a dataset step's result, None where it has none."""
    result = DatasetResult.read(told)
    more: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    if not result:
        return None
    facts = [
        ("In short", result.sentence or ""),
        ("Rows", _count(result.rows)),
        ("Rows not used", _count(more.get("dropped_rows"))),
        ("Layout", str(more.get("format") or "")),
        ("Size", size(more.get("bytes"))),
        ("Digest", result.digest or ""),
    ]
    dropped, sources = more.get("dropped"), more.get("sources")
    return DataReport(
        facts=[(label, redact(text)) for label, text in facts if text],
        findings=[redact(one) for one in (result.findings or ())[:MOST_LINES]],
        unused=[
            (redact(str(reason)), _count(count))
            for reason, count in list((dropped if isinstance(dropped, Mapping) else {}).items())[:MOST_LINES]
        ],
        sources=[
            (redact_url(str(one.get("url") or "")), _count(one.get("rows")), size(one.get("bytes")))
            for one in (sources if isinstance(sources, list) else [])[:MOST_LINES]
            if isinstance(one, Mapping)
        ],
    )


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def size(value: object) -> str:
    """A number of bytes as people read it, "" where it is none."""
    if not isinstance(value, int | float) or value < 0:
        return ""
    number, unit = float(value), 0
    while number >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.0f} {UNITS[unit]}" if unit == 0 or number >= 10 else f"{number:.1f} {UNITS[unit]}"
