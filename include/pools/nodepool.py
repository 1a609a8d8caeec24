"""GPU machines as one Karpenter NodePool with static replicas, as in KAITO's karpenter mode (kaito-api.md#nodepools).

Pure: the body to create, and what a NodePool, its NodeClaims, the Nodes and Karpenter's events say of its machines.
Names are deterministic. Machines of a pool are never disrupted while it lives: a tuning that loses its node by a drift
would start from its last checkpoint for nothing. It must never talk to a cluster.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from include.contracts.plural import plural
from include.contracts.purpose import Purpose
from include.manifests.pods import Manifest, pool_labels, workspace_of
from include.manifests.settings import ManifestSettings
from include.planning import Plan
from include.pools import nodeclaim
from include.pools.nodeclaim import DEFAULT_IMAGE_FAMILY, ec2_node_class, offer_mark, offer_requirements
from include.pools.observed import (
    ObservedPool,
    PoolMachine,
    group_status,
    node_machine,
    together,
)
from include.pools.status import (
    FINAL_CLASSES,
    INSTANCE_TYPE_LABEL,
    FailureClass,
    PoolStatus,
    Stage,
    classify,
    deleting,
    offer_of,
)
from include.workspace import Workspace
from include.workspace.api import names
from include.workspace.api.selector import node_labels

Object = Mapping[str, Any]
#: What it makes, as users know it.
KIND = "NodePool"
POOL_LABEL = "karpenter.sh/nodepool"
#: How long an event speaks for its pool: Karpenter tries again, and says so again, within a minute.
EVENT_SECONDS = 120.0

NAME_MAX, NAME_KEPT, HASH_DIGITS = 63, 53, 9
OWNER_NAME, OWNER_NAMESPACE = "karpenter.kaito.sh/workspace-name", "karpenter.kaito.sh/workspace-namespace"
NODE_CLASSES = {"ubuntu": "image-family-ubuntu", "azurelinux": "image-family-azure-linux"}


def node_pool_name(ws: Workspace, purpose: Purpose) -> str:
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
        "kind": KIND,
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
    result = [{"key": INSTANCE_TYPE_LABEL, "operator": "In", "values": [plan.instance_type]}]
    result += offer_requirements(plan, settings)
    zonal = plan.zone or (settings is not None and settings.volume_zones)
    if plan.instance_type.startswith("Standard_") and not zonal:
        result.append(
            {"key": "karpenter.azure.com/placement-scope", "operator": "In", "values": ["regional"]}
        )
    return result


def _node_class(ws: Workspace, instance_type: str, settings: ManifestSettings | None) -> Manifest:
    """The node class: the Workspace's annotation, else the installation's, else KAITO's for the image family."""
    chosen = ws.annotations.get(names.NODE_CLASS_NAME)
    if not chosen and settings is not None and settings.node_class != "default":
        chosen = settings.node_class
    if not instance_type.startswith("Standard_"):
        return ec2_node_class(chosen or "default")
    family = ws.annotations.get(names.NODE_IMAGE_FAMILY, DEFAULT_IMAGE_FAMILY).strip().lower()
    name = chosen or NODE_CLASSES.get(family, NODE_CLASSES[DEFAULT_IMAGE_FAMILY])
    return {"group": "karpenter.azure.com", "kind": "AKSNodeClass", "name": name}


def replicas(pool: Object) -> int:
    """How many machines a NodePool is to have."""
    return int((pool.get("spec") or {}).get("replicas") or 0)


def claims_of(pools: Iterable[Object], claims: Iterable[Object]) -> list[Object]:
    """The NodeClaims that Karpenter made for these NodePools."""
    wanted = {pool["metadata"]["name"] for pool in pools}
    return [claim for claim in claims if _labels(claim).get(POOL_LABEL) in wanted]


def observed(
    pool: Object,
    claims: Iterable[Object] = (),
    nodes: Iterable[Object] = (),
    events: Iterable[Object] = (),
    now: datetime | None = None,
) -> ObservedPool:
    """A NodePool with its NodeClaims, the cluster's Nodes, and Karpenter's events of lacking capacity.

    Karpenter deletes a claim that its cloud has no machine for and makes another, so that only the event remains.
    """
    listed, own = list(nodes), claims_of([pool], claims)
    single = nodeclaim.observed(pool, {})  # what is the same for every object of the cluster
    status = _judged([pool], own, listed, events, now or datetime.now(UTC))
    types = nodeclaim.instance_types((pool.get("spec") or {}).get("template") or {})
    return replace(
        single,
        provider=names.ProviderName.NODE_POOL,
        kind=KIND,
        status=replace(status, offer=offer_of(pool, types)),
        machines=_machines(pool, own, listed),
        instance_type=types[0] if types else "",
        single=False,
        size=replicas(pool),
        owner=nodeclaim.owner_of(pool),
    )


def node_pool_status(
    pools: Iterable[Object],
    claims: Iterable[Object],
    nodes: Iterable[Object],
    events: Iterable[Object] = (),
    now: datetime | None = None,
) -> PoolStatus:
    """Judge NodePools by their NodeClaims, the cluster's Nodes, and Karpenter's events of lacking capacity."""
    listed, known, told = list(claims), list(nodes), list(events)
    return group_status([observed(pool, listed, known, told, now) for pool in pools], KIND)


def _labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def _machines(pool: Object, claims: Iterable[Object], nodes: Iterable[Object]) -> tuple[PoolMachine, ...]:
    """The machines of a pool: its NodeClaims', and Nodes that only a label ties to it."""
    found = [machine for claim in claims for machine in nodeclaim.observed(claim, {}).machines]
    joined = {machine.node for machine in found}
    mine = [node for node in nodes if _labels(node).get(POOL_LABEL) == pool["metadata"]["name"]]
    found += [node_machine(node) for node in mine if node["metadata"]["name"] not in joined]
    return tuple(found)


def _made_claim(pool: Object, claim: str, at: datetime) -> bool:
    """Whether a NodeClaim of this name, of that time, was this pool's and not an earlier one's.

    Both times are whole seconds. In the second in which a pool is made its cloud has refused nothing yet, but may have
    refused the one before it, of the same name; Karpenter says it again.
    """
    metadata = pool["metadata"]
    since = metadata.get("creationTimestamp")
    named = re.fullmatch(re.escape(metadata["name"]) + r"-[a-z0-9]+", claim) is not None
    return named and (since is None or at > datetime.fromisoformat(since))


def _refusal(pools: Sequence[Object], events: Iterable[Object], now: datetime) -> PoolStatus | None:
    """What Karpenter said lately of claims that it has deleted again because the cloud had no machine for them."""
    for event in events:
        about, said = event.get("involvedObject") or {}, event.get("lastTimestamp") or event.get("eventTime")
        if about.get("kind") != "NodeClaim" or not said:
            continue
        at = datetime.fromisoformat(said)
        recent = (now - at).total_seconds() < EVENT_SECONDS
        if recent and any(_made_claim(pool, str(about.get("name")), at) for pool in pools):
            reason, message = str(event.get("reason")), str(event.get("message"))
            found = classify(reason, message)
            failure = found if found in FINAL_CLASSES else FailureClass.CAPACITY
            return PoolStatus((), False, reason, message, failure)
    return None


def _judged(
    live: Sequence[Object],
    claims: Iterable[Object],
    nodes: Iterable[Object],
    events: Iterable[Object],
    now: datetime,
) -> PoolStatus:
    own = [claim for claim in claims_of(live, claims) if not deleting(claim)]
    wanted = sum(replicas(pool) for pool in live)
    by_name = {str(node["metadata"]["name"]): node for node in nodes}
    status = together([nodeclaim.observed(claim, by_name).status for claim in own]) if own else None
    if status is not None and (status.failed or (status.ready and len(own) >= wanted)):
        return status
    if refused := _refusal(live, events, now):
        return refused
    if status is not None and len(own) >= wanted:
        return status
    message = f"NodePool {live[0]['metadata']['name']} has {len(own)} of {plural(wanted, 'NodeClaim')}"
    return PoolStatus(
        status.nodes if status else (),
        False,
        "NodeClaimNotReady",
        message,
        FailureClass.TRANSIENT,
        stage=Stage.LAUNCH,
    )
