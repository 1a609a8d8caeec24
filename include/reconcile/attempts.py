"""Runs of a generation: begin one, wait until nothing of an earlier one is in its way, record how one ended.

`status.run` is written before the run is started, so that a shell that dies in between leaves a run that Airflow does
not know: the next look starts that very run. At most one run of a Workspace is under way.
"""

from __future__ import annotations

from typing import Any

from include.reconcile import backoff, breaker, leftovers, progress, revisions, service
from include.reconcile.case import SERVE
from include.reconcile.decision import Decision, StartRun
from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.api import names
from include.workspace.status.conditions import ConditionType, Phase
from include.workspace.status.runs import FOR_THE_SERVICE, OVER, RunCause, RunState

WHY = {
    RunCause.SPEC: "Accepted",
    RunCause.RERUN: "Started again on request",
    RunCause.REPAIR: "Bringing the service back",
    RunCause.INPUTS: "Rolling the service: inference.config changed",
    RunCause.WAKE: "Scaling the service up from zero",
    RunCause.CAPACITY: "Trying again: the cloud had no machines",
    RunCause.PROMOTE: "Rolling out another version of the adapter",
    RunCause.ROLLBACK: "Going back to the last good version of the adapter",
    RunCause.MENDED: "Trying again: a Secret or ConfigMap that it names has changed",
}
SUPERSEDING_SECONDS = 1.0


def begin(builder: DecisionBuilder, *, cause: RunCause, attempt: int, message: str = "") -> Decision:
    """Start the attempt-th run of this generation, now or as soon as nothing of another run is left."""
    case = builder.case
    dag = SERVE if cause in FOR_THE_SERVICE else case.home_dag
    run_id = names.attempt_run_id(case.workspace, attempt)
    run: dict[str, Any] = {
        "id": run_id,
        "dag": dag,
        "attempt": attempt,
        "generation": case.generation,
        "rerun": case.rerun,
        "url": case.config.run_url(dag, run_id),
        "cause": cause,
        "state": RunState.WAITING,
    }
    known = {name: digest for name, digest in case.observed.config_maps.items() if digest is not None}
    builder.note(run=run, inputs=known or None, idle=None)
    if cause not in FOR_THE_SERVICE:
        builder.note(progress=None)
    if cause not in FOR_THE_SERVICE | {RunCause.CAPACITY}:
        builder.note(retry=None)
    machines_stay = service.machines_stay(builder)
    builder.reach(Phase.ACCEPTED, message or WHY[cause], machines_stay=machines_stay)
    return proceed(builder)


def proceed(builder: DecisionBuilder) -> Decision:
    """Start the recorded run unless pods of another run are still there: never two of them at work."""
    run = dict(builder.run)
    revisions.record(builder)
    service.mark_not_ready(builder)
    service.lost_nodes(builder)  # a machine without its node would keep the next run waiting
    if leftovers.supersede(builder):
        builder.look_again(SUPERSEDING_SECONDS)
        return builder.decision("superseding")
    builder.note(run={**run, "state": RunState.STARTED})
    conf = {"workspace": {"metadata": {"name": builder.case.name, "namespace": builder.case.namespace}}}
    builder.act(StartRun(run["dag"], run["id"], conf))
    builder.look_again(progress.look_seconds(builder.status))
    return builder.decision("starting")


def follow(builder: DecisionBuilder, dag: str, run_id: str) -> Decision:
    """Record the run that made this Workspace, so that none is started beside it."""
    run = {
        "id": run_id,
        "dag": dag,
        "attempt": 1,
        "generation": builder.case.generation,
        "rerun": builder.case.rerun,
        "url": builder.case.config.run_url(dag, run_id),
        "cause": RunCause.FOUND,
        "state": RunState.STARTED,
    }
    builder.note(run=run)
    builder.reach(Phase.ACCEPTED, f"Started by Airflow run {run_id}")
    revisions.record(builder)
    builder.look_again(progress.look_seconds(builder.status))
    return builder.decision("running")


def adopt(builder: DecisionBuilder, cause: RunCause) -> Decision:
    """Record the unknown run by which a generation was finished, so that the next one has a number."""
    case = builder.case
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
    builder.note(run=run)
    revisions.record(builder)
    return builder.decision("adopting")


def record_outcome(builder: DecisionBuilder, airflow_state: str | None) -> None:
    """Latch how a run ended: what its tasks told counts, then what Airflow and the cluster know."""
    run = dict(builder.run)
    told = builder.case.verdict(builder.status)
    if told not in OVER:
        told = _derived(builder, airflow_state)
    builder.note(run={**run, "state": told})
    if told == RunState.FAILED and run.get("cause") in FOR_THE_SERVICE and not breaker.tripped(builder):
        builder.note(
            retry=backoff.failed(builder.retry, builder.case.now, "the service could not be brought back")
        )


def _derived(builder: DecisionBuilder, airflow_state: str | None) -> str:
    """The verdict over a run that ended without telling one."""
    run = builder.run
    if airflow_state == RunState.SUCCESS:
        if builder.case.serves and service.answers(builder.case):
            builder.reach(Phase.INFERENCE_READY, "The service is ready")
            builder.reach(Phase.SUCCEEDED, "The service is ready")
            return RunState.SUCCESS
        if not builder.case.serves and builder.says(ConditionType.ADAPTER_PUBLISHED):
            builder.reach(Phase.SUCCEEDED, "The adapter is published")
            return RunState.SUCCESS
        message = f"Airflow run {run['id']} ended without telling its result"
    else:
        message = f"Airflow run {run['id']} failed; its log says why"
    builder.reach(Phase.FAILED, message)
    return RunState.FAILED


def again(builder: DecisionBuilder, cause: RunCause, message: str = "") -> Decision:
    """Start the next attempt of this generation."""
    return begin(builder, cause=cause, attempt=int(builder.run.get("attempt") or 1) + 1, message=message)
