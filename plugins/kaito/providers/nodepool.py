"""GPU machines as a Karpenter NodePool with static replicas: one pool for a run, Karpenter makes its NodeClaims.

Replicas are only ever raised, and only NodePools with our labels are changed or deleted, as they were read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.contracts.purpose import Purpose
from include.manifests import ManifestSettings
from include.planning import Plan
from include.pools import nodepool
from include.pools.nodeclaim import instance_types, node_of
from include.pools.nodepool import KIND, claims_of, node_pool, replicas
from include.pools.observed import ObservedPool, group_status
from include.pools.status import PoolStatus, deleting
from include.workspace.api import names
from kaito.hooks.api import EVENT, NODE, Kind
from kaito.providers.base import (
    DELETE_ATTEMPTS,
    GpuPool,
    PoolKey,
    foreign,
    labelled,
    taken,
)
from kaito.providers.karpenter import KarpenterProvider
from kaito.providers.nodeclaim import GONE_SECONDS, NODE_CLAIM

Object = Mapping[str, Any]

NODE_POOL = Kind("karpenter.sh", "v1", "nodepools", KIND, namespaced=False)
NO_CAPACITY_EVENTS = "involvedObject.kind=NodeClaim,reason=InsufficientCapacityError"


class NodePools(KarpenterProvider):
    """Karpenter's NodePools with static replicas (Karpenter 1.8 or newer, AKS node auto-provisioning)."""

    name = names.ProviderName.NODE_POOL
    kind = KIND
    objects = NODE_POOL

    def request(
        self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings
    ) -> GpuPool:
        """Return the pool of a plan: one NodePool."""
        manifest = node_pool(workspace, plan, run_id, settings)
        return GpuPool(PoolKey.of(workspace, plan.purpose), run_id, plan.instance_type, (manifest,))

    async def create(self, pool: GpuPool) -> list[str]:
        """Make the NodePool, or raise the replicas of the one that is there.

        :raises PoolTaken: another run is tuning on this pool.
        :raises ForeignPool: a NodePool of that name is not ours.
        """
        made = []
        for manifest in pool.claims:
            name = str(manifest["metadata"]["name"])
            found = await self.cluster.find(NODE_POOL, name)
            if found is not None and deleting(found):
                await self.cluster.delete_and_wait(NODE_POOL, name, timeout=GONE_SECONDS)
            found, created = await self.cluster.get_or_create(NODE_POOL, manifest)
            if not created:
                self._check(pool, found)
                created = await self._raise(pool, manifest, found)
            if created:
                made.append(name)
        return made

    def _check(self, pool: GpuPool, found: Object) -> None:
        if not labelled(found, pool.key.labels):
            raise foreign(KIND, found["metadata"]["name"], pool.key)
        run = (found["metadata"].get("labels") or {}).get(names.RUN_ID)
        if pool.key.purpose == Purpose.TUNING and run != names.run_id_label(pool.run_id):
            raise taken(pool.key, [run])

    async def _raise(self, pool: GpuPool, manifest: Object, found: Object) -> bool:
        """Ask for more machines, or for others, of a pool that is there; returns whether anything had to change."""
        same = pool.instance_type in instance_types(found["spec"]["template"])
        if same and replicas(found) >= replicas(manifest):
            return False
        await self.cluster.apply(NODE_POOL, manifest)
        return True

    async def request_deletion(
        self, key: PoolKey, run_id: str, timeout: float | None = None
    ) -> tuple[list[str], list[str]]:
        wanted = {**key.labels, names.RUN_ID: names.run_id_label(run_id)}
        pools: list[dict[str, Any]] = []
        for _ in range(DELETE_ATTEMPTS):
            pools, held = await self.cluster.list(NODE_POOL, labels=wanted), False
            for pool in pools:
                metadata = pool["metadata"]
                held |= not deleting(pool) and not await self.cluster.delete(
                    NODE_POOL,
                    metadata["name"],
                    uid=metadata["uid"],
                    version=metadata.get("resourceVersion"),
                )
            if not held:
                break
        claims = claims_of(pools, await self.cluster.list(NODE_CLAIM)) if pools else []
        return [pool["metadata"]["name"] for pool in pools], [n for c in claims if (n := node_of(c))]

    async def observe(self, key: PoolKey, wanted: int = 1) -> PoolStatus:
        """Say what is there now. A cluster that knows no NodePools is an error here."""
        pools = await self.cluster.list(NODE_POOL, labels=key.labels)
        claims = await self.cluster.list(NODE_CLAIM, labels=key.labels)
        events = await self.cluster.list(EVENT, fields=NO_CAPACITY_EVENTS)
        nodes = await self.cluster.list(NODE)
        found = [nodepool.observed(pool, claims, nodes, events) for pool in pools]
        return group_status(found, KIND, wanted)

    async def list_owned(self, labels: Mapping[str, str] | None = None) -> list[ObservedPool]:
        pools = await self.list_kind(NODE_POOL, labels)
        claims = await self.list_kind(NODE_CLAIM, labels) if pools else []
        nodes = await self.cluster.list(NODE) if pools else []
        return [nodepool.observed(pool, claims, nodes) for pool in pools]
