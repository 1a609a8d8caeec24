"""A run that was ended stays ended, whichever step was on its way to a worker just then."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import POD
from kaito.operators.pool import CreateGpuPoolOperator
from kaito.operators.rollout import RollOutOperator
from kaito.operators.workload import WorkloadPodOperator
from kaito.tasks.stopped import stopped

from tests.support.fake_cluster import RUN_ID, FakeCluster

DAGS = Path(__file__).parents[3] / "dags"
EVENT = {"status": "running", "name": "p", "namespace": "default", "message": "", "last_log_time": None}
#: The kinds of step that make something: each must look whether anybody still wants it.
MAKERS = (WorkloadPodOperator, CreateGpuPoolOperator, RollOutOperator)


def makers() -> list[Any]:
    found = []
    for name in ("kaito_tune", "kaito_serve", "kaito_retrain"):
        spec = importlib.util.spec_from_file_location(f"{name}_to_stop", DAGS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        dag: DAG = module.dag
        found += [
            pytest.param(task, id=f"{name}.{task.task_id}") for task in dag.tasks if isinstance(task, MAKERS)
        ]
    return found


@pytest.fixture(autouse=True)
def plan_of_a_retraining(context: dict[str, Any]) -> None:
    """What the preflight left, also under the name that it has within a task group."""
    context["ti"].xcoms["retrain.preflight"] = context["ti"].xcoms["preflight"]


def following(task: BaseOperator) -> str:
    return next(step.task_id for step in task.downstream_list if not step.is_teardown)


# Without a policy an evaluation has nothing to make, whether its run goes on or not.
@pytest.mark.parametrize("task", [one for one in makers() if one.id != "kaito_retrain.retrain.evaluate"])
def test_a_step_of_a_run_that_was_ended_makes_nothing(
    task: Any, context: dict[str, Any], cluster: FakeCluster
) -> None:
    before = dict(cluster.objects)
    context["ti"].states = {following(task): "skipped"}
    task.cluster = cluster
    with pytest.raises(AirflowFailException, match=f"^{task.task_id}: the run was ended"):
        task.execute(context)
    assert cluster.objects == before


@pytest.mark.parametrize("task", [one for one in makers() if isinstance(one.values[0], WorkloadPodOperator)])
@pytest.mark.parametrize("status", ["running", "success"])
def test_a_step_that_comes_back_to_a_run_that_was_ended_takes_its_pod_away(
    task: Any, status: str, context: dict[str, Any], cluster: FakeCluster
) -> None:
    labels = {"kaito.sh/run-id": RUN_ID}
    cluster.add(POD, {"metadata": {"name": "p", "namespace": "default", "uid": "u", "labels": labels}})
    context["ti"].states = {following(task): "skipped"}
    task.cluster = cluster
    with pytest.raises(AirflowFailException, match="To go on, clear this step and those after it"):
        task.trigger_reentry(context, {**EVENT, "status": status})
    assert cluster.find(POD, "p", "default") is None


@pytest.mark.parametrize("state", [None, "scheduled", "failed", "upstream_failed", "success"])
@pytest.mark.parametrize("task", makers())
def test_a_step_whose_run_goes_on_goes_on(task: Any, state: str | None, context: dict[str, Any]) -> None:
    context["ti"].states = {following(task): state}
    assert stopped(task, context) is None


def test_a_teardown_says_nothing_about_the_run(context: dict[str, Any]) -> None:
    with DAG(dag_id="d"):
        step = CreateGpuPoolOperator(task_id="make", purpose="tuning")
        end = BaseOperator(task_id="end").as_teardown()
        step >> end
    context["ti"].states = {"end": "skipped"}
    assert stopped(step, context) is None


def test_a_training_that_waited_for_machines_asks_for_no_others(
    context: dict[str, Any], cluster: FakeCluster
) -> None:
    tune = next(one.values[0] for one in makers() if one.id == "kaito_tune.tune")
    context["ti"].states = {following(tune): "skipped"}
    tune.cluster = cluster
    before = dict(cluster.objects)
    with pytest.raises(AirflowFailException, match="the run was ended"):
        tune.machines_came(context, {"unavailable": True, "message": "sold out", "offer": "x"})
    assert cluster.objects == before
