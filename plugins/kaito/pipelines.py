"""The parts of a run that more than one DAG has, so that each DAG file reads like the sentence that describes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from airflow.sdk import BaseOperator, TaskGroup

from include.contracts.purpose import Purpose
from kaito.operators.approval import ApproveOperator
from kaito.operators.candidate import CandidatePreflightOperator, JudgeChangeOperator, PlanCandidateOperator
from kaito.operators.dataset import FetchDatasetOperator
from kaito.operators.evaluation import EvaluateOperator
from kaito.operators.finish import FinishOperator
from kaito.operators.ledger import RecordCostOperator
from kaito.operators.pool import CreateGpuPoolOperator, ReleaseGpuPoolOperator
from kaito.operators.preflight import PreflightOperator
from kaito.operators.promotion import GateOperator, PromoteOperator
from kaito.operators.publishing import PublishAdapterOperator
from kaito.operators.retraining_end import RecordRetrainingOperator
from kaito.operators.rollout import AskOperator, RollOutOperator
from kaito.operators.tuning import TuneOperator
from kaito.params import WORKSPACE_NAME, WORKSPACE_NAMESPACE
from kaito.sensors.workspace import CandidatePoolReadySensor, GpuPoolReadySensor, RolloutReadySensor
from kaito.tasks.links import owner_links

#: API work is quick to try again, and a step that fails for good says so itself. What else fails may be the restart of
#: an API server, Airflow's or the cluster's: the tries together outlast one of two and a half minutes.
DEFAULT_ARGS: dict[str, Any] = {
    "owner": "kaito",
    "retries": 5,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=2),
}
OWNER_LINKS = owner_links()
#: Each machine that a training loses costs it a try; it goes on from its last checkpoint.
TUNING_RETRIES = 20
#: A pool that is not released costs money: ask for longer than anything else, which is 25 minutes.
RELEASE_RETRIES: dict[str, Any] = {"retries": 10, "max_retry_delay": timedelta(minutes=5)}
WHICH: dict[str, Any] = {"workspace": WORKSPACE_NAME, "namespace": WORKSPACE_NAMESPACE}


Task = TypeVar("Task", bound=BaseOperator)


def as_setup(task: Task) -> Task:
    """Mark a task as a setup, as Airflow's own method of that name does, which has no types."""
    task.as_setup()  # type: ignore[no-untyped-call]
    return task


def as_teardown(task: Task, *setups: BaseOperator, fails_the_run: bool = False) -> Task:
    """Mark a task as the teardown of ``setups``: it runs when one of them at least has succeeded.

    :param fails_the_run: whether the run fails with it.
    """
    task.as_teardown(setups=list(setups), on_failure_fail_dagrun=fails_the_run)
    return task


@dataclass(frozen=True)
class TuningPool:
    """The setup and the teardown of the machines that tune."""

    create: CreateGpuPoolOperator
    release: ReleaseGpuPoolOperator


@dataclass(frozen=True)
class Serving:
    """The tasks of a rollout that other tasks are wired to."""

    first: CreateGpuPoolOperator
    last: AskOperator
    release: ReleaseGpuPoolOperator
    steps: tuple[str, ...]


def preflight(purpose: Purpose) -> PreflightOperator:
    """Return the first task of a run; its failures are verdicts, so they are not tried again by themselves."""
    return as_setup(PreflightOperator(task_id="preflight", purpose=purpose))


def serve(adapter_task_id: str | None = None, tuned_on: TuningPool | None = None) -> Serving:
    """Roll out a service: its GPU machines, its objects, one question; the machines go again if it never answers.

    :param adapter_task_id: the task that pushed the adapter to serve.
    :param tuned_on: the tasks of the pool whose machines may be handed over to this service. From then on the release
        of this group is a teardown of that pool too: whatever ends the run before the service asks for machines.
    """
    with TaskGroup("serve", tooltip="Roll out the model as a service of the Workspace's name."):
        pool = as_setup(CreateGpuPoolOperator(task_id="create_gpu_pool", purpose=Purpose.SERVING))
        nodes = GpuPoolReadySensor(task_id="wait_for_nodes", purpose=Purpose.SERVING, **WHICH)
        roll_out = RollOutOperator(task_id="roll_out", adapter_task_id=adapter_task_id)
        ready = RolloutReadySensor(task_id="wait_until_ready", **WHICH)
        ask = AskOperator(task_id="ask", question="{{ params.question }}")
        release = ReleaseGpuPoolOperator(
            task_id="release_gpu_pool_if_failed",
            purpose=Purpose.SERVING,
            keep_if_succeeded="serve.ask",
            asked_by="serve.create_gpu_pool",
            also_tuning=tuned_on is not None,
            **RELEASE_RETRIES,
        )
        as_teardown(release, *([tuned_on.create] if tuned_on else []), pool, fails_the_run=True)
        if tuned_on is not None:
            # A hand-over that is under way when the run is ended is over before this looks for what it gave.
            tuned_on.release >> release
        pool >> nodes >> roll_out >> ready >> ask >> release
    return Serving(pool, ask, release, tuple(task.task_id for task in (pool, nodes, roll_out, ready, ask)))


def record_cost(
    first: PreflightOperator,
    *,
    needed: tuple[str, ...],
    optional: tuple[str, ...] = (),
    publishing_task_id: str | None = None,
) -> RecordCostOperator:
    """Return the task that settles what a run has cost, on every path; it never decides how the run ended."""
    record = RecordCostOperator(
        task_id="record_cost", needed=needed, optional=optional, publishing_task_id=publishing_task_id
    )
    return as_teardown(record, first)


def finish(
    first: PreflightOperator, *, needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> FinishOperator:
    """Return the last task of a run: the run is green only if all of it was."""
    end = FinishOperator(task_id="finish", needed=needed, optional=optional)
    return as_teardown(end, first, fails_the_run=True)


def retrain(
    workspace: str,
    namespace: str = "default",
    *,
    policy: Mapping[str, Any] | None = None,
    urls: Sequence[str] = (),
    form: Collection[str] | None = None,
    watches: bool = False,
    group_id: str = "retrain",
) -> TaskGroup:
    """Train a new version of a Workspace's adapter beside its service, judge it, and have it served if it is good.

    For a DAG of your own: put it after your own steps, or give the DAG ``schedule=[Asset(...)]``. One run of it is one
    version at most. `kaito_reconcile` must run, since it rolls the promoted version out.

    :param workspace: name of a Workspace that tunes, pushes its adapter and has done so. (templated)
    :param namespace: its namespace. (templated)
    :param policy: when there is something to train, what is measured, the gate, who approves; None for the ConfigMap
        that the Workspace's annotation kaito.sh/retrain-policy names.
    :param urls: where the dataset of this run lies, in place of the Workspace's own; no signed URLs. (templated)
    :param form: the fields of the DAG's form, where its conf may say nothing else.
    :param watches: whether the DAG's schedule is that of looks at the dataset, no more often than the policy says.
    :param group_id: what stands before the ids of the steps.
    """
    with TaskGroup(
        group_id,
        tooltip="Train, judge and promote a version.",
        default_args=dict(DEFAULT_ARGS),  # type: ignore[arg-type]
    ) as group:
        at = f"{group_id}."
        plan = PlanCandidateOperator(
            task_id="plan_candidate",
            workspace=workspace,
            namespace=namespace,
            policy=policy,
            urls=urls,
            form=form,
            watches=watches,
        )
        check = CandidatePreflightOperator(task_id="preflight", purpose=Purpose.TUNING)
        fetch = FetchDatasetOperator(task_id="fetch_dataset")
        judge = JudgeChangeOperator(task_id="judge_change", dataset_task_id="fetch_dataset")
        pool = CreateGpuPoolOperator(
            task_id="create_gpu_pool", purpose=Purpose.TUNING, dataset_task_id=f"{at}fetch_dataset"
        )
        nodes = CandidatePoolReadySensor(
            task_id="wait_for_nodes",
            purpose=Purpose.TUNING,
            dataset_task_id=f"{at}fetch_dataset",
            workspace=f"{{{{ ti.xcom_pull(task_ids='{at}plan_candidate')['candidate'] }}}}",
            namespace=f"{{{{ ti.xcom_pull(task_ids='{at}plan_candidate')['namespace'] }}}}",
        )
        tune = TuneOperator(task_id="tune", retries=TUNING_RETRIES, dataset_task_id=f"{at}fetch_dataset")
        # On the machines that tuned, before they go: the engine that will serve needs them too.
        evaluate = EvaluateOperator(
            task_id="evaluate",
            plan_task_id=f"{at}plan_candidate",
            tuning_task_id=f"{at}tune",
            dataset_task_id=f"{at}fetch_dataset",
        )
        release = ReleaseGpuPoolOperator(
            task_id="release_gpu_pool", purpose=Purpose.TUNING, **RELEASE_RETRIES
        )
        as_teardown(release, as_setup(pool), fails_the_run=True)
        publish = PublishAdapterOperator(
            task_id="publish_adapter",
            dataset_task_id=f"{at}fetch_dataset",
            tuning_task_id=f"{at}tune",
            evaluation_task_id=f"{at}evaluate",
        )
        gate = GateOperator(
            task_id="gate",
            publishing_task_id="publish_adapter",
            change_task_id="judge_change",
            evaluation_task_id="evaluate",
        )
        approve = ApproveOperator(task_id="approve")
        promote = PromoteOperator(task_id="promote")
        steps: list[Any] = [check, fetch, judge, pool, nodes, tune, evaluate, publish]
        needed = tuple(step.task_id for step in steps)
        cost = RecordCostOperator(task_id="record_cost", needed=needed, publishing_task_id=publish.task_id)
        as_teardown(cost, as_setup(check))
        record = RecordRetrainingOperator(
            task_id="record", needed=needed, endings=(judge.task_id, gate.task_id, approve.task_id)
        )
        as_teardown(record, as_setup(plan), fails_the_run=True)
        (
            plan
            >> check
            >> fetch
            >> judge
            >> pool
            >> nodes
            >> tune
            >> evaluate
            >> release
            >> publish
            >> gate
            >> approve
            >> promote
        )
        evaluate >> publish
        [promote, release] >> cost
        [promote, release] >> record
        for task in (plan, *steps, release, gate, approve, promote, cost, record):
            task.run_prefix = at
    return group
