"""One run of a Workspace at a time: the second is refused before it makes anything, and the status stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import WORKSPACE
from kaito.operators import exclusive

from include.workspace.api import names
from tests.support.fake_cluster import QUICK_START, RUN_ID, FakeCluster
from tests.support.tasks import preflight

pytestmark = pytest.mark.usefixtures("established_crd")

NAME = "workspace-tuning-phi-3"
BY_NAME = {"workspace": {"metadata": {"name": NAME}}}


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """The states of Airflow's runs by id."""
    states: dict[str, str | None] = {}
    monkeypatch.setattr(exclusive, "state_of", lambda _dag, run_id: states.get(run_id))
    return states


def recorded(cluster: FakeCluster, state: str = "started", **more: Any) -> dict[str, Any]:
    stored = cluster.objects["workspaces", "default", NAME]
    stored["status"] = {"run": {"id": "other", "dag": "kaito_tune", "generation": 1, "state": state, **more}}
    stored["metadata"]["generation"] = 1
    return stored


@pytest.mark.parametrize("state", ["waiting", "started"])
@pytest.mark.parametrize("airflow_state", ["queued", "running"])
def test_a_second_run_is_refused_and_the_status_is_left_alone(
    cluster: FakeCluster,
    workspace: dict[str, Any],
    airflow: dict[str, str | None],
    state: str,
    airflow_state: str,
) -> None:
    stored = recorded(cluster, state)
    airflow["other"] = airflow_state
    before = copy.deepcopy(stored)
    with pytest.raises(AirflowFailException, match="run other of DAG kaito_tune"):
        preflight(cluster, BY_NAME)
    assert cluster.objects["workspaces", "default", NAME] == before


@pytest.mark.parametrize("airflow_state", [None, "failed", "success"])
def test_a_run_that_is_over_gives_its_place(
    cluster: FakeCluster, workspace: dict[str, Any], airflow: dict[str, str | None], airflow_state: str | None
) -> None:
    recorded(cluster)
    airflow["other"] = airflow_state
    preflight(cluster, BY_NAME)
    assert cluster.objects["workspaces", "default", NAME]["status"]["run"]["id"] == RUN_ID


def test_a_run_of_an_older_generation_does_not_count(
    cluster: FakeCluster, workspace: dict[str, Any], airflow: dict[str, str | None]
) -> None:
    recorded(cluster, generation=0)
    airflow["other"] = "running"
    assert preflight(cluster, BY_NAME)["plan"]


def test_of_two_that_begin_at_once_the_second_to_record_itself_is_refused(
    cluster: FakeCluster,
    workspace: dict[str, Any],
    airflow: dict[str, str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patch_status = cluster.patch_status

    def the_other_first(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(cluster, "patch_status", patch_status)
        recorded(cluster)
        return patch_status(*args, **kwargs)

    monkeypatch.setattr(cluster, "patch_status", the_other_first)
    with pytest.raises(AirflowFailException, match="run other of DAG kaito_tune"):
        preflight(cluster, BY_NAME)
    assert cluster.objects["workspaces", "default", NAME]["status"]["run"]["id"] == "other"


def test_a_paused_workspace_is_not_run_by_hand(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    stored = cluster.objects["workspaces", "default", NAME]
    stored["metadata"]["annotations"] = {names.PAUSED: "true"}
    before = copy.deepcopy(stored)
    with pytest.raises(AirflowFailException, match=r"is paused.*kubectl annotate workspace"):
        preflight(cluster, BY_NAME)
    assert cluster.objects["workspaces", "default", NAME] == before


def test_a_workspace_that_a_run_makes_says_whose_it_is(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    document = copy.deepcopy(QUICK_START)
    document["metadata"] = {"name": "made"}
    document["tuning"]["input"]["urls"] = ["https://example.com/train.parquet"]
    preflight(cluster, {"workspace": document})
    made = cluster.find(WORKSPACE, "made", "default")
    assert made["metadata"]["annotations"][names.STARTED_BY] == f"adhoc_airflow/{RUN_ID}"
