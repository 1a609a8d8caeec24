"""An AKS agent pool and its Nodes, as the cloud and the cluster show them."""

from __future__ import annotations

from typing import Any

from include.pools.aks import MANAGED_BY, MANAGED_BY_TAG
from include.workspace.api import names
from tests.support.reconcile.cluster import NAME, Obj

LABELS = {"kaito.sh/workspace": "w", "kaito.sh/workspacenamespace": "ml", "kaito.sh/pool": "tuning"}


def pool(state: str = "Succeeded", count: int = 1, name: str = "ws1", **more: Any) -> dict[str, Any]:
    properties = {
        "provisioningState": state,
        "count": count,
        "nodeLabels": LABELS,
        "tags": {"kaito-managed-by": "kaito-airflow"},
    }
    return {"name": name, "properties": {**properties, **more}}


def node(name: str = "n1", of: str = "ws1", ready: str = "True", gpus: str = "1") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.azure.com/agentpool": of}},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "allocatable": {"nvidia.com/gpu": gpus},
        },
    }


def agent_pool(state: str = "Succeeded", count: int = 1, purpose: str = "serving") -> Obj:
    labels = {names.WORKSPACE: NAME, names.WORKSPACE_NAMESPACE: "ml", names.POOL: purpose}
    tags = {MANAGED_BY_TAG: MANAGED_BY}
    told = {"provisioningState": state, "count": count, "nodeLabels": labels, "tags": tags, "eTag": "e1"}
    return {"name": "ws1", "properties": told}


OURS = """\
# HELP kaito_serving_requests_total Requests answered.
kaito_serving_requests_total{endpoint="/chat",model="a } b",status="200"} 3.0
kaito_serving_requests_total{endpoint="/chat",model="",status="400"} 2.0
kaito_serving_requests_in_flight 1.0
kaito_serving_last_request_timestamp_seconds 1.7795e+09
"""
