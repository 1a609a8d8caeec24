"""GPU pools as NodeClaims of Karpenter, one a node, as KAITO's gpu-provisioner reads them (kaito-api.md#nodeclaims).

Names are deterministic: a second attempt finds the first one's claims instead of paying for more nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from include.catalog.models import GIB
from include.manifests.pods import Manifest, pool_labels, workspace_of
from include.manifests.settings import ManifestSettings
from include.planning import Plan
from include.workspace import Workspace
from include.workspace.api import names
from include.workspace.api.selector import node_labels

NODE_POOL = "kaito"  # a pool that does not exist, so that Karpenter itself leaves the node alone
TUNING_STORAGE_GIB = 1024  # KAITO's figure for tuning and templates
SERVING_SPARE_GIB = 80  # KAITO: weights + 80 GiB
DEFAULT_IMAGE_FAMILY = "ubuntu"


def node_claims(
    ws: Workspace | Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings | None = None
) -> list[Manifest]:
    """The NodeClaims of a plan's pool, `plan.node_count` of them. They are cluster-scoped, so labels own them."""
    workspace = workspace_of(ws)
    return [_node_claim(workspace, plan, run_id, index, settings) for index in range(plan.node_count)]


def _node_claim(
    ws: Workspace, plan: Plan, run_id: str, index: int, settings: ManifestSettings | None
) -> Manifest:
    document = ws.to_dict()
    labels = {
        **node_labels(ws),
        **pool_labels(ws, plan.purpose),
        "karpenter.sh/nodepool": NODE_POOL,
        names.COMPONENT: "pool",
        names.RUN_ID: names.run_id_label(run_id),
    }
    family = ws.annotations.get(names.NODE_IMAGE_FAMILY, DEFAULT_IMAGE_FAMILY).strip().lower()
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {
            "name": names.node_claim(document, plan.purpose, index),
            "labels": labels,
            "annotations": {
                "karpenter.sh/do-not-disrupt": "true",
                names.NODE_IMAGE_FAMILY: family,
                **offer_mark(plan),
            },
        },
        "spec": {
            "nodeClassRef": {
                "group": "kaito.sh",
                "kind": "KaitoNodeClass",
                "name": settings.node_class if settings else "default",
            },
            "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
            "requirements": [
                _requirement("karpenter.sh/nodepool", NODE_POOL),
                _requirement("node.kubernetes.io/instance-type", plan.instance_type),
                _requirement("kubernetes.io/os", "linux"),
                *_cloud_requirements(plan.instance_type),
                *offer_requirements(plan, settings),
            ],
            "resources": {"requests": {"storage": f"{storage_gib(plan)}Gi"}},
        },
    }


def _requirement(key: str, value: str) -> Manifest:
    return {"key": key, "operator": "In", "values": [value]}


def _cloud_requirements(instance_type: str) -> list[Manifest]:
    """Azure machine types start with Standard_; the other spelling is Amazon's."""
    if instance_type.startswith("Standard_"):
        return [_requirement("karpenter.azure.com/sku-name", instance_type)]
    return [{"key": "karpenter.k8s.aws/instance-gpu-count", "operator": "Gt", "values": ["0"]}]


def offer_requirements(plan: Plan, settings: ManifestSettings | None = None) -> list[Manifest]:
    """What Karpenter has to keep of an alternative: its zone and its terms. gpu-provisioner passes over both.

    Azure's zones are numbers, and Karpenter knows them with their region: westeurope-1. Raises ValueError without one.
    """
    found = []
    if plan.zone:
        region = settings.region if settings else ""
        if plan.zone.isdigit() and not region:
            raise ValueError(
                f"{plan.offer}: the zone's name begins with its region, and no Node says which region this is "
                "(label topology.kubernetes.io/region)."
            )
        zone = f"{region}-{plan.zone}" if plan.zone.isdigit() else plan.zone
        found.append(_requirement("topology.kubernetes.io/zone", zone))
    if plan.capacity_type:
        found.append(_requirement("karpenter.sh/capacity-type", plan.capacity_type))
    return found


def offer_mark(plan: Plan) -> dict[str, str]:
    """The annotation by which an alternative is known again; a machine type alone tells it by itself."""
    return {names.OFFER: plan.offer} if plan.offer != plan.instance_type else {}


def storage_gib(plan: Plan) -> int:
    """The disk of one machine in GiB: KAITO's figures."""
    if plan.purpose == "tuning" or not plan.weights_bytes:
        return TUNING_STORAGE_GIB
    return math.floor(plan.weights_bytes / GIB + SERVING_SPARE_GIB)
