"""A service that nobody asks for a while is scaled to zero where its Workspace wishes so, and its machines go.

At zero is what `status.idle` says for the run that brought the service: then nothing of it is missing, and nothing
is repaired. It must never scale a service to zero that is answering, that does not tell its use, or that has not been
ready for the whole time.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from include.contracts.plural import plural
from include.ledger import unregistered
from include.reconcile import attempts, backoff, service
from include.reconcile.case import SERVING, Case, ended
from include.reconcile.decision import (
    Activity,
    Decision,
    Event,
    Object,
    ScaleToZero,
)
from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.api import names
from include.workspace.api.annotations import idle_seconds
from include.workspace.api.dialect import serves
from include.workspace.status.conditions import (
    ConditionType,
    Reason,
    condition,
    timestamp,
)
from include.workspace.status.runs import OVER, RunCause, RunState
from include.workspace.status.transitions import WARNING

T, R = ConditionType, Reason
#: A service that does not tell its use is asked again after that long, in seconds.
UNREADABLE_SECONDS = 60.0
#: Between two looks at counters, as a part of the idle time: a service goes to zero that much late, never early.
PACE = 0.25
#: How often machines that are going are looked for, in seconds.
RELEASE_SECONDS = 10.0


def asks_for_metrics(workspace: Object, now: datetime) -> bool:
    """Whether a decision about this Workspace needs to know how its service is used."""
    status, meta = workspace.get("status") or {}, workspace["metadata"]
    if not serves(workspace) or meta.get("deletionTimestamp") or _wanted(meta) is None:
        return False
    idle = status.get("idle") or {}
    same = idle.get("run") == (status.get("run") or {}).get("id") and idle.get("minutes") == _given(meta)
    if idle.get("scaledToZero") and same:
        return False
    return not same or _left(idle, now) <= 0


def asks_for_pools(workspace: Object, stateful_set: Object | None) -> bool:
    """Whether a decision needs to see the pools that do not show at every look.

    Where a service is at zero or over its budget, until they are gone; where it does not answer, since they may be the
    cause; and after any run of which the ledger has a machine that never joined.
    """
    status = workspace.get("status") or {}
    run, idle = status.get("run") or {}, status.get("idle") or {}
    if run.get("state") in OVER and unregistered.expected(status.get("cost")):
        return True
    if (
        workspace["metadata"].get("deletionTimestamp")
        or not serves(workspace)
        or run.get("state") not in OVER
    ):
        return False
    if idle.get("scaledToZero") and idle.get("run") == run.get("id"):
        return going_down(status)
    workspace_ready = condition(status, T.WORKSPACE_READY) or {}
    if workspace_ready.get("reason") == R.BUDGET_EXCEEDED:
        claims = (status.get("cost") or {}).get("claims") or ()
        return any(r.get("purpose") == SERVING and "until" not in r for r in claims)
    if run.get("state") != RunState.SUCCESS:
        return False
    ready = ((stateful_set or {}).get("status") or {}).get("readyReplicas") or 0
    return bool(ready < (_replicas(stateful_set) or 1))


def going_down(status: Mapping[str, Any]) -> bool:
    """Whether a service is at zero whose machines may still be there; a cloud's do not tell when they are gone."""
    idle = status.get("idle") or {}
    return bool(idle.get("scaledToZero") and not idle.get("released"))


def is_due(builder: DecisionBuilder) -> bool:
    """Whether a service that answers has been idle for as long as its Workspace asks; notes when to look again."""
    case = builder.case
    try:
        wanted = idle_seconds(case.annotations)
    except ValueError as error:
        builder.events.append(Event(WARNING, "ScaleToZeroRefused", f"{error}.", once=str(error)))
        wanted = None
    if wanted is None:
        builder.note(idle=None)
        return False
    known = builder.status.get("idle") or {}
    base = {"minutes": _given(case.meta), "run": builder.run["id"]}
    if any(known.get(key) != value for key, value in base.items()):
        known = {}
    if known.get("after") and (left := _left(known, case.now)) > 0:
        builder.look_again(left)
        return False
    activity = case.observed.activity
    if activity is None:
        _unknown(builder, base, wanted, again=bool(known.get("message")))
        return False
    since = _since(case, activity, known)
    left = wanted - (case.now - since).total_seconds()
    told = {**base, "since": timestamp(since)}
    if left <= 0:
        builder.note(idle=told)
        return True
    if activity.last is None:
        told["answered"] = activity.answered
        left = min(left, max(1.0, wanted * PACE))
    builder.note(idle={**told, "after": _after(case.now, left)})
    builder.look_again(left)
    return False


def _unknown(builder: DecisionBuilder, base: Mapping[str, Any], wanted: float, *, again: bool) -> None:
    pause = max(1.0, min(wanted, UNREADABLE_SECONDS))
    message = "Its servers do not tell how they are used (/metrics on their port), so it counts as in use"
    builder.note(idle={**base, "message": message, "after": _after(builder.case.now, pause)})
    builder.look_again(pause)
    if again:
        sentence = f"{message}; {names.SCALE_TO_ZERO}={base['minutes']} has no effect."
        builder.events.append(Event(WARNING, "IdlenessUnknown", sentence, once=sentence))


def _since(case: Case, activity: Activity, known: Mapping[str, Any]) -> datetime:
    """Since when nobody has asked; never before the service was ready."""
    if activity.in_flight > 0:
        return case.now
    moments = [backoff.moment((condition(case.status, T.INFERENCE_READY) or {}).get("lastTransitionTime"))]
    if moments[0] is None or (condition(case.status, T.INFERENCE_READY) or {}).get("status") != "True":
        return case.now
    for pod in case.serving_pods:
        told = (pod.get("status") or {}).get("conditions") or ()
        moments += [backoff.moment(c.get("lastTransitionTime")) for c in told if c.get("type") == "Ready"]
    if activity.last is not None:
        moments.append(datetime.fromtimestamp(min(activity.last, case.now.timestamp()), UTC))
    elif known.get("answered") == activity.answered:
        moments.append(backoff.moment(known.get("since")))
    else:
        return case.now
    return min(case.now, max(moment for moment in moments if moment is not None))


def scale_to_zero(builder: DecisionBuilder) -> Decision:
    """Say that the service is scaled to zero, and begin to take it down."""
    known: Mapping[str, Any] = builder.status["idle"]
    builder.note(idle={**known, "scaledToZero": timestamp(builder.case.now)})
    return keep_at_zero(builder)


def at_zero(builder: DecisionBuilder) -> bool:
    """Whether the service was scaled to zero on purpose, and nobody has brought it back by other ways since."""
    idle = builder.status.get("idle") or {}
    if not idle.get("scaledToZero") or idle.get("run") != builder.run.get("id"):
        return False
    return not (idle.get("released") and _replicas(builder.case.stateful_set))


def should_scale_up(builder: DecisionBuilder) -> bool:
    """Whether the annotation by which the service was scaled to zero has gone or changed."""
    return bool(builder.status["idle"].get("minutes") != _given(builder.case.meta))


def scale_up(builder: DecisionBuilder) -> Decision:
    """Start the run that brings machines and service back."""
    message = f"{names.SCALE_TO_ZERO} was changed: the service is started again"
    builder.condition(T.INFERENCE_READY, False, R.INFERENCE_PENDING, message)
    return attempts.again(builder, RunCause.WAKE, message)


def keep_at_zero(builder: DecisionBuilder) -> Decision:
    """Take down what is still there of a service at zero, machines last."""
    case, idle = builder.case, builder.status["idle"]
    message = (
        f"Nobody asked for {plural(idle['minutes'], 'minute')}, so it is scaled to zero ({names.SCALE_TO_ZERO}). "
        "To start it again, change or remove that annotation"
    )
    summary = (T.WORKSPACE_READY,) if case.tunes else (T.WORKSPACE_READY, T.WORKSPACE_SUCCEEDED)
    for kind in (T.INFERENCE_READY, *summary):
        builder.condition(kind, False, R.SCALED_TO_ZERO, message)
    service.tuned_all_the_same(builder, message)
    service.mark_nodes_not_ready(builder)  # until its pods have gone, its machines are there
    if not case.tunes:
        builder.note(state="NotReady")
    builder.note(retry=None)
    found = case.stateful_set
    if found is not None and _replicas(found):
        meta = found["metadata"]
        builder.act(ScaleToZero(case.name, case.namespace, str(meta.get("uid") or "")))
    elif all(ended(pod) for pod in case.serving_pods):
        if not machines_go(builder, "its service is scaled to zero"):
            _released(builder)
        elif not case.live_pools() and case.pools:
            _machines_released(builder)  # on their way out: nobody may count on them
    if not builder.status["idle"].get("released"):
        builder.look_again(RELEASE_SECONDS)
    return builder.decision("idle")


def machines_go(builder: DecisionBuilder, why: str) -> bool:
    """Delete the serving machines, whoever makes them; True while some are there, or while that is not known."""
    case = builder.case
    pools = [pool for pool in case.pools if pool.purpose == SERVING]
    for pool in pools:
        builder.delete_pool(pool, why)
    return bool(pools) or not case.observed.pools.complete


def _released(builder: DecisionBuilder) -> None:
    idle = builder.status["idle"]
    if idle.get("released"):
        return
    builder.note(idle={**idle, "released": timestamp(builder.case.now)})
    _machines_released(builder)


def _machines_released(builder: DecisionBuilder) -> None:
    if not builder.case.machine:
        return  # BYO nodes stay, and stay ready
    for kind in (T.NODE_CLAIM_READY, T.NODES_READY, T.RESOURCE_READY):
        if condition(builder.status, kind):  # whatever it said of machines that are gone now
            builder.condition(kind, False, R.NODES_RELEASED, "The machines were released")


def _given(meta: Mapping[str, Any]) -> str | None:
    return (meta.get("annotations") or {}).get(names.SCALE_TO_ZERO)


def _wanted(meta: Mapping[str, Any]) -> float | None:
    try:
        return idle_seconds(meta.get("annotations") or {})
    except ValueError:
        return None


def _replicas(stateful_set: Object | None) -> int:
    wanted = ((stateful_set or {}).get("spec") or {}).get("replicas")
    return int(1 if wanted is None else wanted) if stateful_set is not None else 0


def _left(idle: Mapping[str, Any], now: datetime) -> float:
    after = backoff.moment(idle.get("after"))
    return (after - now).total_seconds() if after else 0.0


def _after(now: datetime, seconds: float) -> str:
    """The moment, not before so many seconds have passed: timestamps leave out fractions."""
    return timestamp(now + timedelta(seconds=seconds + 1))
