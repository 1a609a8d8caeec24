"""How the reconciler is scheduled: for ever, one at a time, without a worker while nothing happens."""

from __future__ import annotations

import json
from datetime import timedelta

import pendulum
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.timetables.base import TimeRestriction
from airflow.timetables.simple import ContinuousTimetable
from kaito.controller.dispatch import Dispatch
from kaito.sensors.changes import WorkspaceChangesSensor


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag()


@pytest.fixture(scope="module")
def reconcile(bag: DagBag) -> DAG:
    return bag.dags["kaito_reconcile"]


def test_it_runs_for_ever_and_never_twice_at_once(reconcile: DAG) -> None:
    assert reconcile.schedule == "@continuous"
    assert reconcile.max_active_runs == 1
    assert not reconcile.catchup
    assert not reconcile.max_consecutive_failed_dag_runs  # a failed run must not stop the schedule


def test_its_first_interval_is_not_empty(reconcile: DAG) -> None:
    """Without a start date the first interval is empty, and Airflow never makes a second run."""
    assert reconcile.start_date is not None
    since = TimeRestriction(earliest=pendulum.instance(reconcile.start_date), latest=None, catchup=False)
    timetable = ContinuousTimetable()
    first = timetable.next_dagrun_info(last_automated_data_interval=None, restriction=since)
    assert first is not None
    second = timetable.next_dagrun_info(last_automated_data_interval=first.data_interval, restriction=since)
    assert second is not None
    assert second.logical_date > first.logical_date


def test_it_waits_in_the_triggerer_and_acts_in_one_task(reconcile: DAG) -> None:
    assert [task.task_id for task in reconcile.topological_sort()] == ["wait_for_changes", "reconcile"]
    sensor = reconcile.get_task("wait_for_changes")
    assert isinstance(sensor, WorkspaceChangesSensor)
    assert sensor.start_from_trigger
    assert sensor.start_trigger_args.timeout > sensor.resync
    assert "xcom" not in str(sensor.start_trigger_args.trigger_kwargs)


def test_a_failed_look_is_not_tried_again_inside_its_run(reconcile: DAG) -> None:
    assert reconcile.get_task("reconcile").retries == 0


def test_a_run_whose_task_got_lost_is_given_up_but_none_that_only_waits(reconcile: DAG) -> None:
    limit = reconcile.dagrun_timeout
    assert limit is not None
    wait = reconcile.get_task("wait_for_changes")
    assert isinstance(wait, WorkspaceChangesSensor)
    assert 2 * wait.resync <= limit <= timedelta(hours=1)
    assert not [task for task in reconcile.tasks if task.is_teardown], "the limit would skip it"


def test_the_administrator_turns_it_on_and_the_runs_that_it_starts_are_on(bag: DagBag) -> None:
    assert bag.dags["kaito_reconcile"].is_paused_upon_creation is True
    for started in ("kaito_tune", "kaito_serve", "kaito_release"):
        assert bag.dags[started].is_paused_upon_creation is False


@pytest.mark.parametrize(
    "value",
    [
        {"keys": None, "token": "t"},
        '{"keys": null, "token": "t"}',
        {"return_value": {"keys": None, "token": "t"}},
        {"return_value": '{"keys": null, "token": "t"}'},
    ],
)
def test_what_the_trigger_hands_over_is_read_in_every_form_that_airflow_gives_it(value: object) -> None:
    assert Dispatch.from_xcom(value) == Dispatch(keys=None, token="t")


def test_what_is_handed_over_comes_back_as_it_was() -> None:
    dispatch = Dispatch(
        keys=(("n", "a"),), token="t", reason="new", identity="me", ended={"u": "2026-11-24T03:00:00Z"}
    )
    assert Dispatch.from_xcom(json.dumps(dispatch.to_xcom())) == dispatch


@pytest.mark.parametrize("value", [None, "skipped", "{", {}, []])
def test_a_wait_that_ended_with_nothing_hands_over_nothing(value: object) -> None:
    assert Dispatch.from_xcom(value) is None
