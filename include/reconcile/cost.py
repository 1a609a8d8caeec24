"""What a Workspace's machines have cost, kept in `status.cost`.

The sums are as of `at`, so that an idle service does not need a write at each look. A run that is over without having
said what its tuning came to is settled here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.contracts.purpose import Purpose
from include.ledger import records
from include.ledger.machines import machines
from include.reconcile.backoff import moment
from include.reconcile.case import Case
from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.api import names
from include.workspace.api.annotations import budget_of
from include.workspace.status.conditions import ConditionType
from include.workspace.status.runs import OVER, RunState

#: How old the sums may be while a run is under way, and while a service has machines: those are looked at every five
#: minutes (the resync), and each of these looks brings the sums up to date.
FRESH_SECONDS, IDLE_SECONDS = 60.0, 240.0


def account(builder: DecisionBuilder, *, busy: bool) -> None:
    """Bring `status.cost` up to date when machines came, went or turned to work, or when its sums are old."""
    case = builder.case
    old = builder.status.get("cost") or {}
    pods = [*case.run_pods, *case.serving_pods]
    seen = machines(case.observed.pools.machines, pods)
    found = records.account(
        old, seen, case.now, case.config.price_of, case.observed.pools.unregistered, case.observed.ended
    )
    limit = limit_of(case, old)
    if not found and limit is None:
        return
    found = _with_outcomes(builder, found)
    if limit is not None:
        found["budgetUsd"] = limit
    if not _worth_writing(case, old, found, FRESH_SECONDS if busy else IDLE_SECONDS):
        return
    builder.note(cost=found)


def limit_of(case: Case, cost: Mapping[str, Any] | None) -> float | None:
    """The budget in US dollars, None without one; a text that cannot be read leaves the one that was read last."""
    if names.BUDGET not in case.annotations:
        return None
    known = (cost or {}).get("budgetUsd")
    read = budget_of(case.annotations)
    return read if read is not None or known is None else float(known)


def _with_outcomes(builder: DecisionBuilder, found: dict[str, Any]) -> dict[str, Any]:
    """Tunings whose run is over have come to something or to nothing; a run's own last task says the same."""
    run = builder.status.get("run") or {}
    current = names.run_id_label(str(run.get("id") or "none"))
    over = run.get("state") in OVER
    came_off = builder.says(ConditionType.ADAPTER_PUBLISHED)
    outcomes = {}
    for record in found.get("claims") or ():
        if record["purpose"] != Purpose.TUNING or "outcome" in record or "until" not in record:
            continue
        if record["run"] != current:
            outcomes[record["run"]] = RunState.FAILED
        elif over:
            outcomes[current] = RunState.SUCCESS if came_off else RunState.FAILED
    for label, outcome in outcomes.items():
        now = builder.case.now.replace(microsecond=0)
        found = records.summed(records.with_outcome(found, label, outcome), now, found.get("earlier"))
    return found


def _worth_writing(case: Case, old: Mapping[str, Any], new: Mapping[str, Any], fresh_seconds: float) -> bool:
    at = moment(old.get("at"))
    if old.get("budgetUsd") != new.get("budgetUsd") or not at:
        return new != old
    if not records.same(old.get("claims") or (), new.get("claims") or ()):
        return True
    open_ones = any("until" not in record for record in new.get("claims") or ())
    return bool(open_ones) and (case.now - at).total_seconds() >= fresh_seconds
