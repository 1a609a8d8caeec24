"""What an event of the asset `kaito_ledger` says, the same for every DAG that tells one.

The sums are for people; `records` are what reports count. It must never carry more than the records: no spec, no URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from include.contracts.plural import plural
from include.ledger import records
from include.ledger.budget import dollars
from include.workspace.status.conditions import timestamp

Event = dict[str, Any]
VERSION = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose machines an event is about."""

    name: str
    namespace: str
    uid: str


def of_run(
    cost: Mapping[str, Any], *, run: str, dag: str, workspace: Subject, outcome: str, now: datetime
) -> Event:
    """The event of a run that ended: the records of its machines; those of its service go on."""
    own = [record for record in cost.get("claims") or () if record.get("run") == run]
    return _event(own, None, run=run, dag=dag, workspace=workspace, outcome=outcome, now=now)


def of_workspace(
    cost: Mapping[str, Any], *, run: str, dag: str, workspace: Subject, outcome: str, now: datetime
) -> Event:
    """The event of a Workspace that goes: every record that it still has, whichever run it is of."""
    claims, earlier = cost.get("claims") or (), cost.get("earlier")
    return _event(claims, earlier, run=run, dag=dag, workspace=workspace, outcome=outcome, now=now)


def refused(dag: str, run: str) -> Event:
    """The event of a run that ended before anything was asked for."""
    return {"version": VERSION, "run": run, "dag": dag, "outcome": "refused", "nodes": 0, "records": []}


def _event(
    claims: Any,
    earlier: Mapping[str, Any] | None,
    *,
    run: str,
    dag: str,
    workspace: Subject,
    outcome: str,
    now: datetime,
) -> Event:
    result: Event = {
        "version": VERSION,
        "run": run,
        "dag": dag,
        "workspace": workspace.name,
        "namespace": workspace.namespace,
        "uid": workspace.uid,
        "outcome": outcome,
        "at": timestamp(now),
        "machine": ", ".join(sorted({str(record.get("machine")) for record in claims})),
        "nodes": len({record.get("uid") for record in claims}),
        **records.total(claims, now, earlier),
        "records": [dict(record) for record in claims],
    }
    result.setdefault("unpriced", False)
    return {**result, "earlier": dict(earlier)} if earlier else result


def sentence(event: Event) -> str:
    """An event for a log."""
    priced = " (machines without a price are left out)" if event.get("unpriced") else ""
    return (
        f"{plural(event['nodes'], 'machine')}, {event['nodeSeconds']} node-seconds, "
        f"{event['wastedNodeSeconds']} of them wasted; {dollars(event['usd'])}{priced}."
    )
