"""A cluster in memory at the hook's boundary, and the contexts that operators run in."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from kaito.hooks.api import CRD, SECRET, WORKSPACE
from kaito.tasks.base import PREFLIGHT
from kaito.tasks.preflight_result import PreflightResult, redacted

from include.catalog import load_catalog
from include.planning import plan, plan_serving
from include.workspace import parse_workspace, workspace_crd
from tests.support.fake_cluster import QUICK_START, RUN_ID, FakeCluster, FakeTaskInstance
from tests.support.machine_choices import choices
from tests.support.scripted_client import hook_for
from tests.support.workload_pods import comes_back

__all__ = ["choices", "comes_back", "hook_for"]


@pytest.fixture(autouse=True)
def no_registry_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit tests open no connection; those of the question itself turn it on."""
    monkeypatch.setenv("AIRFLOW__KAITO__CHECK_PUSH", "false")


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def workspace(cluster: FakeCluster) -> dict[str, Any]:
    """The quick start's Workspace as it lives in the cluster, with its push secret."""
    cluster.add(SECRET, {"metadata": {"name": "push"}, "type": "kubernetes.io/dockerconfigjson"})
    document = copy.deepcopy(QUICK_START)
    document["metadata"]["uid"] = "0123abcd-0000"
    return cluster.add(WORKSPACE, document)


@pytest.fixture
def context(cluster: FakeCluster, workspace: dict[str, Any]) -> dict[str, Any]:
    """A run's context after preflight."""
    catalog = load_catalog()
    parsed = parse_workspace(workspace)
    first = PreflightResult(
        workspace=redacted(workspace),
        plan=plan(parsed, catalog),
        serving_plan=plan_serving(parsed, catalog),
    ).to_xcom()
    ti = FakeTaskInstance({PREFLIGHT: first}, {})
    return {
        "ti": ti,
        "run_id": RUN_ID,
        "dag_run": SimpleNamespace(conf={}),
        "params": {},
        "outlet_events": cluster.outlets,
    }


@pytest.fixture
def established_crd(cluster: FakeCluster) -> None:
    """The cluster knows Workspaces."""
    definition = workspace_crd()
    definition["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
    cluster.add(CRD, definition)
