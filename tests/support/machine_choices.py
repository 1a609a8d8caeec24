"""A Workspace with more than one choice of machines, and what was asked for."""

from __future__ import annotations

from typing import Any

import pytest
from kaito.hooks.api import NODE
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.tasks import machines as asking

from include.catalog import load_catalog
from include.planning import candidates
from include.workspace import parse_workspace
from include.workspace.api import names
from tests.support.fake_cluster import FakeCluster

NAME = "workspace-tuning-phi-3"

V100, A100, H100 = "Standard_NC6s_v3", "Standard_NC24ads_A100_v4", "Standard_NC40ads_H100_v5"

ORDER = [V100, f"{A100}@2", H100]


@pytest.fixture
def choices(cluster: FakeCluster, workspace: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    """A run with three choices of machines, as the preflight leaves it."""
    notes = {names.INSTANCE_TYPES: ",".join(ORDER[1:])}
    live = cluster.objects["workspaces", "default", NAME]
    left = context["ti"].xcoms["preflight"]
    for document in (live, left["workspace"]):
        document["metadata"]["annotations"] = {**document["metadata"].get("annotations", {}), **notes}
    cluster.add(NODE, {"metadata": {"name": "n", "labels": {asking.REGION_LABEL: "westeurope"}}})
    plans = candidates(parse_workspace(left["workspace"]), load_catalog()).plans
    assert [plan.offer for plan in plans] == ORDER
    left["alternatives"] = {"tuning": [plan.to_dict() for plan in plans[1:]]}
    return context


def gave_up(offer: str, told: str = "capacity: none left", **more: Any) -> dict[str, Any]:
    return {"message": told, "reason": "LaunchFailed", "offer": offer, "unavailable": True, **more}


def asked_for(cluster: FakeCluster) -> list[str]:
    """The machine types of the claims that are there."""
    return [
        requirement["values"][0]
        for claim in cluster.list(NODE_CLAIM)
        for requirement in claim["spec"]["requirements"]
        if requirement["key"] == "node.kubernetes.io/instance-type"
    ]


def told(cluster: FakeCluster) -> list[tuple[str, str]]:
    status = cluster.objects["workspaces", "default", NAME]["status"]
    return [(entry["offer"], entry["state"]) for entry in status.get("machines") or ()]
