"""Runs through the task's supervisor: what each answer of Airflow means, and how little is asked."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.comms import (
    GetDag,
    GetDagRunState,
)
from kaito.controller.dag_runs import ASKED_AT_ONCE, AirflowRuns, RunRefused

from tests.support.supervisor import Supervisor, refused


async def test_a_run_is_started_with_its_id_and_conf() -> None:
    airflow = Supervisor()
    assert await AirflowRuns(airflow).start("kaito_tune", "r1", {"workspace": {}})
    assert airflow.asked[-1].run_id == "r1"
    assert airflow.asked[-1].conf == {"workspace": {}}


async def test_a_run_that_exists_is_not_started_again() -> None:
    airflow = Supervisor(runs={("kaito_tune", "r1"): "running"})
    assert not await AirflowRuns(airflow).start("kaito_tune", "r1", {})


@pytest.mark.parametrize(("dags", "words"), [({"kaito_tune": True}, "paused"), ({}, "has no DAG kaito_tune")])
async def test_a_dag_that_cannot_run_is_a_sentence_and_no_run(dags: dict[str, bool], words: str) -> None:
    airflow = Supervisor(dags=dags)
    with pytest.raises(RunRefused, match=words):
        await AirflowRuns(airflow).start("kaito_tune", "r1", {})
    assert airflow.runs == {}


async def test_the_api_servers_reason_is_passed_on() -> None:
    airflow = Supervisor()
    airflow.error = refused(400, "Dag with dag_id 'kaito_tune' has import errors")
    with pytest.raises(RunRefused, match="has import errors"):
        await AirflowRuns(airflow).start("kaito_tune", "r1", {})


async def test_a_dag_is_asked_about_once_for_many_runs() -> None:
    airflow = Supervisor()
    runs = AirflowRuns(airflow)
    for number in range(5):
        await runs.start("kaito_tune", f"r{number}", {})
    assert airflow.count(GetDag) == 1


async def test_states_are_known_and_lost_runs_are_none() -> None:
    airflow = Supervisor(runs={("kaito_tune", "a"): "running", ("kaito_serve", "c"): "failed"})
    wanted = [("kaito_tune", "a"), ("kaito_tune", "b"), ("kaito_serve", "c")]
    assert await AirflowRuns(airflow).states(wanted) == {
        ("kaito_tune", "a"): "running",
        ("kaito_tune", "b"): None,
        ("kaito_serve", "c"): "failed",
    }


async def test_an_empty_database_is_one_question_a_page() -> None:
    airflow = Supervisor()
    wanted = [("kaito_tune", f"r{n}") for n in range(ASKED_AT_ONCE * 3)]
    assert set((await AirflowRuns(airflow).states(wanted)).values()) == {None}
    assert len(airflow.asked) == 3


async def test_an_api_server_that_is_down_is_not_a_lost_run() -> None:
    """A run must never be started again because a question was not answered."""

    class Down(Supervisor):
        async def asend(self, msg: Any) -> Any:
            raise refused(None, "connection refused")

    with pytest.raises(AirflowRuntimeError):
        await AirflowRuns(Down()).states([("kaito_tune", "a")])


async def test_only_not_found_means_lost() -> None:
    class HalfDown(Supervisor):
        async def asend(self, msg: Any) -> Any:
            if isinstance(msg, GetDagRunState):
                raise refused(500, "database is locked")
            return await super().asend(msg)

    with pytest.raises(AirflowRuntimeError):
        await AirflowRuns(HalfDown(runs={("kaito_tune", "a"): "running"})).states([("kaito_tune", "a")])
