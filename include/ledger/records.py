"""`status.cost`: one record for each machine, the run that it worked for and what it was for, and their sums.

Pure and idempotent: accounting for the same look twice changes nothing, and whoever accounts (the reconciler, or a task
of a run that works without it) goes on from what the other wrote. A record is kept after its machine is gone. A machine
that goes over to another run or purpose begins another record, so that each second is in exactly one. Times are whole
seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from include.contracts.purpose import Purpose
from include.ledger import unregistered
from include.ledger.machines import HeldMachine, Span
from include.pools.observed import UnregisteredCapacity
from include.workspace.status.conditions import moment, timestamp
from include.workspace.status.runs import RunState

Record = dict[str, Any]
Cost = Mapping[str, Any]
#: What tells records apart: the machine's uid, the run that held it, what it was for.
Key = tuple[str, str, str]

#: Ended records that are kept apart; older ones are summed up in `earlier`.
KEPT = 20
#: A look may be that much older than a record that says that a machine is gone.
STALE_SECONDS = 30.0


def account(
    old: Cost | None,
    seen: Sequence[HeldMachine],
    now: datetime,
    price_of: Callable[[str], float | None],
    capacity: Sequence[UnregisteredCapacity] | None = None,
    ended: Mapping[str, datetime] | None = None,
) -> dict[str, Any]:
    """The whole next `status.cost` after a look: {} when nothing has ever cost anything.

    `old` is the present one. `capacity` are the pools whose machines may not all have joined, None when their cloud was
    not asked. `price_of` gives US dollars an hour for a machine type, None when it is not known. `ended` is when
    somebody saw machines go, by their uids: a look comes later, by as long as it is not due or a worker takes to start.
    """
    now = now.replace(microsecond=0)
    old = old or {}
    records = [dict(record) for record in old.get("claims") or ()]
    _take_over(records, seen, now)
    live = _by_record(records, seen)
    for record in records:
        machine = live.pop(key_of(record), None)
        if machine is not None and _ended_lately(record, now):
            continue
        if machine is not None:
            record.pop("until", None)
            _work(record, machine.work, now)
        elif not unregistered.is_unregistered(record):
            _end(record, now, (ended or {}).get(str(record.get("uid"))))
    records += [_begin(machine, records, now, price_of) for _, machine in sorted(live.items())]
    if capacity is not None:
        records = unregistered.account(records, capacity, now, price_of)
    return summed(records, now, old.get("earlier")) if records or old.get("earlier") else {}


def key_of(record: Cost) -> Key:
    """What a record is known by, in every source that tells of it."""
    return str(record.get("uid")), str(record.get("run") or ""), str(record.get("purpose") or "")


def _by_record(records: Sequence[Record], seen: Sequence[HeldMachine]) -> dict[Key, HeldMachine]:
    """The machines by the keys of the records that they go on in, or that they begin.

    Who held a machine before may show up again: by a sight that is older than the hand-over, or because it was handed
    back. Its time goes on in the machine's latest record then; reopening the first would count it in both.
    """
    latest = {str(record.get("uid")): key_of(record) for record in records}
    known = set(map(key_of, records))
    return {latest[one.uid] if one.key in known else one.key: one for one in seen}


def _take_over(records: Sequence[Record], seen: Sequence[HeldMachine], now: datetime) -> None:
    """Give each machine that has just joined the record that it had before."""
    known = {record.get("uid") for record in records}
    lately = now - timedelta(seconds=STALE_SECONDS)
    for machine in seen:
        if machine.uid in known:
            continue
        if (before := unregistered.joined(records, machine, lately)) is not None:
            before |= {"uid": machine.uid, "name": machine.name}
            before.pop("until", None)


def with_outcome(cost: Cost, run: str, outcome: str) -> list[Record]:
    """The records with the outcome of a run's tuning written on them."""
    return [
        {**record, "outcome": outcome}
        if record.get("run") == run and record.get("purpose") == Purpose.TUNING
        else dict(record)
        for record in cost.get("claims") or ()
    ]


def summed(records: Sequence[Cost], now: datetime, earlier: Cost | None = None) -> dict[str, Any]:
    """`status.cost` of these records: the oldest ended ones go into `earlier`, the others are kept."""
    ended = [record for record in records if "until" in record]
    folded = ended[: max(0, len(ended) - KEPT)]
    base = total(folded, now, earlier or {})
    kept = [dict(record) for record in records if record not in folded]
    result: dict[str, Any] = {**total(kept, now, base), "at": timestamp(now), "claims": kept}
    return {**result, "earlier": base} if base["nodeSeconds"] else result


def total(records: Iterable[Cost], now: datetime, base: Cost | None = None) -> dict[str, Any]:
    """Node-seconds and US dollars of records, useful and wasted; `unpriced` when a machine among them has no price."""
    base = base or {}
    spent, useful = float(base.get("nodeSeconds") or 0), float(base.get("usefulNodeSeconds") or 0)
    usd, useful_usd = float(base.get("usd") or 0), float(base.get("usefulUsd") or 0)
    unpriced = bool(base.get("unpriced"))
    for record in records:
        lived, used = seconds(record, now), useful_seconds(record, now)
        spent, useful = spent + lived, useful + used
        price = record.get("usdPerHour")
        unpriced = unpriced or (price is None and lived > 0)
        usd, useful_usd = usd + lived / 3600 * (price or 0), useful_usd + used / 3600 * (price or 0)
    result: dict[str, Any] = {
        "nodeSeconds": round(spent),
        "usefulNodeSeconds": round(useful),
        "wastedNodeSeconds": round(spent) - round(useful),
        "usd": round(usd, 6),
        "usefulUsd": round(useful_usd, 6),
        "wastedUsd": round(round(usd, 6) - round(useful_usd, 6), 6),
    }
    return {**result, "unpriced": True} if unpriced else result


def seconds(record: Cost, now: datetime) -> float:
    """The time in a record up to its end or `now`, in seconds."""
    since, until = moment(record.get("since")), moment(record.get("until")) or now
    return max(0.0, (until - since).total_seconds()) if since else 0.0


def useful_seconds(record: Cost, now: datetime) -> float:
    """The part of it that was of use, in seconds: work, unless the tuning that it was for came to nothing."""
    if record.get("outcome") == RunState.FAILED:
        return 0.0
    worked = float(record.get("workedSeconds") or 0)
    counted = moment(record.get("countedUntil"))
    if record.get("working") and counted and "until" not in record:
        worked += max(0.0, (now - counted).total_seconds())
    return min(worked, seconds(record, now))


def spent(cost: Cost | None, now: datetime) -> float:
    """US dollars up to `now`, which may be later than the sums in `cost`."""
    cost = cost or {}
    return float(total(cost.get("claims") or (), now, cost.get("earlier"))["usd"])


def usd_per_hour(cost: Cost | None) -> float:
    """What the machines that are not gone cost together."""
    records = (cost or {}).get("claims") or ()
    return sum(float(record.get("usdPerHour") or 0) for record in records if "until" not in record)


def same(one: Sequence[Cost], other: Sequence[Cost]) -> bool:
    """Whether records tell the same, apart from how long work that goes on has lasted."""
    return [_lasting(record) for record in one] == [_lasting(record) for record in other]


def _lasting(record: Cost) -> Record:
    moving = ("workedSeconds", "countedUntil") if record.get("working") else ()
    return {key: value for key, value in record.items() if key not in moving}


def _end(record: Record, now: datetime, gone: datetime | None) -> None:
    """Let a record end when its machine was seen to go; one that ended at a look, which came later, ends then too."""
    since, until = moment(record["since"]), moment(record.get("until"))
    at = min(now, gone or now)
    if until is None:
        _work(record, (), at)
        record["until"] = timestamp(at)
    elif since and gone and since <= at < until:
        counted = moment(record.get("countedUntil"))
        if counted and counted > at:  # its work was taken to have lasted until that look
            beyond = round((counted - at).total_seconds())
            record["workedSeconds"] = max(0, int(record.get("workedSeconds") or 0) - beyond)
            record["countedUntil"] = timestamp(at)
        record["until"] = timestamp(at)


def _ended_lately(record: Cost, now: datetime) -> bool:
    """Whether a machine that is still seen may be a sight older than the record's end."""
    until = moment(record.get("until"))
    return until is not None and (now - until).total_seconds() < STALE_SECONDS


def _begin(
    machine: HeldMachine, known: Sequence[Cost], now: datetime, price_of: Callable[[str], float | None]
) -> Record:
    earlier = [moment(record.get("until")) for record in known if record.get("uid") == machine.uid]
    since = max([machine.since, *(until for until in earlier if until)])
    record: Record = {"name": machine.name, "uid": machine.uid, "run": machine.run}
    record |= {"purpose": machine.purpose, "machine": machine.kind, "since": timestamp(since)}
    price = price_of(machine.kind)
    if price is not None:
        record["usdPerHour"] = price
    _work(record, machine.work, now)
    return record


def _work(record: Record, spans: Sequence[Span], now: datetime) -> None:
    """Add the work since the last look to a record. Work that was under way and whose end nobody told ended now."""
    begin = moment(record.get("countedUntil")) or moment(record["since"]) or now
    working, goes_on = bool(record.get("working")), any(span.until is None for span in spans)
    told = list(spans)
    if working and not any(span.until is None or span.until > begin for span in spans):
        told.append(Span(None, now))
    worked, counted = float(record.get("workedSeconds") or 0), begin
    for span in sorted(told, key=lambda span: (span.until or now, span.since or begin)):
        if span.since is None and not working and span.until is not None:
            continue  # it had begun and ended before anybody looked
        start = counted if working else max(span.since or now, counted)
        end = min(span.until or now, now)
        if end > start:
            worked, counted = worked + (end - start).total_seconds(), end
        working = False
    if worked or goes_on:
        record |= {"workedSeconds": round(worked), "countedUntil": timestamp(max(counted, begin))}
    record.pop("working", None)
    if goes_on:
        record |= {"working": True, "countedUntil": timestamp(max(counted, now))}
