"""A report for people: one line a fault, like a compiler's, so that editors and terminals can jump to it.

What comes from a document is printed as visible characters only: a Workspace must never move the reader's cursor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from include.cli.report import (
    DocumentReport,
    Finding,
    Problem,
    Report,
)
from include.contracts.plural import plural

SHOWN = 200  # faults of one Workspace; --format json has them all
_CODES = {"good": "32", "bad": "31;1", "note": "33", "place": "1", "dim": "2"}


class Style(NamedTuple):
    """Colours, or none."""

    coloured: bool

    @classmethod
    def of(cls, out: TextIO) -> Style:
        """Colours on a terminal that wants them (https://no-color.org)."""
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        return cls(out.isatty() and not plain)

    def __call__(self, kind: str, text: str) -> str:
        return f"\x1b[{_CODES[kind]}m{text}\x1b[0m" if self.coloured else text


def lines(report: Report, style: Style, quiet: bool = False) -> Iterator[str]:
    """The lines of a report; `quiet` leaves only what is wrong."""
    for file in report.files:
        for one in file.in_order():
            if isinstance(one, Problem):
                yield _problem(one, style)
            elif one.passed_over:
                if not quiet and (one.used or one.remarkable or not file.walked):
                    yield style("dim", _passed(one))
            else:
                yield from _workspace(one, style, quiet)
    if not quiet:
        yield summary(report, style)


def summary(report: Report, style: Style) -> str:
    """The last line: "3 Workspaces: 2 OK, 1 with 4 faults"."""
    counts = report.summary()
    parts = []
    if counts["ok"]:
        parts.append(style("good", f"{counts['ok']} OK"))
    if counts["faulty"]:
        parts.append(style("bad", f"{counts['faulty']} with {plural(counts['faults'], 'fault')}"))
    message = f"{plural(counts['workspaces'], 'Workspace')}: {', '.join(parts)}" if parts else "No Workspace"
    if counts["passedOver"]:
        message += f"; {plural(counts['passedOver'], 'other document')} passed over"
    if counts["unreadable"]:
        message += "; " + style("bad", f"{counts['unreadable']} unreadable")
    return message


def _workspace(document: DocumentReport, style: Style, quiet: bool) -> Iterator[str]:
    at = style("place", f"{visible(document.file)}:{document.line}:{document.column}:")
    title = visible(document.title)
    if not document.faults:
        if not quiet:
            yield f"{at} {title}: {style('good', 'OK')}"
            yield from (f"    {_sentence(visible(line), style)}" for line in _explanation(document))
        return
    if not quiet:
        yield f"{at} {title}: {style('bad', plural(len(document.faults), 'fault'))}"
    yield from (_fault(finding, style) for finding in document.faults[:SHOWN])
    if len(document.faults) > SHOWN:
        yield f"{at} {title}: and {len(document.faults) - SHOWN} more faults"


def _passed(document: DocumentReport) -> str:
    what = f" {document.title}" if document.kind else ""
    where = f"{document.file}:{document.line}:{document.column}:"
    return visible(f"{where}{what or ' passed over'}: {document.passed_over}")


def _explanation(document: DocumentReport) -> list[str]:
    """The plan's sentences; a plan repeats the notices as its warnings."""
    if document.sentences:
        told = {sentence.removeprefix("Warning: ") for sentence in document.sentences}
        return document.sentences + [f"Note: {notice}" for notice in document.notices if notice not in told]
    return [f"Note: {notice}" for notice in document.notices]


def _sentence(sentence: str, style: Style) -> str:
    return style("note", sentence) if sentence.startswith(("Warning: ", "Note: ")) else sentence


def _fault(finding: Finding, style: Style) -> str:
    at = style("place", f"{visible(finding.file)}:{finding.line}:{finding.column}:")
    subject = f"ConfigMap {finding.config_map}: " if finding.config_map else ""
    return f"{at} {visible(subject + str(finding.fault))}"


def _problem(problem: Problem, style: Style) -> str:
    where = (
        f"{visible(problem.file)}:{problem.line}:{problem.column}:"
        if problem.line
        else f"{visible(problem.file)}:"
    )
    return f"{style('place', where)} {style('bad', visible(problem.message))}"


def visible(text: str) -> str:
    """The text with control characters, line ends and invisible marks written as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
