"""What a Workspace's machines have cost: node-seconds times the list price.

A claim that disappears keeps its record, so that a released pool is still accounted for. The sums are as of `at`, so
that an idle service does not need a write at each look. Prices are list prices; a machine without one is not counted
as free: `usd` is then left out of its record and `unpriced` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from include.reconcile.backoff import moment
from include.reconcile.case import Case, label, machine
from include.reconcile.draft import Draft
from include.workspace import names
from include.workspace.conditions import timestamp

#: How old the sums may be while a run is under way, and otherwise.
FRESH_SECONDS, IDLE_SECONDS = 60.0, 3600.0
#: Ended claims that keep a record of their own; older ones are summed up in `earlier`.
RECORDS = 20


def account(draft: Draft, *, busy: bool) -> None:
    """Bring `status.cost` up to date when claims came or went, or when its sums are old."""
    case = draft.case
    old: Mapping[str, Any] = draft.status.get("cost") or {}
    if not old and not case.node_claims:
        return
    records = _records(case, old)
    at = moment(old.get("at"))
    if records == list(old.get("claims") or ()) and at:
        open_ones = any("until" not in record for record in records)
        age = (case.now - at).total_seconds()
        if not open_ones or age < (FRESH_SECONDS if busy else IDLE_SECONDS):
            return
    draft.note(cost=_summed(case, records, old.get("earlier")))


def _records(case: Case, old: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One record a claim: known ones first, ended where the claim is gone; then those seen for the first time."""
    live = {str(c["metadata"].get("uid")): c for c in case.node_claims}
    records = [dict(record) for record in old.get("claims") or ()]
    for record in records:
        if "until" not in record and record.get("uid") not in live:
            record["until"] = timestamp(case.now)
    known = {record.get("uid") for record in records}
    for uid, claim in sorted(live.items()):
        if uid not in known:
            meta = claim["metadata"]
            kind = machine(claim) or case.machine
            record = {"name": meta["name"], "uid": uid, "purpose": label(claim, names.POOL), "machine": kind}
            record["since"] = str(meta.get("creationTimestamp") or timestamp(case.now))
            price = case.surroundings.price_of(kind)
            if price is not None:
                record["usdPerHour"] = price
            records.append(record)
    return records


def seconds(record: Mapping[str, Any], now: datetime) -> float:
    """The lifetime of a claim up to its end or `now`, in seconds."""
    since, until = moment(record.get("since")), moment(record.get("until")) or now
    return max(0.0, (until - since).total_seconds()) if since else 0.0


def _summed(case: Case, records: list[dict[str, Any]], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    ended = [record for record in records if "until" in record]
    folded = ended[: max(0, len(ended) - RECORDS)]
    base = _sum(folded, case.now, earlier or {})
    kept = [record for record in records if record not in folded]
    total = _sum(kept, case.now, base)
    found: dict[str, Any] = {**total, "at": timestamp(case.now), "claims": kept}
    if base["nodeSeconds"]:
        found["earlier"] = base
    return found


def _sum(records: list[dict[str, Any]], now: datetime, base: Mapping[str, Any]) -> dict[str, Any]:
    spent, usd = float(base.get("nodeSeconds") or 0), float(base.get("usd") or 0)
    unpriced = bool(base.get("unpriced"))
    for record in records:
        lived = seconds(record, now)
        spent += lived
        if "usdPerHour" in record:
            usd += lived / 3600 * float(record["usdPerHour"])
        else:
            unpriced = True
    found: dict[str, Any] = {"nodeSeconds": round(spent), "usd": round(usd, 4)}
    return {**found, "unpriced": True} if unpriced else found
