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
    cost,
    idle,
    leftovers,
    progress,
    release,
    revisions,
    service,
)
from include.reconcile.case import (
    CAPACITY,
    FOR_THE_SERVICE,
    INPUTS,
    OVER,
    REPAIR,
    RERUN,
    STARTED,
    SUCCESS,
    WAITING,
    Case,
    node_of,
)
from include.reconcile.contract import AddFinalizer, Decision, Event, Fault, Object, Observed, Surroundings
from include.reconcile.decision_builder import Draft
from include.workspace.api import names
from include.workspace.status.transitions import NORMAL, WARNING

MANAGED = "airflow"


def decide(workspace: Object, observed: Observed, now: datetime, surroundings: Surroundings) -> Decision:
    """What to do about one Workspace, from the Workspace as the cluster holds it and everything seen of it."""
    case = Case(workspace, observed, now, surroundings)
    if observed.upstream and case.annotations.get(names.MANAGED_BY) != MANAGED:
        return _foreign(case)
    if case.meta.get("deletionTimestamp"):
        return release.decide(case)
    draft = Draft(case)
    if case.paused:
        return _paused(draft)
    if not case.finalizer:
        draft.act(AddFinalizer(names.FINALIZER))
    cost.account(draft, busy=bool(draft.run) and draft.run.get("state") not in OVER)
    if told := budget.overspent(draft):
        return _overspent(draft, told)
    if not draft.run:
        return admission.first_sight(draft)
    return _with_run(draft)


def _foreign(case: Case) -> Decision:
    message = (
        f"{case.observed.upstream} runs in this cluster and works on this Workspace; Airflow leaves it alone. "
        f"Annotate it with {names.MANAGED_BY}={MANAGED} to hand it over."
    )
    return Decision("foreign", events=(Event(WARNING, "ManagedByUpstream", message, once="foreign"),))


def _paused(draft: Draft) -> Decision:
    """Nothing is done; the status still tells when a service is lost."""
    service.admit_loss(draft)
    message = f"Paused by the annotation {names.PAUSED}; nothing is started, repaired or released."
    draft.events.append(Event(NORMAL, "Paused", message, once="paused"))
    draft.actions.clear()
    return draft.decision("paused")


def _overspent(draft: Draft, told: str) -> Decision:
    budget.stop(draft, told)
    _worker_nodes(draft)
    return draft.decision("overspent")


def _with_run(draft: Draft) -> Decision:
    run, case = draft.run, draft.case
    seen = case.observed.runs.get(run["id"], "unasked")
    if run["state"] == WAITING:
        return attempts.proceed(draft)
    told = case.verdict(case.status)
    if run["state"] == STARTED and told == SUCCESS:
        draft.note(run={**run, "state": SUCCESS})  # what is left of the run makes nothing and takes nothing
    elif run["state"] == STARTED:
        if seen is None and told not in OVER:
            return attempts.proceed(draft)
        if seen is not None and seen not in OVER:
            return _under_way(draft)
        attempts.settle(draft, seen)
    elif seen in ("queued", "running"):
        return _under_way(draft)  # somebody cleared its tasks in Airflow
    elif told in OVER and told != run["state"]:
        draft.note(run={**run, "state": told})  # ... and that is how it ended
    if draft.run["rerun"] != case.rerun:
        return _rerun(draft)
    return _finished(draft) if draft.run["state"] == SUCCESS else _failed(draft)


def _under_way(draft: Draft) -> Decision:
    leftovers.strays(draft)
    service.admit_loss(draft)
    progress.report(draft)
    _worker_nodes(draft)
    revisions.record(draft)
    draft.look_again(progress.look_seconds(draft.status))
    return draft.decision("running")


def _rerun(draft: Draft) -> Decision:
    if found := admission.taken(draft.case):
        leftovers.release(draft)  # no run comes soon that could use what the last one left
        return _blocked(draft, found)
    return attempts.again(draft, RERUN, f"Started again on request ({names.RERUN}={draft.case.rerun})")


def _blocked(draft: Draft, found: list[Fault]) -> Decision:
    """Something of somebody else stands in the way: say so, keep what there is, look again later."""
    message = "; ".join(str(fault) for fault in found)
    if not draft.retry or (
        draft.retry.get("message") != message or backoff.wait(draft.retry, draft.case.now) <= 0
    ):
        draft.note(retry=backoff.failed(draft.retry, draft.case.now, message))
    service.admit_loss(draft)
    draft.look_again(backoff.wait(draft.retry, draft.case.now))
    draft.events.append(Event(WARNING, "NameTaken", message, once=message))
    return draft.decision("blocked")


def _failed(draft: Draft) -> Decision:
    """Stays failed until a new spec or a rerun, unless a service is to come back or the cloud had no machines."""
    case, run = draft.case, draft.run
    leftovers.withdraw(draft)
    leftovers.release(draft)
    service.admit_loss(draft)
    _worker_nodes(draft)
    revisions.record(draft)
    pause = breaker.wait(draft)
    if run.get("cause") not in FOR_THE_SERVICE and pause is None:
        return draft.decision("failed")
    if found := admission.taken(case):
        return _blocked(draft, found)
    waiting = "repairing" if pause is None else "awaiting"
    pause = backoff.wait(draft.retry, case.now) if pause is None else pause
    if pause > 0:
        draft.look_again(pause)
        return draft.decision(waiting)
    return attempts.again(
        draft, REPAIR if waiting == "repairing" or breaker.service_only(draft) else CAPACITY
    )


def _finished(draft: Draft) -> Decision:
    """Stays finished; what only the run needed goes, and a service is kept true."""
    case = draft.case
    revisions.record(draft)
    leftovers.release(draft)
    _tuning_config(draft)
    if not case.serves:
        draft.note(retry=None)
        service.admit_release(draft)
        _worker_nodes(draft)
        return draft.decision("succeeded")
    if idle.asleep(draft):
        return _asleep(draft)
    gone = service.observe(draft)
    _worker_nodes(draft)
    if gone:
        return _repair(draft, "; ".join(gone))
    if service.answers(case):
        leftovers.surplus(draft, service.replicas(case))
        breaker.close(draft)
        if _config_changed(draft):
            return attempts.again(draft, INPUTS)
        if idle.over(draft):
            return idle.fall_asleep(draft)
    return draft.decision("ready")


def _asleep(draft: Draft) -> Decision:
    """Scaled to zero on purpose: nothing of it is missing, until it is woken."""
    _worker_nodes(draft)
    if not idle.woken(draft):
        return idle.stay_asleep(draft)
    if found := admission.taken(draft.case):
        return _blocked(draft, found)
    return idle.wake(draft)


def _repair(draft: Draft, what: str) -> Decision:
    if found := admission.taken(draft.case):
        return _blocked(draft, found)
    pause = backoff.wait(draft.retry, draft.case.now)
    if pause > 0:
        draft.look_again(pause)
        return draft.decision("repairing")
    return attempts.again(draft, REPAIR, f"{what}: it is being brought back")


def _config_changed(draft: Draft) -> bool:
    """Whether the ConfigMap that the live service was started with says something else now."""
    return _digest_changed(draft, str((draft.case.workspace.get("inference") or {}).get("config") or ""))


def _tuning_config(draft: Draft) -> None:
    """A training config that changes after the end changes nothing; it is said once."""
    name = str((draft.case.workspace.get("tuning") or {}).get("config") or "")
    if not _digest_changed(draft, name):
        return
    draft.note(inputs={**(draft.status.get("inputs") or {}), name: draft.case.observed.config_maps[name]})
    message = f"ConfigMap {name} changed after the tuning; set {names.RERUN} to a new value to tune again."
    draft.events.append(Event(NORMAL, "ConfigChanged", message))


def _digest_changed(draft: Draft, name: str) -> bool:
    was = (draft.status.get("inputs") or {}).get(name)
    now = draft.case.observed.config_maps.get(name)
    return bool(name and was and now and was != now)


def _worker_nodes(draft: Draft) -> None:
    """The nodes of our machines, Ready or not, as KAITO lists them (contract 3.4)."""
    case = draft.case
    if case.claims_machines:
        found = {node_of(c) for purpose in ("tuning", "serving") for c in case.live_claims(purpose)}
        wanted = sorted(found - {""})
        if wanted != list(draft.status.get("workerNodes") or ()):
            draft.note(workerNodes=wanted)
