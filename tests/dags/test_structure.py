"""The wiring that money and truth depend on: who releases the GPUs, when, and what makes a run red."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, TriggerRule
from kaito.operators.finish import shortfall
from kaito.operators.hand_over import HandOverGpuPoolOperator
from kaito.sensors.base import WorkspaceSensor
from kaito.sensors.workspace import CandidatePoolReadySensor, GpuPoolReadySensor
from kaito.settings import base_url

from include.views.timeline import label

SENTENCE = [
    "preflight",
    "fetch_dataset",
    "create_gpu_pool",
    "wait_for_nodes",
    "tune",
    "release_gpu_pool",
    "publish_adapter",
    "serve.create_gpu_pool",
    "serve.wait_for_nodes",
    "serve.roll_out",
    "serve.wait_until_ready",
    "serve.ask",
    "serve.release_gpu_pool_if_failed",
    "record_cost",
    "finish",
]


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag()


@pytest.fixture(scope="module")
def tune(bag: DagBag) -> DAG:
    return bag.dags["kaito_tune"]


@pytest.fixture(scope="module")
def serve(bag: DagBag) -> DAG:
    return bag.dags["kaito_serve"]


def test_the_chain_reads_like_the_sentence(tune: DAG) -> None:
    assert [task.task_id for task in tune.topological_sort()] == SENTENCE


def test_the_tuning_pool_is_released_before_the_push_on_every_path(tune: DAG) -> None:
    release = tune.get_task("release_gpu_pool")
    assert release.is_teardown
    assert release.on_failure_fail_dagrun
    assert release.trigger_rule == TriggerRule.ALL_DONE_SETUP_SUCCESS
    assert tune.get_task("create_gpu_pool").is_setup
    assert "release_gpu_pool" in tune.get_task("create_gpu_pool").downstream_task_ids
    assert {"tune", "release_gpu_pool"} == tune.get_task("publish_adapter").upstream_task_ids


@pytest.mark.parametrize(
    ("dag_id", "handed_over"),
    [("kaito_tune", {"create_gpu_pool", "release_gpu_pool"}), ("kaito_serve", set())],
)
def test_a_serving_pool_goes_again_when_the_rollout_fails(
    bag: DagBag, dag_id: str, handed_over: set[str]
) -> None:
    release = bag.dags[dag_id].get_task("serve.release_gpu_pool_if_failed")
    assert release.is_teardown
    assert release.on_failure_fail_dagrun
    assert release.trigger_rule == TriggerRule.ALL_DONE_SETUP_SUCCESS
    assert release.upstream_task_ids == {"serve.create_gpu_pool", "serve.ask", *handed_over}
    assert release.keep_if_succeeded == "serve.ask"
    assert bag.dags[dag_id].get_task(release.asked_by).is_setup


def test_a_machine_that_was_handed_over_is_released_whatever_ends_the_run_before_it_serves(tune: DAG) -> None:
    """One setup that succeeded is enough for a teardown: the pool that tuned has one when its push fails."""
    release = tune.get_task("serve.release_gpu_pool_if_failed")
    setups = {task.task_id for task in release.upstream_list if task.is_setup}
    assert setups == {"create_gpu_pool", "serve.create_gpu_pool"}
    assert release.also_tuning, "nor does a hand-over that was killed half-way leave a machine"
    assert isinstance(tune.get_task("release_gpu_pool"), HandOverGpuPoolOperator)
    assert tune.get_task("release_gpu_pool").tuning_task_id == "tune"


def test_a_hand_over_is_done_before_the_second_release_looks(tune: DAG) -> None:
    """A run that is ended during the hand-over leaves that teardown running, and skips what comes after it."""
    assert "release_gpu_pool" in tune.get_task("serve.release_gpu_pool_if_failed").upstream_task_ids


@pytest.mark.parametrize("cleared", ["publish_adapter", "serve.create_gpu_pool", "serve.roll_out"])
def test_who_clears_a_step_after_the_tuning_has_its_machines_judged_anew(tune: DAG, cleared: str) -> None:
    """Clearing a step clears its setups, so the preflight says first that there is an adapter: none is asked for."""
    also = set(tune.partial_subset([cleared], include_downstream=True, include_upstream=False).task_ids)
    assert {"preflight", "create_gpu_pool", "release_gpu_pool", "serve.release_gpu_pool_if_failed"} <= also
    assert not {"fetch_dataset", "wait_for_nodes", "tune"} & also


@pytest.mark.parametrize("dag_id", ["kaito_tune", "kaito_serve"])
def test_the_last_task_alone_decides_the_state_of_the_run(bag: DagBag, dag_id: str) -> None:
    dag = bag.dags[dag_id]
    finish = dag.get_task("finish")
    assert finish.is_teardown
    assert finish.on_failure_fail_dagrun
    # Of teardowns Airflow counts those alone that say so: what a run cost never decides how it ended.
    assert {task.task_id: task.on_failure_fail_dagrun for task in dag.leaves} == {
        "finish": True,
        "record_cost": False,
    }
    assert dag.get_task("record_cost").is_teardown
    assert {task.task_id for task in finish.upstream_list if task.is_setup} == {"preflight"}


@pytest.mark.parametrize("dag_id", ["kaito_tune", "kaito_serve"])
def test_no_limit_on_the_run_may_skip_a_teardown(bag: DagBag, dag_id: str) -> None:
    assert bag.dags[dag_id].dagrun_timeout is None
    assert bag.dags[dag_id].schedule is None


@pytest.mark.parametrize("dag_id", ["kaito_tune", "kaito_serve"])
def test_fifty_runs_may_wait_for_their_machines_at_once(bag: DagBag, dag_id: str) -> None:
    """A run that waits in the triggerer holds no task slot, but counts as active."""
    assert bag.dags[dag_id].max_active_runs >= 50


def test_nothing_costs_money_before_the_request_and_the_data_are_checked(tune: DAG) -> None:
    before_gpus = {
        task.task_id for task in tune.get_task("create_gpu_pool").get_flat_relatives(upstream=True)
    }
    assert before_gpus == {"preflight", "fetch_dataset"}


def _sensors(bag: DagBag) -> list[WorkspaceSensor]:
    """All that start in the triggerer: a candidate's name is made by a step, so its wait begins in a worker."""
    found = [task for dag in bag.dags.values() for task in dag.tasks if isinstance(task, WorkspaceSensor)]
    return [sensor for sensor in found if not isinstance(sensor, CandidatePoolReadySensor)]


def test_waits_start_in_the_triggerer_and_end_in_time(bag: DagBag) -> None:
    sensors = _sensors(bag)
    assert len(sensors) == 6
    for sensor in sensors:
        assert sensor.start_from_trigger
        assert sensor.start_trigger_args.timeout > sensor.ready_within
        # A wait for machines may die while it asks for others; what makes a wait itself fail is final.
        assert sensor.retries == (5 if isinstance(sensor, GpuPoolReadySensor) else 0)


def test_waits_never_ask_for_an_xcom(bag: DagBag) -> None:
    """An xcom_pull in a trigger's arguments hangs the trigger for ever."""
    for sensor in _sensors(bag):
        arguments = sensor.start_trigger_args.trigger_kwargs
        assert set(sensor.template_fields) <= set(arguments)
        assert "xcom" not in str(arguments)
        assert "ti." not in str(arguments)


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ({}, ("", "default")),
        ({"name": "mine", "namespace": "team"}, ("mine", "team")),
        ({"workspace": {"metadata": {"name": "mine"}}}, ("mine", "default")),
        ({"workspace": {"metadata": {"name": "mine", "namespace": "team"}}}, ("mine", "team")),
        ({"name": "mine", "workspace": {}}, ("mine", "default")),
        ({"name": "mine", "workspace": {"metadata": None}}, ("mine", "default")),
    ],
)
def test_templates_name_the_workspace_in_every_form_of_conf(
    tune: DAG, conf: dict[str, Any], expected: tuple[str, str]
) -> None:
    sensor = tune.get_task("wait_for_nodes")
    params = {**tune.params.dump(), **conf}
    environment = tune.get_template_env()
    arguments = sensor.start_trigger_args.trigger_kwargs
    rendered = tuple(
        environment.from_string(arguments[key]).render(params=params) for key in ("workspace", "namespace")
    )
    assert rendered == expected


def test_the_form_offers_the_catalogue_and_starts_as_the_quick_start(tune: DAG) -> None:
    params = {key: tune.params.get_param(key) for key in tune.params}
    assert params["preset"].value == "phi-3-mini-128k-instruct"
    assert params["preset"].value in params["preset"].schema["enum"]
    assert params["instance_type"].value == "Standard_NC6s_v3"
    assert params["instance_type"].value in params["instance_type"].schema["enum"]
    assert params["method"].value == "qlora"
    assert params["workspace"].value is None
    assert all(param.schema.get("section") for param in params.values())
    tune.params.validate()


def test_the_finalizer_is_removed_last(bag: DagBag) -> None:
    release = bag.dags["kaito_release"]
    assert [task.task_id for task in release.topological_sort()] == [
        "release",
        "wait_until_gone",
        "remove_finalizer",
    ]
    assert release.schedule is None
    release.params.validate()


def test_the_serving_form_is_valid_as_it_stands(serve: DAG) -> None:
    serve.params.validate()


def _shortest_wait(task: Any) -> float:
    """Seconds that Airflow lets pass between a task's tries, at least."""
    factor = float(task.retry_exponential_backoff) or 1.0
    delays = (task.retry_delay.total_seconds() * factor**done for done in range(task.retries))
    longest = task.max_retry_delay.total_seconds() if task.max_retry_delay else float("inf")
    return sum(min(delay, longest) for delay in delays)


@pytest.mark.parametrize("dag_id", ["kaito_tune", "kaito_serve", "kaito_release"])
def test_a_step_outlasts_the_restart_of_an_api_server_and_a_release_much_more(
    bag: DagBag, dag_id: str
) -> None:
    tasks = [task for task in bag.dags[dag_id].tasks if not isinstance(task, WorkspaceSensor)]
    assert tasks
    for task in tasks:
        assert _shortest_wait(task) >= (1500 if "release" in task.task_id else 150), task.task_id


@pytest.mark.parametrize("dag_id", ["kaito_tune", "kaito_serve"])
def test_the_step_that_a_user_stopped_is_named_also_when_it_waited_for_a_worker(
    bag: DagBag, dag_id: str
) -> None:
    """Airflow marks a step as failed only while it runs or is deferred; one on its way back to a worker is skipped."""
    dag = bag.dags[dag_id]
    finish = dag.get_task("finish")
    steps = [task.task_id for task in dag.topological_sort() if not task.is_teardown]
    needed = [*finish.needed, *finish.optional]
    assert ["preflight", *needed] == steps
    for stopped in needed:
        before = needed.index(stopped)
        states: dict[str, str | None] = {
            step: "success" if at < before else "skipped" for at, step in enumerate(needed)
        }
        assert shortfall(states, needed) == f"stopped before {stopped} was done"


def test_every_dag_has_a_name_a_page_of_words_and_a_way_to_all_workspaces(bag: DagBag) -> None:
    for dag in bag.dags.values():
        assert dag.dag_display_name.startswith("KAITO: "), dag.dag_id
        assert dag.doc_md, dag.dag_id
        assert dag.owner_links == {"kaito": f"{base_url()}/kaito/workspaces"}, dag.dag_id


def test_every_step_of_a_workspace_has_words_on_its_page(bag: DagBag) -> None:
    for name in ("kaito_tune", "kaito_serve", "kaito_retrain"):
        assert [one for one in bag.dags[name].task_ids if label(one) == one] == [], name
