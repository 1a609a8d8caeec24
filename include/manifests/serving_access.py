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
    """Whoever may reach the pods, reaches the server's port alone; the pods of a group reach each other on all.

    A pod template's own ports stay open too: what its author has declared is meant to be reached.
    """
    ports = [{"protocol": "TCP", "port": pods.PORT}]
    ports += [one for one in _declared(ws) if one not in ports]
    rules: list[dict[str, Any]] = [{"ports": ports}]
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


def _declared(ws: Workspace) -> list[dict[str, Any]]:
    """The ports that a pod template's containers say they have."""
    template = (ws.inference and ws.inference.template) or {}
    containers = _list((template.get("spec") or {}).get("containers"))
    listed = [port for one in containers for port in _list(one.get("ports"))]
    found = [
        {"protocol": str(port.get("protocol") or "TCP"), "port": port["containerPort"]}
        for port in listed
        if isinstance(port.get("containerPort"), int)
    ]
    return [one for index, one in enumerate(found) if one not in found[:index]]


def _list(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


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
