"""When a cloud has no machines for a Workspace: try again by itself, but ever later, and say when.

KAITO asks for the same machines for ever and leaves the claims behind; here a run that was refused every choice has
let go of everything, and the next one is started after 5 minutes, then 10, 20, 40 and at most an hour. A new spec or a
rerun begins anew at once. Only the reason `CapacityUnavailable` trips the breaker: a missing right or a wrong config
does not pass with time.
"""

from __future__ import annotations

from include.reconcile import backoff
from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.status.conditions import (
    ConditionType,
    Phase,
    Reason,
    condition,
)
from include.workspace.status.runs import FOR_THE_SERVICE

FIRST_SECONDS, CAP_SECONDS = 300.0, 3600.0


def tripped(builder: DecisionBuilder) -> bool:
    """Whether this generation's run ended because the cloud has no machines."""
    resource_ready = condition(builder.status, ConditionType.RESOURCE_READY) or {}
    told = (
        resource_ready.get("status"),
        resource_ready.get("reason"),
        resource_ready.get("observedGeneration"),
    )
    return told == ("False", Reason.CAPACITY_UNAVAILABLE, builder.case.generation)


def wait(builder: DecisionBuilder) -> float | None:
    """Seconds until the next attempt, and the status that says so; None when capacity is not what is missing."""
    if not tripped(builder):
        return None
    retry = builder.retry
    if retry.get("run") != builder.run["id"]:
        _trip(builder)
    return backoff.wait(builder.retry, builder.case.now)


def _trip(builder: DecisionBuilder) -> None:
    """Count one more attempt that was refused, and take its verdict back: it is not the last."""
    before = builder.retry if builder.retry.get("reason") == Reason.CAPACITY_UNAVAILABLE else None
    sentence = str((condition(builder.status, ConditionType.RESOURCE_READY) or {}).get("message") or "")
    found = backoff.failed(before, builder.case.now, sentence, first=FIRST_SECONDS, cap=CAP_SECONDS)
    builder.note(retry={**found, "reason": str(Reason.CAPACITY_UNAVAILABLE), "run": builder.run["id"]})
    message = (
        f"The next attempt is at {found['after']}, after {found['failures']} without machines. {sentence}"
    )
    builder.reach(Phase.CAPACITY_AWAITED, message)


def service_only(builder: DecisionBuilder) -> bool:
    """Whether the next attempt has only the service to bring: the tuning is done and its adapter is published."""
    published = condition(builder.status, ConditionType.ADAPTER_PUBLISHED) or {}
    done = (published.get("status"), published.get("observedGeneration")) == ("True", builder.case.generation)
    return builder.run.get("cause") in FOR_THE_SERVICE or (
        builder.case.tunes and builder.case.serves and done
    )


def close(builder: DecisionBuilder) -> None:
    """The goal was reached: forget the attempts without machines, and what such a one left open."""
    builder.note(retry=None)
    if builder.case.tunes and not builder.says(ConditionType.WORKSPACE_SUCCEEDED):
        message = str((condition(builder.status, ConditionType.WORKSPACE_READY) or {}).get("message") or "")
        builder.condition(ConditionType.WORKSPACE_SUCCEEDED, True, Reason.SUCCEEDED, message)
        builder.note(state="Succeeded")
