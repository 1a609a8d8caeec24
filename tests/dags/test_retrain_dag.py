"""How a retraining is wired: what may end it, who releases its machines, and that its group fits into any DAG."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, TriggerRule
from airflow.serialization.serialized_objects import DagSerialization
from kaito import assets
from kaito.operators.retraining_end import RecordRetrainingOperator
from kaito.pipelines import retrain
from kaito.sensors.workspace import CandidatePoolReadySensor
from kaito.tasks.base import WorkspaceTask

SENTENCE = [
    "plan_candidate",
    "preflight",
    "fetch_dataset",
    "judge_change",
    "create_gpu_pool",
    "wait_for_nodes",
    "tune",
    "evaluate",
    "release_gpu_pool",
    "publish_adapter",
    "gate",
    "approve",
    "promote",
]


@pytest.fixture(scope="module")
def dag() -> DAG:
    return DagBag().dags["kaito_retrain"]


def test_the_chain_reads_like_the_sentence(dag: DAG) -> None:
    order = [task.task_id.removeprefix("retrain.") for task in dag.topological_sort()]
    assert [task for task in order if not task.startswith("record")] == SENTENCE


def test_the_machines_go_before_the_push_on_every_path(dag: DAG) -> None:
    release = dag.get_task("retrain.release_gpu_pool")
    assert release.is_teardown
    assert release.on_failure_fail_dagrun
    assert release.trigger_rule == TriggerRule.ALL_DONE_SETUP_SUCCESS
    assert dag.get_task("retrain.create_gpu_pool").is_setup
    assert "retrain.release_gpu_pool" in dag.get_task("retrain.publish_adapter").upstream_task_ids
    assert dag.dagrun_timeout is None


def test_nothing_costs_money_before_the_data_is_known_to_be_new(dag: DAG) -> None:
    before = {
        task.task_id for task in dag.get_task("retrain.create_gpu_pool").get_flat_relatives(upstream=True)
    }
    assert {"retrain.judge_change", "retrain.plan_candidate"} <= before


def test_a_step_that_is_lost_with_its_worker_is_tried_again(dag: DAG) -> None:
    assert [task.task_id for task in dag.tasks if task.retries < 5] == []


def test_the_tuning_s_own_adapter_is_told_as_its_versions_are(dag: DAG) -> None:
    first = DagBag().dags["kaito_tune"].get_task("publish_adapter")
    assert first.outlets == dag.get_task("retrain.gate").outlets == [assets.ADAPTERS]
    assert dag.get_task("retrain.publish_adapter").outlets == []


def test_the_last_task_alone_decides_the_state_of_the_run(dag: DAG) -> None:
    assert {task.task_id: task.on_failure_fail_dagrun for task in dag.leaves} == {
        "retrain.record": True,
        "retrain.record_cost": False,
    }
    record = dag.get_task("retrain.record")
    assert isinstance(record, RecordRetrainingOperator)
    assert {task.task_id for task in record.upstream_list if task.is_setup} == {"retrain.plan_candidate"}
    assert set(record.needed) | set(record.endings) <= set(dag.task_ids)


def test_every_step_finds_its_run_beside_itself(dag: DAG) -> None:
    for task in dag.tasks:
        if isinstance(task, WorkspaceTask):
            assert task.run_prefix == "retrain.", task.task_id


def test_the_wait_for_a_candidates_machines_begins_in_a_worker(dag: DAG) -> None:
    wait = dag.get_task("retrain.wait_for_nodes")
    assert isinstance(wait, CandidatePoolReadySensor)
    assert not wait.start_from_trigger


def test_it_is_on_since_the_reconciler_starts_its_runs(dag: DAG) -> None:
    assert dag.is_paused_upon_creation is False
    assert dag.schedule is None


def test_the_group_fits_into_a_dag_of_ones_own_behind_its_own_steps() -> None:
    from airflow.providers.standard.operators.empty import EmptyOperator

    with DAG("weekly_report", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as mine:
        before = EmptyOperator(task_id="make_the_report")
        before >> retrain("phi", "team", policy={"when": "always"}, group_id="renew")
    assert before.downstream_task_ids == {"renew.plan_candidate"}
    assert mine.get_task("renew.tune").run_prefix == "renew."
    assert mine.get_task("renew.tune").retries == 20
    assert "renew.plan_candidate" in mine.get_task("renew.wait_for_nodes").workspace
    DagSerialization.to_dict(mine)


def test_a_deadline_and_notifiers_go_through_airflows_own_form_of_a_dag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__RETRAIN_DEADLINE_MINUTES", "90")
    monkeypatch.setenv("AIRFLOW__KAITO__NOTIFIERS", "examples.notifiers.by_mail:notifier")
    late = DagBag().dags["kaito_retrain"]
    assert late.has_on_failure_callback
    (alert,) = DagSerialization.serialize_dag(late)["deadline"]
    assert "kaito.alerts.tell_late" in str(alert)
