"""What stands around a service: its key, who may reach which port of its pods, and how many may be evicted at once."""

from __future__ import annotations

import base64
from typing import Any

from include.manifests import pods
from include.manifests.pods import Manifest
from include.manifests.serving_pod import is_group
from include.planning import Plan
from include.workspace.api import access, names
from include.workspace.api.models import Workspace


def key_secret(ws: Workspace, value: str) -> Manifest:
    """The Secret with the service's key, to be made where it is absent; the value never stands anywhere else."""
    content = base64.b64encode(value.encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": pods.metadata(ws, names.api_key_secret(ws.to_dict()), "serving"),
        "type": "Opaque",
        "data": {access.KEY: content},
    }


def network_policy(ws: Workspace, plan: Plan) -> Manifest:
    """Whoever may reach the pods, reaches the server's port alone; the pods of a group reach each other on all."""
    rules: list[dict[str, Any]] = [{"ports": [{"protocol": "TCP", "port": pods.PORT}]}]
    if is_group(plan):
        rules.append({"from": [{"podSelector": {"matchLabels": selector(ws)}}]})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": pods.metadata(ws, ws.name, "serving"),
        "spec": {
            "podSelector": {"matchLabels": selector(ws)},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        },
    }


def disruption_budget(ws: Workspace) -> Manifest:
    """One pod at a time, so that a drained node never waits for ever, nor takes a whole group's machines at once."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": pods.metadata(ws, ws.name, "serving"),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(ws)}},
    }


def selector(ws: Workspace) -> dict[str, str]:
    """Serving pods only: the Workspace's tuning pod listens on port 5000 as well."""
    return {names.WORKSPACE: ws.name, names.COMPONENT: "serving"}
