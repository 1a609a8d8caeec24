"""GPU machines as a Karpenter NodePool with static replicas: one pool for a run, Karpenter makes its NodeClaims.

Replicas are only ever raised, and only NodePools with
our labels are changed or deleted, as they were read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from include.manifests import ManifestSettings
from include.manifests.node_pools import node_pool
from include.planning import Plan
from include.pools.nodepool import replicas
from include.pools.status import (
    FINAL_CLASSES,
    FailureClass,
    PoolStatus,
    Stage,
    classify,
    deleting,
    instance_types,
    offer_of,
    pool_status,
)
from include.workspace.api import names
from kaito.hooks.api import EVENT, NODE, NODE_CLAIM, Kind
from kaito.hooks.kubernetes import AsyncKaitoClusterHook, KaitoClusterHook
from kaito.providers.base import (
    ForeignPool,
    GpuPool,
    PoolKey,
    PoolTaken,
    Purpose,
    let_go_and_wait,
)

Object = Mapping[str, Any]

NODE_POOL = Kind("karpenter.sh", "v1", "nodepools", "NodePool", namespaced=False)
POOL_LABEL = "karpenter.sh/nodepool"
DELETE_ATTEMPTS = 5
GONE_SECONDS = 600.0
NO_CAPACITY_EVENTS = "involvedObject.kind=NodeClaim,reason=InsufficientCapacityError"
#: How long an event speaks for its pool: Karpenter tries again, and says so again, within a minute.
EVENT_SECONDS = 120.0


def _labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def _claims_of(pools: Iterable[Object], claims: Iterable[Object]) -> list[Object]:
    wanted = {pool["metadata"]["name"] for pool in pools}
    return [claim for claim in claims if _labels(claim).get(POOL_LABEL) in wanted]


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


def node_pool_status(
    pools: Iterable[Object],
    claims: Iterable[Object],
    nodes: Iterable[Object],
    events: Iterable[Object] = (),
    now: datetime | None = None,
) -> PoolStatus:
    """Judge NodePools by their NodeClaims, the cluster's Nodes, and Karpenter's events of lacking capacity.

    Karpenter deletes a claim that its cloud has no machine for and makes another, so that only the event remains.
    """
    live = [pool for pool in pools if not deleting(pool)]
    if not live:
        told = "There is no NodePool: it was deleted."
        return PoolStatus((), False, "NodePoolMissing", told, FailureClass.CONFIG)
    found = _judged(live, claims, nodes, events, now or datetime.now(UTC))
    return replace(found, offer=offer_of(live[0], instance_types(live[0]["spec"]["template"])))


def _judged(
    live: Sequence[Object],
    claims: Iterable[Object],
    nodes: Iterable[Object],
    events: Iterable[Object],
    now: datetime,
) -> PoolStatus:
    own = [claim for claim in _claims_of(live, claims) if not deleting(claim)]
    wanted = sum(replicas(pool) for pool in live)
    status = pool_status(own, nodes) if own else None
    if status is not None and (status.failed or (status.ready and len(own) >= wanted)):
        return status
    if refused := _refusal(live, events, now):
        return refused
    if status is not None and len(own) >= wanted:
        return status
    told = f"NodePool {live[0]['metadata']['name']} has {len(own)} of {wanted} NodeClaim(s)"
    return PoolStatus(
        status.nodes if status else (),
        False,
        "NodeClaimNotReady",
        told,
        FailureClass.TRANSIENT,
        stage=Stage.LAUNCH,
    )


class NodePools:
    """Karpenter's NodePools with static replicas (Karpenter 1.8 or newer, AKS node auto-provisioning)."""

    def __init__(self, hook: KaitoClusterHook) -> None:
        self.hook = hook

    def request(
        self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings
    ) -> GpuPool:
        """Return the pool of a plan: one NodePool."""
        manifest = node_pool(workspace, plan, run_id, settings)
        return GpuPool(PoolKey.of(workspace, plan.purpose), run_id, plan.instance_type, (manifest,))

    def create(self, pool: GpuPool) -> list[str]:
        """Make the NodePool, or raise the replicas of the one that is there.

        :raises PoolTaken: another run is tuning on this pool.
        :raises ForeignPool: a NodePool of that name is not ours.
        """
        made = []
        for manifest in pool.claims:
            name = str(manifest["metadata"]["name"])
            found = self.hook.find(NODE_POOL, name)
            if found is not None and deleting(found):
                self.hook.delete_and_wait(NODE_POOL, name, timeout=GONE_SECONDS)
            found, created = self.hook.get_or_create(NODE_POOL, manifest)
            if not created:
                self._check(pool, found)
                created = self._raise(pool, manifest, found)
            if created:
                made.append(name)
        return made

    def _check(self, pool: GpuPool, found: Object) -> None:
        name, has = found["metadata"]["name"], _labels(found)
        if any(has.get(key) != value for key, value in pool.key.labels.items()):
            raise ForeignPool(
                f"The cluster has a NodePool {name} that this project did not make for Workspace "
                f"{pool.key.workspace}; it is not touched. Delete it, or give the Workspace another name."
            )
        if pool.key.purpose == Purpose.TUNING and has.get(names.RUN_ID) != names.run_id_label(pool.run_id):
            raise PoolTaken(
                f"Run {has.get(names.RUN_ID)} holds the tuning machines of Workspace {pool.key.workspace}: "
                "wait until it ends, or stop it.",
                [has.get(names.RUN_ID)],
            )

    def _raise(self, pool: GpuPool, manifest: Object, found: Object) -> bool:
        """Ask for more machines, or for others, of a pool that is there; returns whether anything had to change."""
        same = pool.instance_type in instance_types(found["spec"]["template"])
        if same and replicas(found) >= replicas(manifest):
            return False
        self.hook.apply(NODE_POOL, manifest)
        return True

    def delete(self, key: PoolKey, run_id: str) -> list[str]:
        """Ask for the deletion of the run's NodePools; returns their names and those of their Nodes."""
        pools, nodes = self._request_deletion(key, run_id)
        return [pool["metadata"]["name"] for pool in pools] + nodes

    def _request_deletion(self, key: PoolKey, run_id: str) -> tuple[list[Object], list[str]]:
        wanted = {**key.labels, names.RUN_ID: names.run_id_label(run_id)}
        pools: list[Object] = []
        for _ in range(DELETE_ATTEMPTS):
            pools, held = self.hook.list(NODE_POOL, labels=wanted), False
            for pool in pools:
                metadata = pool["metadata"]
                held |= not deleting(pool) and not self.hook.delete(
                    NODE_POOL,
                    metadata["name"],
                    uid=metadata["uid"],
                    version=metadata.get("resourceVersion"),
                )
            if not held:
                break
        claims = _claims_of(pools, self.hook.list(NODE_CLAIM)) if pools else []
        return pools, [name for claim in claims if (name := (claim.get("status") or {}).get("nodeName"))]

    def delete_and_wait(self, key: PoolKey, run_id: str, *, timeout: float, poll: float = 0.3) -> None:
        """Delete the run's NodePools and return when they and their Nodes are gone.

        :raises TimeoutError: something is still there after ``timeout`` seconds.
        """

        def left() -> tuple[list[str], list[str]]:
            pools, nodes = self._request_deletion(key, run_id)
            return [pool["metadata"]["name"] for pool in pools], nodes

        let_go_and_wait(self.hook, left, timeout=timeout, poll=poll)

    def unregistered_capacity(self, key: PoolKey) -> None:
        """Every machine is a NodeClaim."""

    def observe(self, key: PoolKey) -> PoolStatus:
        pools = self.hook.list(NODE_POOL, labels=key.labels)
        claims = self.hook.list(NODE_CLAIM, labels=key.labels)
        events = self.hook.list(EVENT, fields=NO_CAPACITY_EVENTS)
        return node_pool_status(pools, claims, self.hook.list(NODE), events)


async def observe_node_pools(hook: AsyncKaitoClusterHook, key: PoolKey) -> PoolStatus:
    """As :meth:`NodePools.observe`, for triggers."""
    pools = await hook.list(NODE_POOL, labels=key.labels)
    claims = await hook.list(NODE_CLAIM, labels=key.labels)
    events = await hook.list(EVENT, fields=NO_CAPACITY_EVENTS)
    return node_pool_status(pools, claims, await hook.list(NODE), events)
