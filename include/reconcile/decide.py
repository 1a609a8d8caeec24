"""The decision itself: which of the situations a Workspace is in, asked in this order, and who answers for it.

Foreign, deleted, paused, not judged yet, under way, over. Everything is level-triggered: the answer depends on what is
there now, never on what happened. It must never read the clock or change what it is given.
"""

from __future__ import annotations

from datetime import datetime

from include.reconcile import (
    admission,
    attempts,
    backoff,
    breaker,
    budget,
    canary,
    cost,
    idle,
    leftovers,
    mended,
    progress,
    promotion,
    release,
    retrain,
    revisions,
    service,
)
from include.reconcile.case import Case
from include.reconcile.decision import (
    AddFinalizer,
    Decision,
    Event,
    Fault,
    Object,
    Observed,
    ReconcileConfig,
)
from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.api import names
from include.workspace.status.conditions import ConditionType, Phase
from include.workspace.status.runs import ALIVE, FOR_THE_SERVICE, OVER, RunCause, RunState
from include.workspace.status.transitions import NORMAL, WARNING

MANAGED = "airflow"


def decide(workspace: Object, observed: Observed, now: datetime, config: ReconcileConfig) -> Decision:
    """What to do about one Workspace, from the Workspace as the cluster holds it and everything seen of it."""
    case = Case(workspace, observed, now, config)
    if observed.upstream and case.annotations.get(names.MANAGED_BY) != MANAGED:
        return _foreign(case)
    if case.meta.get("deletionTimestamp"):
        return release.decide(case)
    builder = DecisionBuilder(case)
    if case.paused:
        return _paused(builder)
    if not case.finalizer:
        builder.act(AddFinalizer(names.FINALIZER))
    cost.account(builder, busy=bool(builder.run) and builder.run.get("state") not in OVER)
    if message := budget.overspent(builder):
        return _overspent(builder, message)
    if not builder.run:
        retrain.look_at_its_run(builder)  # of the spec before: it may have ended while this one is refused
        return admission.first_sight(builder)
    return _with_run(builder)


def _foreign(case: Case) -> Decision:
    message = (
        f"{case.observed.upstream} runs in this cluster and works on this Workspace; Airflow leaves it alone. "
        f"Annotate it with {names.MANAGED_BY}={MANAGED} to hand it over."
    )
    return Decision("foreign", events=(Event(WARNING, "ManagedByUpstream", message, once="foreign"),))


def _paused(builder: DecisionBuilder) -> Decision:
    """Nothing is done; the status still tells when a service is lost."""
    service.mark_not_ready(builder)
    service.mark_nodes_not_ready(builder)
    message = f"Paused by the annotation {names.PAUSED}; nothing is started, repaired or released."
    builder.events.append(Event(NORMAL, "Paused", message, once="paused"))
    builder.actions.clear()
    return builder.decision("paused")


def _overspent(builder: DecisionBuilder, told: str) -> Decision:
    budget.stop(builder, told)
    service.worker_nodes(builder)
    return builder.decision("overspent")


def _with_run(builder: DecisionBuilder) -> Decision:
    run, case = builder.run, builder.case
    seen = case.observed.runs.get(run["id"], "unasked")
    if run["state"] == RunState.WAITING:
        return attempts.proceed(builder)
    told = case.verdict(case.status)
    if run["state"] == RunState.STARTED and told == RunState.SUCCESS:
        # What is left of the run makes nothing and takes nothing.
        builder.note(run={**run, "state": RunState.SUCCESS})
    elif run["state"] == RunState.STARTED:
        if seen is None and told not in OVER and not case.candidate:
            return attempts.proceed(builder)
        if seen is not None and seen not in OVER:
            return _under_way(builder)
        attempts.record_outcome(builder, seen)
    elif seen in ALIVE:
        return _under_way(builder)  # somebody cleared its tasks in Airflow
    elif told in OVER and told != run["state"]:
        builder.note(run={**run, "state": told})  # ... and that is how it ended
    if builder.run["rerun"] != case.rerun and not case.candidate:
        return _rerun(builder)
    return _finished(builder) if builder.run["state"] == RunState.SUCCESS else _failed(builder)


def _under_way(builder: DecisionBuilder) -> Decision:
    leftovers.delete_stale_pods(builder)
    service.mark_not_ready(builder, under_way=True)
    service.watch_machines(builder)
    leftovers.release_waiting(builder)
    progress.report(builder)
    service.worker_nodes(builder)
    revisions.record(builder)
    builder.look_again(progress.look_seconds(builder.status))
    return builder.decision("running")


def _rerun(builder: DecisionBuilder) -> Decision:
    if conflicts := admission.taken(builder.case):
        leftovers.release(builder)  # no run comes soon that could use what the last one left
        return _blocked(builder, conflicts)
    return attempts.again(
        builder, RunCause.RERUN, f"Started again on request ({names.RERUN}={builder.case.rerun})"
    )


def _blocked(builder: DecisionBuilder, found: list[Fault]) -> Decision:
    """Something of somebody else stands in the way: say so, keep what there is, look again later."""
    message = "; ".join(str(fault) for fault in found)
    if not builder.retry or (
        builder.retry.get("message") != message or backoff.wait(builder.retry, builder.case.now) <= 0
    ):
        builder.note(retry=backoff.failed(builder.retry, builder.case.now, message))
    service.mark_not_ready(builder)
    builder.look_again(backoff.wait(builder.retry, builder.case.now))
    builder.events.append(Event(WARNING, "NameTaken", message, once=message))
    return builder.decision("blocked")


def _failed(builder: DecisionBuilder) -> Decision:
    """Stays failed until a new spec or a rerun, unless a service is to come back or the cloud had no machines."""
    case, run = builder.case, builder.run
    if why := retrain.ended_badly(builder):
        return attempts.again(builder, RunCause.ROLLBACK, retrain.take_back(builder, why))
    leftovers.rollback_service(builder)
    leftovers.release(builder)
    service.mark_not_ready(builder)
    service.worker_nodes(builder)
    revisions.record(builder)
    if case.candidate:
        return builder.decision("failed")
    retrain.look_at_its_run(builder)
    pause = breaker.wait(builder)
    if run.get("cause") not in FOR_THE_SERVICE and pause is None:
        return _until_mended(builder)
    if conflicts := admission.taken(case):
        return _blocked(builder, conflicts)
    waiting = "repairing" if pause is None else "awaiting"
    pause = backoff.wait(builder.retry, case.now) if pause is None else pause
    if pause > 0:
        builder.look_again(pause)
        return builder.decision(waiting)
    return attempts.again(
        builder,
        RunCause.REPAIR if waiting == "repairing" or breaker.service_only(builder) else RunCause.CAPACITY,
    )


def _until_mended(builder: DecisionBuilder) -> Decision:
    """Stays failed until what it names is corrected, where it failed for that."""
    pause = mended.wait(builder)
    if pause is None or pause > 0:
        builder.look_again(pause)
        return builder.decision("failed")
    if conflicts := admission.taken(builder.case):
        return _blocked(builder, conflicts)
    return attempts.again(builder, RunCause.MENDED)


def _finished(builder: DecisionBuilder) -> Decision:
    """Stays finished; what only the run needed goes, and a service is kept true."""
    case = builder.case
    revisions.record(builder)
    leftovers.release(builder)
    _tuning_config(builder)
    retrain.look(builder)
    if not case.serves:
        retrain.begin_rollout(builder, running=False)
        builder.note(retry=None)
        if case.verdict(builder.status) != RunState.SUCCESS and builder.says(ConditionType.ADAPTER_PUBLISHED):
            builder.reach(Phase.SUCCEEDED, "The adapter is published")  # of a run that somebody went on with
        service.mark_machines_gone(builder)
        service.worker_nodes(builder)
        return builder.decision("succeeded")
    if idle.at_zero(builder):
        return _at_zero(builder)
    if moved := _another_version(builder):
        return moved
    gone = service.observe(builder)
    service.worker_nodes(builder)
    canary.look(builder, gone)
    if why := retrain.bake(builder, gone):
        return attempts.again(builder, RunCause.ROLLBACK, retrain.take_back(builder, why))
    if gone:
        return _repair(builder, "; ".join(gone))
    if service.answers(case):
        leftovers.scale_down(builder, service.replicas(case))
        breaker.close(builder)
        if _config_changed(builder):
            return attempts.again(builder, RunCause.INPUTS)
        if not promotion.current(builder) and idle.is_due(builder):
            return idle.scale_to_zero(builder)
    return builder.decision("ready")


def _another_version(builder: DecisionBuilder) -> Decision | None:
    """Roll the service to the version of the adapter that is wanted, if one is."""
    if not promotion.current(builder) or admission.taken(builder.case) or canary.begin(builder):
        return None
    rollout = retrain.begin_rollout(builder, running=True)
    return attempts.again(builder, *rollout) if rollout else None


def _at_zero(builder: DecisionBuilder) -> Decision:
    """Scaled to zero on purpose: nothing of it is missing, until it is to come back."""
    service.worker_nodes(builder)
    retrain.begin_rollout(builder, running=False)
    if not idle.should_scale_up(builder):
        return idle.keep_at_zero(builder)
    if conflicts := admission.taken(builder.case):
        return _blocked(builder, conflicts)
    return idle.scale_up(builder)


def _repair(builder: DecisionBuilder, what: str) -> Decision:
    if conflicts := admission.taken(builder.case):
        return _blocked(builder, conflicts)
    pause = backoff.wait(builder.retry, builder.case.now)
    if pause > 0:
        builder.look_again(pause)
        return builder.decision("repairing")
    return attempts.again(builder, RunCause.REPAIR, f"{what}: it is being brought back")


def _config_changed(builder: DecisionBuilder) -> bool:
    """Whether the ConfigMap that the live service was started with says something else now."""
    return _digest_changed(builder, str((builder.case.workspace.get("inference") or {}).get("config") or ""))


def _tuning_config(builder: DecisionBuilder) -> None:
    """A training config that changes after the end changes nothing; it is said once."""
    name = str((builder.case.workspace.get("tuning") or {}).get("config") or "")
    if not _digest_changed(builder, name):
        return
    builder.note(
        inputs={**(builder.status.get("inputs") or {}), name: builder.case.observed.config_maps[name]}
    )
    message = f"ConfigMap {name} changed after the tuning; set {names.RERUN} to a new value to tune again."
    builder.events.append(Event(NORMAL, "ConfigChanged", message))


def _digest_changed(builder: DecisionBuilder, name: str) -> bool:
    was = (builder.status.get("inputs") or {}).get(name)
    now = builder.case.observed.config_maps.get(name)
    return bool(name and was and now and was != now)
