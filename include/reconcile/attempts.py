"""Runs of a generation: begin one, wait until nothing of an earlier one is in its way, settle how one ended.

`status.run` is written before the run is started, so that a shell that dies in between leaves a run that Airflow does
not know: the next look starts that very run. At most one run of a Workspace is under way.
"""

from __future__ import annotations

from typing import Any

from include.reconcile import backoff, breaker, leftovers, progress, revisions, service
from include.reconcile.case import (
    CAPACITY,
    FAILED,
    FOR_THE_SERVICE,
    FOUND,
    INPUTS,
    OVER,
    REPAIR,
    RERUN,
    SERVE,
    SPEC,
    STARTED,
    SUCCESS,
    WAITING,
    WAKE,
)
from include.reconcile.contract import Decision, StartRun
from include.reconcile.decision_builder import Draft
from include.workspace.api import names
from include.workspace.status.conditions import ConditionType, Phase

WHY = {
    SPEC: "Accepted",
    RERUN: "Started again on request",
    REPAIR: "Bringing the service back",
    INPUTS: "Rolling the service: inference.config changed",
    WAKE: "Waking the service",
    CAPACITY: "Trying again: the cloud had no machines",
}
SUPERSEDING_SECONDS = 1.0


def begin(draft: Draft, *, cause: str, attempt: int, message: str = "") -> Decision:
    """Start the attempt-th run of this generation, now or as soon as nothing of another run is left."""
    case = draft.case
    dag = SERVE if cause in FOR_THE_SERVICE else case.home_dag
    run_id = names.attempt_run_id(case.workspace, attempt)
    run: dict[str, Any] = {
        "id": run_id,
        "dag": dag,
        "attempt": attempt,
        "generation": case.generation,
        "rerun": case.rerun,
        "url": case.surroundings.run_url(dag, run_id),
        "cause": cause,
        "state": WAITING,
    }
    known = {name: digest for name, digest in case.observed.config_maps.items() if digest is not None}
    draft.note(run=run, inputs=known or None, idle=None)
    if cause not in FOR_THE_SERVICE:
        draft.note(progress=None)
    if cause not in FOR_THE_SERVICE | {CAPACITY}:
        draft.note(retry=None)
    draft.reach(Phase.ACCEPTED, message or WHY[cause])
    return proceed(draft)


def proceed(draft: Draft) -> Decision:
    """Start the recorded run unless pods of another run are still there: never two of them at work."""
    run = dict(draft.run)
    revisions.record(draft)
    service.admit_loss(draft)
    service.lost_nodes(draft)  # a machine without its node would keep the next run waiting
    if leftovers.supersede(draft):
        draft.look_again(SUPERSEDING_SECONDS)
        return draft.decision("superseding")
    draft.note(run={**run, "state": STARTED})
    conf = {"workspace": {"metadata": {"name": draft.case.name, "namespace": draft.case.namespace}}}
    draft.act(StartRun(run["dag"], run["id"], conf))
    draft.look_again(progress.look_seconds(draft.status))
    return draft.decision("starting")


def follow(draft: Draft, dag: str, run_id: str) -> Decision:
    """Record the run that made this Workspace, so that none is started beside it."""
    run = {
        "id": run_id,
        "dag": dag,
        "attempt": 1,
        "generation": draft.case.generation,
        "rerun": draft.case.rerun,
        "url": draft.case.surroundings.run_url(dag, run_id),
        "cause": FOUND,
        "state": STARTED,
    }
    draft.note(run=run)
    draft.reach(Phase.ACCEPTED, f"Started by Airflow run {run_id}")
    revisions.record(draft)
    draft.look_again(progress.look_seconds(draft.status))
    return draft.decision("running")


def adopt(draft: Draft, cause: str) -> Decision:
    """Record the unknown run by which a generation was finished, so that the next one has a number."""
    case = draft.case
    run_id = names.attempt_run_id(case.workspace, 1)
    run = {
        "id": run_id,
        "dag": case.home_dag,
        "attempt": 1,
        "generation": case.generation,
        "rerun": case.rerun,
        "cause": cause,
        "state": case.verdict(case.status),
    }
    draft.note(run=run)
    revisions.record(draft)
    return draft.decision("adopting")


def settle(draft: Draft, airflow_state: str | None) -> None:
    """Latch how a run ended: what its tasks told counts, then what Airflow and the cluster know."""
    run = dict(draft.run)
    told = draft.case.verdict(draft.status)
    if told not in OVER:
        told = _derived(draft, airflow_state)
    draft.note(run={**run, "state": told})
    if told == FAILED and run.get("cause") in FOR_THE_SERVICE and not breaker.tripped(draft):
        draft.note(retry=backoff.failed(draft.retry, draft.case.now, "the service could not be brought back"))


def _derived(draft: Draft, airflow_state: str | None) -> str:
    """The verdict over a run that ended without telling one."""
    run = draft.run
    if airflow_state == SUCCESS:
        if draft.case.serves and service.answers(draft.case):
            draft.reach(Phase.INFERENCE_READY, "The service is ready")
            draft.reach(Phase.SUCCEEDED, "The service is ready")
            return SUCCESS
        if not draft.case.serves and draft.says(ConditionType.ADAPTER_PUBLISHED):
            draft.reach(Phase.SUCCEEDED, "The adapter is published")
            return SUCCESS
        message = f"Airflow run {run['id']} ended without telling its result"
    else:
        message = f"Airflow run {run['id']} failed; its log says why"
    draft.reach(Phase.FAILED, message)
    return FAILED


def again(draft: Draft, cause: str, message: str = "") -> Decision:
    """Start the next attempt of this generation."""
    return begin(draft, cause=cause, attempt=int(draft.run.get("attempt") or 1) + 1, message=message)
