"""What machines have cost, grouped for the cost page: by namespace, Workspace, run, machine type, model or month.

A Workspace may have a budget; what is left of it stands in its row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from include.ledger import records, report
from include.ledger.books import Entry, within

#: What a row stands for, and the heads of its key's columns.
HEADS: Mapping[str, tuple[str, ...]] = {
    "namespace": ("Namespace",),
    "workspace": ("Namespace", "Workspace"),
    "model": ("Model",),
    "month": ("Month",),
    "machine": ("Machine",),
    "run": ("Namespace", "Workspace", "Run"),
}
UNKNOWN, NO_TIME = "(unknown)", "(earlier)"


@dataclass(frozen=True, slots=True)
class Line:
    """One row: `key` as `HEADS` names its columns; hours of machines, and US dollars at list prices.

    `left_usd` is what is left of the budgets in it, None where none of its Workspaces has one.
    """

    key: tuple[str, ...]
    machines: int
    hours: float
    useful_share: float
    usd: float
    wasted_usd: float
    unpriced: bool
    open: bool
    left_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What Workspaces that are there add to what was spent, by (namespace, name): models, and US dollars of budgets
    that are left.
    """

    models: Mapping[tuple[str, str], str] = field(default_factory=dict)
    left: Mapping[tuple[str, str], float] = field(default_factory=dict)


def budget_left(workspace: Mapping[str, Any], now: datetime) -> float | None:
    """US dollars that a Workspace may still spend, None where it has no budget."""
    cost = (workspace.get("status") or {}).get("cost") or {}
    budget = cost.get("budgetUsd")
    return max(0.0, float(budget) - records.spent(cost, now)) if budget else None


def lines(found: Iterable[Entry], by: str, known: Known) -> list[Line]:
    """The rows of a grouping, the dearest first; months in their order.

    :param by: a key of `HEADS`.
    :param known: the models and budgets of the Workspaces that are there.
    """
    keys: Mapping[str, Callable[[Entry], tuple[str, ...]]] = {
        "model": lambda one: (known.models.get((one.namespace, one.workspace), UNKNOWN),),
        "month": lambda one: (one.since.strftime("%Y-%m") if one.since else NO_TIME,),
    }
    if by in keys:
        entries = by_month(found) if by == "month" else found
        groups: dict[tuple[str, ...], list[Entry]] = {}
        for entry in entries:
            groups.setdefault(keys[by](entry), []).append(entry)
        made = [_line(replace(report.total(group), key=key)) for key, group in groups.items()]
        return sorted(made, key=lambda one: one.key if by == "month" else (-one.usd, one.key))
    rows = [_line(row) for row in report.grouped(found, by)]
    return [replace(row, left_usd=_left(row.key, by, known)) for row in rows]


def _left(key: tuple[str, ...], by: str, known: Known) -> float | None:
    """What is left of a Workspace's budget, or of those of a namespace together."""
    if by not in ("namespace", "workspace"):
        return None
    amounts = [usd for which, usd in known.left.items() if which[: len(key)] == key]
    return sum(amounts) if amounts else None


def total(found: Iterable[Entry]) -> Line:
    """All of it in one row."""
    return _line(report.total(found))


def by_month(found: Iterable[Entry]) -> Iterator[Entry]:
    """The entries cut where a month (UTC) ends; those without a time as they are."""
    for entry in found:
        if entry.since is None or entry.until is None:
            yield entry
            continue
        begin = _month(entry.since)
        while begin < entry.until:
            end = _month(datetime(begin.year + begin.month // 12, begin.month % 12 + 1, 1, tzinfo=UTC))
            yield from within([entry], begin, end)
            begin = end


def _month(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _line(row: report.Row) -> Line:
    share = row.useful_seconds / row.seconds if row.seconds else 0.0
    wasted = row.usd - row.useful_usd
    return Line(row.key, row.machines, row.seconds / 3600, share, row.usd, wasted, row.unpriced, row.open)


def as_csv(found: Sequence[Line], by: str) -> str:
    """A head and a line for each row. A text that a spreadsheet would take for a formula is quoted for it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = (
        "machines",
        "hours",
        "useful_share",
        "usd",
        "wasted_usd",
        "unpriced",
        "open",
        "budget_left_usd",
    )
    writer.writerow([*(head.lower() for head in HEADS[by]), *numbers])
    for line in found:
        amounts = f"{line.hours:.4f}", f"{line.useful_share:.4f}", f"{line.usd:.4f}", f"{line.wasted_usd:.4f}"
        left = "" if line.left_usd is None else f"{line.left_usd:.4f}"
        marks = str(line.unpriced).lower(), str(line.open).lower(), left
        writer.writerow([*map(_plain, line.key), line.machines, *amounts, *marks])
    return out.getvalue()


def _plain(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
