"""The link of a task leads to the Workspace that its run serves, or nowhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kaito.operators.dataset import FetchDatasetOperator
from kaito.operators.publishing import PublishAdapterOperator
from kaito.operators.rollout import AskOperator
from kaito.tasks.links import WorkspaceLink, owner_links


def task(told: Any) -> Any:
    return SimpleNamespace(xcom_pull=lambda task_ids: told if task_ids == "preflight" else None)


def test_the_link_is_the_page_of_the_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/x/")
    told = {"workspace": {"metadata": {"name": "phi", "namespace": "team"}}}
    found = WorkspaceLink().get_link(None, ti_key=task(told))
    assert found == "https://airflow.example/x/kaito/workspaces/team/phi"


def test_in_a_group_the_first_task_is_that_of_the_group() -> None:
    told = {"workspace": {"metadata": {"name": "phi"}}}
    asked = SimpleNamespace(xcom_pull=lambda task_ids: told if task_ids == "retrain.preflight" else None)
    found = WorkspaceLink().get_link(SimpleNamespace(run_prefix="retrain."), ti_key=asked)
    assert found.endswith("/kaito/workspaces/default/phi")


@pytest.mark.parametrize("told", [None, {}, [], {"workspace": None}, {"workspace": {"metadata": {}}}])
def test_without_a_workspace_there_is_no_link(told: Any) -> None:
    assert WorkspaceLink().get_link(None, ti_key=task(told)) == ""


@pytest.mark.parametrize(
    ("operator", "links"),
    [
        (FetchDatasetOperator, {"Workspace": "", "Data report": "#data"}),
        (PublishAdapterOperator, {"Workspace": "", "Adapter": "#adapter"}),
        (AskOperator, {"Workspace": "", "Service": "#commands"}),
    ],
)
def test_steps_lead_to_the_part_of_the_page_that_they_made(operator: Any, links: dict[str, str]) -> None:
    told = {"workspace": {"metadata": {"name": "phi", "namespace": "team"}}}
    found = {one.name: one.get_link(None, ti_key=task(told)) for one in operator.operator_extra_links}
    assert {name: link.partition("/team/phi")[2] for name, link in found.items()} == links


@pytest.mark.parametrize(
    ("address", "links"),
    [
        ("https://airflow.example/x/", {"kaito": "https://airflow.example/x/kaito/workspaces"}),
        ("airflow.example", {}),
    ],
)
def test_the_owner_of_a_dag_leads_to_all_workspaces(
    monkeypatch: pytest.MonkeyPatch, address: str, links: dict[str, str]
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", address)
    assert owner_links() == links
