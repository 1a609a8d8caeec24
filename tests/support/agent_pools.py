"""An AKS agent pool and its Nodes, as the cloud and the cluster show them."""

from __future__ import annotations

from typing import Any

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
