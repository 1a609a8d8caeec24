"""When a cloud has no machines for a Workspace: try again by itself, but ever later, and say when.

KAITO asks for the same machines for ever and leaves the claims behind; here a run that was refused every choice has
let go of everything, and the next one is started after 5 minutes, then 10, 20, 40 and at most an hour. A new spec or a
rerun begins anew at once. Only the reason `CapacityUnavailable` trips the breaker: a missing right or a wrong config
does not pass with time.
"""

from __future__ import annotations

from include.reconcile import backoff
from include.reconcile.case import FOR_THE_SERVICE
from include.reconcile.decision_builder import Draft
from include.workspace.status.conditions import (
    ConditionType,
    Phase,
    Reason,
    condition,
)

FIRST_SECONDS, CAP_SECONDS = 300.0, 3600.0


def tripped(draft: Draft) -> bool:
    """Whether this generation's run ended because the cloud has no machines."""
    found = condition(draft.status, ConditionType.RESOURCE_READY) or {}
    told = (found.get("status"), found.get("reason"), found.get("observedGeneration"))
    return told == ("False", Reason.CAPACITY_UNAVAILABLE, draft.case.generation)


def wait(draft: Draft) -> float | None:
    """Seconds until the next attempt, and the status that says so; None when capacity is not what is missing."""
    if not tripped(draft):
        return None
    retry = draft.retry
    if retry.get("run") != draft.run["id"]:
        _trip(draft)
    return backoff.wait(draft.retry, draft.case.now)


def _trip(draft: Draft) -> None:
    """Count one more attempt that was refused, and take its verdict back: it is not the last."""
    before = draft.retry if draft.retry.get("reason") == Reason.CAPACITY_UNAVAILABLE else None
    told = str((condition(draft.status, ConditionType.RESOURCE_READY) or {}).get("message") or "")
    found = backoff.failed(before, draft.case.now, told, first=FIRST_SECONDS, cap=CAP_SECONDS)
    draft.note(retry={**found, "reason": str(Reason.CAPACITY_UNAVAILABLE), "run": draft.run["id"]})
    message = f"The next attempt is at {found['after']}, after {found['failures']} without machines. {told}"
    draft.reach(Phase.CAPACITY_AWAITED, message)


def service_only(draft: Draft) -> bool:
    """Whether the next attempt has only the service to bring: the tuning is done and its adapter is published."""
    published = condition(draft.status, ConditionType.ADAPTER_PUBLISHED) or {}
    done = (published.get("status"), published.get("observedGeneration")) == ("True", draft.case.generation)
    return draft.run.get("cause") in FOR_THE_SERVICE or (draft.case.tunes and draft.case.serves and done)


def close(draft: Draft) -> None:
    """The goal was reached: forget the attempts without machines, and what such a one left open."""
    draft.note(retry=None)
    if draft.case.tunes and not draft.says(ConditionType.WORKSPACE_SUCCEEDED):
        told = str((condition(draft.status, ConditionType.WORKSPACE_READY) or {}).get("message") or "")
        draft.condition(ConditionType.WORKSPACE_SUCCEEDED, True, Reason.SUCCEEDED, told)
        draft.note(state="Succeeded")
