"""A Workspace whose budget is spent is stopped, through the cluster: its run meets the fence, what costs goes.

It stays stopped until its budget is raised. What was made and costs nothing (checkpoints, a pushed adapter) stays.
Only what was really spent stops anything, never an estimate.
"""

from __future__ import annotations

from include.ledger import budget, records
from include.reconcile import idle, leftovers, service
from include.reconcile.cost import limit_of
from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.api import names
from include.workspace.status.conditions import Phase
from include.workspace.status.runs import RunState


def overspent(builder: DecisionBuilder) -> str:
    """Why this Workspace must be stopped, "" when it need not: within its budget, or nothing of it goes on."""
    case = builder.case
    cost = builder.status.get("cost")
    retrained = float((builder.status.get("retrain") or {}).get("usd") or 0.0)
    message = budget.spent_all(limit_of(case, cost), records.spent(cost, case.now) + retrained)
    if not message:
        return ""
    done = RunState.SUCCESS in (case.verdict(builder.status), builder.run.get("state"))
    return "" if done and not case.serves else message


def stop(builder: DecisionBuilder, why: str) -> None:
    """Let nothing of the Workspace go on that costs, and say why; safe to repeat at each look."""
    case = builder.case
    message = f"{why} Raise the annotation {names.BUDGET}, then set {names.RERUN} to a new value to go on."
    builder.reach(Phase.BUDGET_EXCEEDED, message)
    if builder.run and builder.run.get("state") != RunState.FAILED:
        builder.note(run={**builder.run, "state": RunState.FAILED}, retry=None)
    if case.stateful_set is not None:
        builder.delete("StatefulSet", case.stateful_set, "the budget is spent")
    leftovers.release(builder)
    if not case.service_stands:
        idle.machines_go(builder, "the budget is spent")
    service.mark_not_ready(builder)
