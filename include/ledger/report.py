"""The report: entries grouped, summed and written as a table for people, as CSV or as JSON.

Sums are made of what was not rounded yet, so that the total is the total whatever the grouping.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from include.ledger.books import Entry

GROUPINGS: dict[str, tuple[str, ...]] = {
    "run": ("namespace", "workspace", "run"),
    "workspace": ("namespace", "workspace"),
    "namespace": ("namespace",),
    "machine": ("machine",),
}
NUMBERS = ("nodeSeconds", "usefulNodeSeconds", "wastedNodeSeconds", "usd", "usefulUsd", "wastedUsd")


@dataclass(frozen=True)
class Row:
    """A line of the report. `key` has the values of the grouping's fields."""

    key: tuple[str, ...]
    machines: int
    seconds: float
    useful_seconds: float
    usd: float
    useful_usd: float
    unpriced: bool
    open: bool

    def to_dict(self, by: str) -> dict[str, Any]:
        """The line for programs: node-seconds as whole numbers, dollars to the hundredth of a cent."""
        return {**dict(zip(GROUPINGS[by], self.key, strict=True)), **self.numbers()}

    def numbers(self) -> dict[str, Any]:
        return {
            "machines": self.machines,
            "nodeSeconds": round(self.seconds),
            "usefulNodeSeconds": round(self.useful_seconds),
            "wastedNodeSeconds": round(self.seconds) - round(self.useful_seconds),
            "usd": round(self.usd, 4),
            "usefulUsd": round(self.useful_usd, 4),
            "wastedUsd": round(round(self.usd, 4) - round(self.useful_usd, 4), 4),
            "unpriced": self.unpriced,
            "open": self.open,
        }


def grouped(found: Iterable[Entry], by: str) -> list[Row]:
    """The rows of a grouping, the dearest first."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in found:
        key = tuple(str(getattr(entry, name)) or "(unknown)" for name in GROUPINGS[by])
        groups.setdefault(key, []).append(entry)
    rows = [_row(key, group) for key, group in groups.items()]
    return sorted(rows, key=lambda row: (-row.usd, -row.seconds, row.key))


def total(found: Iterable[Entry]) -> Row:
    return _row((), list(found))


def _row(key: tuple[str, ...], group: list[Entry]) -> Row:
    return Row(
        key=key,
        machines=len({entry.uid for entry in group if entry.uid}),
        seconds=sum(entry.seconds for entry in group),
        useful_seconds=sum(entry.useful_seconds for entry in group),
        usd=sum(entry.usd for entry in group),
        useful_usd=sum(entry.useful_usd for entry in group),
        unpriced=any(entry.unpriced for entry in group),
        open=any(entry.open for entry in group),
    )


def as_json(found: list[Entry], by: str, since: datetime | None, until: datetime | None) -> str:
    """One object: what was asked for, the rows, the total."""
    whole = {
        "by": by,
        "since": since.isoformat() if since else None,
        "until": until.isoformat() if until else None,
        "rows": [row.to_dict(by) for row in grouped(found, by)],
        "total": total(found).numbers(),
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def as_csv(found: list[Entry], by: str, *_: object) -> str:
    """A header and a line for each row; no total, so that a spreadsheet can sum."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [*GROUPINGS[by], *total([]).numbers()], lineterminator="\n")
    writer.writeheader()
    for row in grouped(found, by):
        plain = row.to_dict(by)
        writer.writerow({key: str(v).lower() if isinstance(v, bool) else v for key, v in plain.items()})
    return out.getvalue()


def as_table(found: list[Entry], by: str, *_: object) -> str:
    """Columns for people: hours and dollars, and what is marked in words below."""
    head = [*(name.upper() for name in GROUPINGS[by]), "MACHINES", "HOURS", "USEFUL", "USD", "WASTED"]
    lines = [head, *(_cells(row, row.key) for row in grouped(found, by))]
    lines.append(_cells(total(found), ("TOTAL", *[""] * (len(GROUPINGS[by]) - 1))))
    words = len(GROUPINGS[by])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    whole = total(found)
    if whole.unpriced:
        text.append("* with machines whose price is not known: the dollars are too few")
    if whole.open:
        text.append("+ with machines that are still held")
    return "\n".join(text) + "\n"


def _cells(row: Row, key: tuple[str, ...]) -> list[str]:
    useful = f"{row.useful_seconds / row.seconds:.0%}" if row.seconds else "-"
    marks = ("*" if row.unpriced else "") + ("+" if row.open else "")
    wasted = row.usd - row.useful_usd
    machines = str(row.machines) if row.machines else "-"
    return [*key, machines, f"{row.seconds / 3600:.2f}", useful, f"{row.usd:,.2f}{marks}", f"{wasted:,.2f}"]


FORMATS: dict[str, Callable[[list[Entry], str, datetime | None, datetime | None], str]] = {
    "table": as_table,
    "csv": as_csv,
    "json": as_json,
}
