"""GPU machines as NodeClaims, one each, as KAITO's gpu-provisioner reads them (kaito-api.md#nodeclaims).

Pure: the body to create, and what a NodeClaim and its Node say of the machine. Names are deterministic: a second
attempt finds the first one's claims instead of paying for more nodes. It must never talk to a cluster.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from include.catalog.models import GIB
from include.contracts.purpose import Purpose
from include.manifests.pods import Manifest, pool_labels, workspace_of
from include.manifests.settings import ManifestSettings
from include.planning import Plan
from include.pools.observed import (
    ObservedPool,
    Owner,
    PoolMachine,
    group_status,
)
from include.pools.status import (
    INSTANCE_TYPE_LABEL,
    PoolStatus,
    Stage,
    classify,
    condition_of,
    deleting,
    node_problem,
    node_stage,
    offer_of,
)
from include.pools.volume_placement import ZONE
from include.workspace import Workspace
from include.workspace.api import names
from include.workspace.api.selector import node_labels
from include.workspace.status.conditions import moment

Object = Mapping[str, Any]
#: What it makes, as users know it.
KIND = "NodeClaim"
#: Who makes NodeClaims of its own, and is judged in their place.
MAKER = "NodePool"
NODE_POOL = "kaito"  # a pool that does not exist, so that Karpenter itself leaves the node alone
TUNING_STORAGE_GIB = 1024  # KAITO's figure for tuning and templates
SERVING_SPARE_GIB = 80  # KAITO: weights + 80 GiB
DEFAULT_IMAGE_FAMILY = "ubuntu"

#: What Karpenter waits for before it says so, as our stages.
_STEPS = {
    "Launched": Stage.LAUNCH,
    "Registered": Stage.BOOT,
    "Initialized": Stage.DRIVER,
    "Ready": Stage.DRIVER,
}


def node_claim_name(workspace: Mapping[str, Any], purpose: Purpose, index: int) -> str:
    """Name of a pool's index-th NodeClaim: 11 characters, a valid AKS pool name, the same at every attempt."""
    meta = workspace["metadata"]
    place, generation = names.namespace(workspace), names.generation(workspace)
    key = f"{place}/{meta['name']}/{meta.get('uid', '')}/{generation}/{purpose}/{index}"
    return "ws" + hashlib.sha256(key.encode()).hexdigest()[:9]


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
            "name": node_claim_name(document, plan.purpose, index),
            "labels": labels,
            "annotations": {
                "karpenter.sh/do-not-disrupt": "true",
                names.NODE_IMAGE_FAMILY: family,
                **offer_mark(plan),
            },
        },
        "spec": {
            "nodeClassRef": _node_class(plan.instance_type, settings),
            "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
            "requirements": [
                _requirement("karpenter.sh/nodepool", NODE_POOL),
                _requirement(INSTANCE_TYPE_LABEL, plan.instance_type),
                _requirement("kubernetes.io/os", "linux"),
                *_cloud_requirements(plan.instance_type),
                *offer_requirements(plan, settings),
            ],
            "resources": {"requests": {"storage": f"{storage_gib(plan)}Gi"}},
        },
    }


def _node_class(instance_type: str, settings: ManifestSettings | None) -> Manifest:
    """The installation's node class, of the kind that the cloud's provisioner reads."""
    name = settings.node_class if settings else "default"
    if instance_type.startswith("Standard_"):
        return {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": name}
    return ec2_node_class(name)


def ec2_node_class(name: str) -> Manifest:
    """The node class that Karpenter reads on Amazon's cloud."""
    return {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": name}


def _requirement(key: str, value: str) -> Manifest:
    return {"key": key, "operator": "In", "values": [value]}


def _cloud_requirements(instance_type: str) -> list[Manifest]:
    """Azure machine types start with Standard_; the other spelling is Amazon's."""
    if instance_type.startswith("Standard_"):
        return [_requirement("karpenter.azure.com/sku-name", instance_type)]
    return [{"key": "karpenter.k8s.aws/instance-gpu-count", "operator": "Gt", "values": ["0"]}]


def offer_requirements(plan: Plan, settings: ManifestSettings | None = None) -> list[Manifest]:
    """What Karpenter has to keep of an alternative: its zone (else the volume's) and its terms.

    gpu-provisioner passes over all of them.

    Azure's zones are numbers, and Karpenter knows them with their region: westeurope-1. Raises ValueError without one.
    """
    result = []
    if plan.zone:
        region = settings.region if settings else ""
        if plan.zone.isdigit() and not region:
            raise ValueError(
                f"{plan.offer}: the zone's name begins with its region, and no Node says which region this is "
                "(label topology.kubernetes.io/region)."
            )
        zone = f"{region}-{plan.zone}" if plan.zone.isdigit() else plan.zone
        result.append(_requirement(ZONE, zone))
    elif settings is not None and settings.volume_zones:
        result.append({"key": ZONE, "operator": "In", "values": list(settings.volume_zones)})
    if plan.capacity_type:
        result.append(_requirement("karpenter.sh/capacity-type", plan.capacity_type))
    return result


def offer_mark(plan: Plan) -> dict[str, str]:
    """The annotation by which an alternative is known again; a machine type alone tells it by itself."""
    return {names.OFFER: plan.offer} if plan.offer != plan.instance_type else {}


def storage_gib(plan: Plan) -> int:
    """The disk of one machine in GiB: KAITO's figures."""
    if plan.purpose == Purpose.TUNING or not plan.weights_bytes:
        return TUNING_STORAGE_GIB
    return math.floor(plan.weights_bytes / GIB + SERVING_SPARE_GIB)


def observed(claim: Object, nodes: Mapping[str, Object]) -> ObservedPool:
    """A NodeClaim as a pool of one machine. `nodes` are the cluster's Nodes by name."""
    meta = claim["metadata"]
    labels = meta.get("labels") or {}
    held = ", ".join(meta.get("finalizers") or ())
    going = f"since {meta['deletionTimestamp']}" if deleting(claim) else ""
    if going and held:
        going += f", held by its finalizers {held}"
    return ObservedPool(
        provider=names.ProviderName.NODE_CLAIM,
        kind=KIND,
        name=str(meta["name"]),
        workspace=(
            str(labels.get(names.WORKSPACE_NAMESPACE) or ""),
            str(labels.get(names.WORKSPACE) or ""),
        ),
        purpose=str(labels.get(names.POOL) or ""),
        run=str(labels.get(names.RUN_ID) or ""),
        status=_status(claim, nodes),
        machines=(_machine(claim, labels),),
        uid=str(meta.get("uid") or ""),
        version=str(meta.get("resourceVersion") or ""),
        instance_type=instance_type(claim),
        single=True,
        details=f"finalizers: {held}" if held else "",
        deleting=going,
        keep=(meta.get("annotations") or {}).get(names.KEEP) == "true",
        created=moment(meta.get("creationTimestamp")),
        owner=owner_of(claim, MAKER),
        component=str(labels.get(names.COMPONENT) or ""),
    )


def owner_of(obj: Object, maker: str = "") -> Owner | None:
    """Who controls an object. Karpenter owns its NodeClaims without calling itself their controller."""
    owners = (obj["metadata"].get("ownerReferences") or ()) if obj else ()
    found = next((o for o in owners if o.get("controller")), None)
    found = found or next((o for o in owners if maker and o.get("kind") == maker), None)
    if found is None:
        return None
    kind = str(found.get("kind"))
    return Owner(kind, str(found.get("name")), str(found.get("uid") or ""), makes_pools=kind == maker)


def pool_status(claims: Iterable[Object], nodes: Iterable[Object], wanted: int = 1) -> PoolStatus:
    """Judge a pool by its NodeClaims and the cluster's Nodes; `wanted` is how many it was made with."""
    by_name = {str(node["metadata"]["name"]): node for node in nodes}
    return group_status([observed(claim, by_name) for claim in claims], KIND, wanted)


def instance_types(claim: Object) -> Sequence[str]:
    """The machine types that a NodeClaim or a NodePool's template asks for."""
    requirements = (claim.get("spec") or {}).get("requirements") or []
    return next((r.get("values") or [] for r in requirements if r.get("key") == INSTANCE_TYPE_LABEL), [])


def instance_type(claim: Object) -> str:
    """The machine type that a NodeClaim asks for, "" when it names none."""
    types = instance_types(claim)
    return str(types[0]) if types else ""


def node_of(claim: Object) -> str:
    return str((claim.get("status") or {}).get("nodeName") or "")


def _machine(claim: Object, labels: Mapping[str, str]) -> PoolMachine:
    meta, launched = claim["metadata"], condition_of(claim, "Launched")
    since = None
    if launched.get("status") == "True":
        since = moment(launched.get("lastTransitionTime")) or moment(meta.get("creationTimestamp"))
    return PoolMachine(
        uid=str(meta.get("uid") or meta["name"]),
        name=str(meta["name"]),
        node=node_of(claim),
        run=str(labels.get(names.RUN_ID) or ""),
        purpose=str(labels.get(names.POOL) or ""),
        instance_type=instance_type(claim),
        since=since,
        registered=moment(condition_of(claim, "Registered").get("lastTransitionTime")),
    )


def _status(claim: Object, nodes: Mapping[str, Object]) -> PoolStatus:
    """The state of one NodeClaim's machine; the messages are the cloud's own."""
    node = node_of(claim)
    members, offer = (node,) if node else (), offer_of(claim, instance_types(claim))
    problem = _claim_problem(claim) or _node_problem(claim, nodes)
    if problem is None:
        return PoolStatus(members, True, "NodesReady", f"1 GPU node ready: {node}", offer=offer)
    stage, reason, message = problem
    return PoolStatus(members, False, reason, message, classify(reason, message), stage=stage, offer=offer)


def _claim_problem(claim: Object) -> tuple[Stage, str, str] | None:
    """Return (stage, reason, message) of the first lifecycle step that is not done, None when the claim is ready."""
    name = claim["metadata"]["name"]
    if condition_of(claim, "Ready").get("status") == "True":
        return None
    for step, stage in _STEPS.items():
        condition = condition_of(claim, step)
        if condition.get("status") == "True":
            continue
        reason = condition.get("reason") or f"Not{step}"
        message = condition.get("message") or f"waiting until the machine is {step.lower()}"
        return stage, str(reason), f"NodeClaim {name}: {message}"
    return None


def _node_problem(claim: Object, nodes: Mapping[str, Object]) -> tuple[Stage, str, str] | None:
    node = nodes.get(node_of(claim))
    if node is None:
        message = f"NodeClaim {claim['metadata']['name']}: its node has not joined the cluster"
        return Stage.BOOT, "NodeNotReady", message
    problem = node_problem(node)
    return (node_stage(problem[0]), *problem) if problem else None
