"""A Workspace whose budget is spent is stopped, through the cluster: its run meets the fence, what costs goes.

It stays stopped until its budget is raised. What was made and costs nothing (checkpoints, a pushed adapter) stays.
Only what was really spent stops anything, never an estimate.
"""

from __future__ import annotations

from include.ledger import budget, records
from include.reconcile import idle, leftovers, service
from include.reconcile.case import FAILED, SUCCESS
from include.reconcile.cost import limit_of
from include.reconcile.decision_builder import Draft
from include.workspace.api import names
from include.workspace.status.conditions import Phase


def overspent(draft: Draft) -> str:
    """Why this Workspace must be stopped, "" when it need not: within its budget, or nothing of it goes on."""
    case = draft.case
    cost = draft.status.get("cost")
    told = budget.spent_all(limit_of(case, cost), records.spent(cost, case.now))
    if not told:
        return ""
    done = SUCCESS in (case.verdict(draft.status), draft.run.get("state"))
    return "" if done and not case.serves else told


def stop(draft: Draft, why: str) -> None:
    """Let nothing of the Workspace go on that costs, and say why; safe to repeat at each look."""
    case = draft.case
    message = f"{why} Raise the annotation {names.BUDGET}, then set {names.RERUN} to a new value to go on."
    draft.reach(Phase.BUDGET_EXCEEDED, message)
    if draft.run and draft.run.get("state") != FAILED:
        draft.note(run={**draft.run, "state": FAILED}, retry=None)
    if case.stateful_set is not None:
        draft.delete("StatefulSet", case.stateful_set, "the budget is spent")
    leftovers.release(draft)
    if not case.service_stands:
        idle.machines_go(draft, "the budget is spent")
    service.admit_loss(draft)
