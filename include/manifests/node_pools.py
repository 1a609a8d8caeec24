"""GPU pools as one Karpenter NodePool with static replicas, as in KAITO's karpenter mode (kaito-api.md#nodepools).

Names are deterministic. Machines of a pool are never disrupted while it lives: a tuning that loses its node by a drift
would start from its last checkpoint for nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from include.manifests.pods import Manifest, pool_labels, workspace_of
from include.manifests.pools import DEFAULT_IMAGE_FAMILY, offer_mark, offer_requirements
from include.manifests.settings import ManifestSettings
from include.planning import Plan
from include.workspace import Workspace
from include.workspace.api import names
from include.workspace.api.selector import node_labels

NAME_MAX, NAME_KEPT, HASH_DIGITS = 63, 53, 9
OWNER_NAME, OWNER_NAMESPACE = "karpenter.kaito.sh/workspace-name", "karpenter.kaito.sh/workspace-namespace"
NODE_CLASSES = {"ubuntu": "image-family-ubuntu", "azurelinux": "image-family-azure-linux"}


def node_pool_name(ws: Workspace, purpose: str) -> str:
    """<namespace>-<name>-<purpose>; when that is too long its first 53 characters and a hash of all."""
    whole = f"{ws.namespace}-{ws.name}-{purpose}"
    if len(whole) <= NAME_MAX:
        return whole
    return f"{whole[:NAME_KEPT]}-{hashlib.sha256(whole.encode()).hexdigest()[:HASH_DIGITS]}"


def node_pool(
    ws: Workspace | Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings | None = None
) -> Manifest:
    """The NodePool of a plan, with `plan.node_count` replicas. It is cluster-scoped, so labels own it."""
    workspace = workspace_of(ws)
    labels = {
        **node_labels(workspace),
        **pool_labels(workspace, plan.purpose),
        names.COMPONENT: "pool",
        names.RUN_ID: names.run_id_label(run_id),
        OWNER_NAME: workspace.name,
        OWNER_NAMESPACE: workspace.namespace,
    }
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {
            "name": node_pool_name(workspace, plan.purpose),
            "labels": dict(labels),
            **({"annotations": mark} if (mark := offer_mark(plan)) else {}),
        },
        "spec": {
            "replicas": plan.node_count,
            "template": {
                "metadata": {"labels": labels, "annotations": {"karpenter.sh/do-not-disrupt": "true"}},
                "spec": {
                    "nodeClassRef": _node_class(workspace, plan.instance_type, settings),
                    "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
                    "requirements": _requirements(plan, settings),
                    "expireAfter": "Never",
                },
            },
            "disruption": {
                "consolidateAfter": "0s",
                "budgets": [{"nodes": "1", "reasons": ["Drifted"]}],
            },
        },
    }


def _requirements(plan: Plan, settings: ManifestSettings | None) -> list[Manifest]:
    found = [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [plan.instance_type]}]
    found += offer_requirements(plan, settings)
    if plan.instance_type.startswith("Standard_") and not plan.zone:
        found.append({"key": "karpenter.azure.com/placement-scope", "operator": "In", "values": ["regional"]})
    return found


def _node_class(ws: Workspace, instance_type: str, settings: ManifestSettings | None) -> Manifest:
    """The node class: the Workspace's annotation, else the installation's, else KAITO's for the image family."""
    chosen = ws.annotations.get(names.NODE_CLASS_NAME)
    if not chosen and settings is not None and settings.node_class != "default":
        chosen = settings.node_class
    if not instance_type.startswith("Standard_"):
        return {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": chosen or "default"}
    family = ws.annotations.get(names.NODE_IMAGE_FAMILY, DEFAULT_IMAGE_FAMILY).strip().lower()
    name = chosen or NODE_CLASSES.get(family, NODE_CLASSES[DEFAULT_IMAGE_FAMILY])
    return {"group": "karpenter.azure.com", "kind": "AKSNodeClass", "name": name}
