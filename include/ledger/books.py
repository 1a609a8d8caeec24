"""Puts the books of all sources together, so that each second of each machine is in the report once.

The same record stands in a Workspace's status and in the events of its runs, earlier and later. The record that knows
its end wins, then the younger one. What a status has only as a sum (`earlier`) counts as far as no event tells it
apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from include.ledger import records
from include.workspace.api import names
from include.workspace.status.conditions import moment

#: The run of what a status only has as a sum.
EARLIER = "(earlier runs)"


@dataclass(frozen=True)
class Book:
    """What one source knows of one Workspace at a moment. `live`: the Workspace was seen in the cluster just now."""

    workspace: str
    namespace: str
    uid: str
    at: datetime
    records: Sequence[Mapping[str, Any]] = ()
    earlier: Mapping[str, Any] = field(default_factory=dict)
    live: bool = False


@dataclass(frozen=True)
class Entry:
    """A stretch of one machine for one run and purpose.

    `since` is None for what is only known as a sum; `open`: it goes on.
    """

    namespace: str
    workspace: str
    run: str
    machine: str
    purpose: str
    uid: str
    since: datetime | None
    until: datetime | None
    seconds: float
    useful_seconds: float
    usd: float
    useful_usd: float
    unpriced: bool
    open: bool = False


def of_workspace(live: Mapping[str, Any], now: datetime) -> Book | None:
    """The book in a Workspace's status, None when its machines have cost nothing yet."""
    cost, meta = (live.get("status") or {}).get("cost") or {}, live["metadata"]
    if not cost.get("claims") and not cost.get("earlier"):
        return None
    told = cost.get("claims") or (), cost.get("earlier") or {}
    return Book(str(meta["name"]), names.namespace(live), str(meta["uid"]), now, *told, live=True)


def of_event(extra: Mapping[str, Any]) -> Book | None:
    """The book in an event of the asset, None when it tells of no machines (or is of another making)."""
    at = moment(extra.get("at"))
    if at is None or not extra.get("uid") or not isinstance(extra.get("records"), list):
        return None
    subject = str(extra.get("workspace")), str(extra.get("namespace")), str(extra["uid"])
    return Book(*subject, at, extra["records"], extra.get("earlier") or {})


def entries(books: Iterable[Book]) -> list[Entry]:
    """Every stretch of every machine once, and what is left of sums."""
    by_workspace: dict[str, list[Book]] = {}
    for book in books:
        by_workspace.setdefault(book.uid, []).append(book)
    result: list[Entry] = []
    for uid in sorted(by_workspace):
        result += _of_one(sorted(by_workspace[uid], key=lambda book: (book.live, book.at)))
    return result


def _of_one(books: list[Book]) -> list[Entry]:
    """The entries of one Workspace; the books oldest first, what the cluster shows last."""
    best: dict[records.Key, tuple[Book, Mapping[str, Any]]] = {}
    for book in books:
        for record in book.records:
            key = records.key_of(record)
            known = best.get(key)
            if known is None or "until" in record or "until" not in known[1]:
                best[key] = book, record
    found = [_entry(book, record) for book, record in best.values()]
    return [*found, *_remainder(books, best)]


def _entry(book: Book, record: Mapping[str, Any]) -> Entry:
    lived, used = records.seconds(record, book.at), records.useful_seconds(record, book.at)
    price = record.get("usdPerHour")
    hourly = float(price or 0) / 3600
    return Entry(
        namespace=book.namespace,
        workspace=book.workspace,
        run=str(record.get("run") or ""),
        machine=str(record.get("machine") or ""),
        purpose=str(record.get("purpose") or ""),
        uid=str(record.get("uid")),
        since=moment(record.get("since")),
        until=moment(record.get("until")) or book.at,
        seconds=lived,
        useful_seconds=used,
        usd=lived * hourly,
        useful_usd=used * hourly,
        unpriced=price is None and lived > 0,
        open="until" not in record,
    )


def _remainder(books: list[Book], best: Mapping[records.Key, Any]) -> list[Entry]:
    """What the youngest sum holds beyond the records that are told one by one."""
    book = max(books, key=lambda book: (float(book.earlier.get("nodeSeconds") or 0), book.at))
    if not book.earlier:
        return []
    own = set(map(records.key_of, book.records))
    apart = [_entry(*best[key]) for key in best if key not in own and "until" in best[key][1]]
    told = [entry for entry in apart if (entry.until or book.at) <= book.at]
    left = {
        key: max(0.0, float(book.earlier.get(key) or 0) - sum(amounts))
        for key, amounts in {
            "nodeSeconds": [entry.seconds for entry in told],
            "usefulNodeSeconds": [entry.useful_seconds for entry in told],
            "usd": [entry.usd for entry in told],
            "usefulUsd": [entry.useful_usd for entry in told],
        }.items()
    }
    if left["nodeSeconds"] < 1:
        return []
    sums = left["nodeSeconds"], left["usefulNodeSeconds"], left["usd"], left["usefulUsd"]
    unpriced = bool(book.earlier.get("unpriced"))
    return [Entry(book.namespace, book.workspace, EARLIER, "", "", "", None, None, *sums, unpriced)]


def within(found: Iterable[Entry], since: datetime | None, until: datetime | None) -> list[Entry]:
    """The part of each entry that lies in a window; useful and wasted are spread evenly over an entry.

    What is only known as a sum has no time: it is left out where a window is given.
    """
    if since is None and until is None:
        return list(found)
    return [part for entry in found if (part := _clipped(entry, since, until))]


def _clipped(entry: Entry, since: datetime | None, until: datetime | None) -> Entry | None:
    if entry.since is None or entry.until is None or entry.seconds <= 0:
        return None
    begin, end = max(entry.since, since or entry.since), min(entry.until, until or entry.until)
    share = max(timedelta(0), end - begin).total_seconds() / entry.seconds
    if share <= 0:
        return None
    amounts = ("seconds", "useful_seconds", "usd", "useful_usd")
    scaled = {name: getattr(entry, name) * share for name in amounts}
    return Entry(**{**vars(entry), **scaled, "since": begin, "until": end})
