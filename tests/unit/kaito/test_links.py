"""The link of a task leads to the Workspace that its run serves, or nowhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kaito.tasks.links import WorkspaceLink


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
