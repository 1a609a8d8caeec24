"""How the janitor is scheduled: often, alone, and harmless until somebody lets it delete."""

from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from kaito import settings
from kaito.operators.janitor import ORPHANS, SweepOperator

from include.janitor.memory import LONGEST_PAUSE


@pytest.fixture(scope="module")
def janitor() -> DAG:
    return DagBag().dags["kaito_janitor"]


def test_one_task_every_ten_minutes_never_twice_at_once(janitor: DAG) -> None:
    assert [task.task_id for task in janitor.tasks] == ["sweep", "retire_versions"]
    assert janitor.schedule == "*/10 * * * *"
    assert janitor.max_active_runs == 1
    assert not janitor.catchup


def test_two_missed_sweeps_do_not_make_it_forget() -> None:
    assert timedelta(minutes=3 * 10) < LONGEST_PAUSE


def test_it_is_on_from_the_start_and_deletes_nothing_until_it_is_told_to(janitor: DAG) -> None:
    assert janitor.is_paused_upon_creation is False
    assert janitor.params["delete"] is None
    assert janitor.params["grace_minutes"] is None
    assert settings.janitor_deletes() is False
    janitor.params.validate()


def test_a_sweep_is_not_repeated_in_its_run_and_may_remember(janitor: DAG) -> None:
    sweep = janitor.get_task("sweep")
    assert isinstance(sweep, SweepOperator)
    assert sweep.retries == 0
    assert sweep.inlets == [ORPHANS]
    assert not sweep.outlets  # a sweep is no news to any asset schedule
