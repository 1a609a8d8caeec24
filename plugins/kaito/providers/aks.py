"""GPU machines as AKS agent pools: one pool for a run, made and taken back through Azure Resource Manager.

Only pools with our tag and our labels are ever changed or deleted, and a deletion is guarded by the eTag that was read:
a pool that has changed since is looked at again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowNotFoundException

from include.contracts.purpose import Purpose
from include.manifests import ManifestSettings
from include.planning import Plan
from include.pools.aks import (
    ENDED_STATES,
    KIND,
    LEAVING_STATES,
    SUCCEEDED,
    AgentPoolInvalid,
    AgentPoolOptions,
    agent_pool,
    belongs,
    is_ours,
    labels,
    machines,
    nodes_of,
    observed,
    properties,
    state,
)
from include.pools.azure_offer import Wanted
from include.pools.lost_nodes import LOST_SECONDS, is_lost, standing
from include.pools.observed import ObservedPool
from include.pools.status import FailureClass, classify
from include.workspace.api import names
from include.workspace.api.offers import SPOT
from kaito.hooks.api import NODE
from kaito.hooks.azure_account import AksAccount, AksError, ConnectionIncomplete
from kaito.providers.azure_connection import azure_subscribed, connection_of
from kaito.providers.base import (
    DELETE_ATTEMPTS,
    ForeignPool,
    GpuPool,
    PoolKey,
    PoolProvider,
    ProviderContext,
    taken,
)

if TYPE_CHECKING:
    from kaito.hooks.aks_calls import AgentPoolCalls

log = logging.getLogger(__name__)

Pool = dict[str, Any]

#: Azure takes some minutes for an operation; who comes second waits for it.
BUSY_SECONDS = 900.0
#: The reconciler does not wait long for its turn: the next pass asks again.
CONCURRENT_BUSY_SECONDS = 30.0


class AgentPools(PoolProvider):
    """AKS agent pools (``azure-mgmt-containerservice``).

    :param aks: asks Azure; by default over the connection of the setting ``[kaito] azure_conn_id``.
    :param options: spot, zones and what else an installation or a retry decides.
    :param poll: seconds between two looks while an earlier pool goes away.
    :param lost_seconds: how long a machine may be silent before it counts as dead.
    """

    name = names.ProviderName.AKS
    kind = KIND
    remote = True

    def __init__(
        self,
        context: ProviderContext,
        aks: AgentPoolCalls | None = None,
        options: AgentPoolOptions | None = None,
        *,
        poll: float = 2.0,
        busy_seconds: float | None = None,
        lost_seconds: float = LOST_SECONDS,
    ) -> None:
        super().__init__(context)
        self._aks = aks
        self.options = options or context.settings.options
        self.poll = poll
        usual = BUSY_SECONDS if context.cluster.blocking else CONCURRENT_BUSY_SECONDS
        self.busy_seconds = usual if busy_seconds is None else busy_seconds
        self.lost_seconds = lost_seconds

    @property
    def aks(self) -> AgentPoolCalls:
        if self._aks is None:
            from kaito.hooks.aks import AksHook, AsyncAksHook

            conn_id = self.context.settings.azure_conn_id
            self._aks = AksHook(conn_id).calls if self.cluster.blocking else AsyncAksHook(conn_id)
        return self._aks

    async def close(self) -> None:
        if self._aks is not None:
            await self._aks.close()

    def request(
        self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings
    ) -> GpuPool:
        """Return the pool of a plan: one agent pool with all machines. Raises AgentPoolInvalid."""
        body = agent_pool(workspace, plan, run_id, self._in_reach(settings.volume_zones))
        return GpuPool(PoolKey.of(workspace, plan.purpose), run_id, plan.instance_type, (body,))

    def _in_reach(self, volume_zones: tuple[str, ...]) -> AgentPoolOptions:
        """Return the options with the zones that can mount the run's volume, where it is in some (westeurope-2)."""
        there = tuple(zone.rpartition("-")[2] for zone in volume_zones)
        both = tuple(zone for zone in there if zone in self.options.zones)
        return replace(self.options, zones=both or there) if there else self.options

    async def _pools(self, wanted: Mapping[str, str] | None = None) -> list[Pool]:
        """Our pools, of all Workspaces or with these labels."""
        return [
            p for p in await self.aks.list_pools() if (is_ours(p) if wanted is None else belongs(p, wanted))
        ]

    async def create(self, pool: GpuPool) -> list[str]:
        """Ask for the agent pool, or take up the one that an earlier attempt asked for; does not wait for machines.

        Machines that the pool has lost are asked for anew. A pool that Azure gave up on is taken away first, and so is
        one with a machine that is there and dead: Azure would count it. A serving pool that another run made is used
        again.

        :raises PoolTaken: another run is tuning on this Workspace's pool.
        :raises ForeignPool: a pool of that name is not ours.
        :raises AksError: Azure refused; ``classify`` sorts its code and message.
        """
        existing = await self._pools(pool.key.labels)
        live = [p for p in existing if state(p) not in LEAVING_STATES | ENDED_STATES]
        self._check_owner(pool, live)
        nodes = await self.cluster.list(NODE) if existing else []
        if self._enough(pool, live, nodes):
            return []
        made = []
        for body in pool.claims:
            await self._clear(body, existing, nodes)
            found, created = await self.aks.begin_create(_dated(body), timeout=self.busy_seconds)
            if created:
                made.append(str(body["name"]))
            elif not belongs(found, pool.key.labels):
                raise ForeignPool(_foreign(found))
            elif self._standing(found, nodes) < body["properties"]["count"]:
                await self.aks.begin_update(_dated(body), etag=_etag(found), timeout=self.busy_seconds)
                made.append(str(body["name"]))
        return made

    def _check_owner(self, pool: GpuPool, live: list[Pool]) -> None:
        run = names.run_id_label(pool.run_id)
        owners = {labels(p).get(names.RUN_ID) or "" for p in live} - {run, ""}
        if owners and pool.key.purpose == Purpose.TUNING:
            raise taken(pool.key, owners)

    def _enough(self, pool: GpuPool, live: list[Pool], nodes: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the pools that are there have the machines that are wanted."""
        wanted = sum(int(body["properties"]["count"]) for body in pool.claims)
        same = [p for p in live if properties(p).get("vmSize") == pool.instance_type]
        return sum(self._standing(p, nodes) for p in same) >= wanted

    def _standing(self, pool: Pool, nodes: Sequence[Mapping[str, Any]]) -> int:
        """How many machines a pool has or is to get. Azure does not replace one that died or was evicted by itself."""
        if state(pool) != SUCCEEDED:
            return machines(pool)
        own = nodes_of([pool], nodes)
        return min(machines(pool), len(standing(own, datetime.now(UTC), self.lost_seconds)))

    def _spent(self, pool: Pool, nodes: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a pool can only be taken away: Azure gave up on it, or it has a dead machine."""
        if state(pool) in ENDED_STATES:
            return True
        now, own = datetime.now(UTC), nodes_of([pool], nodes)
        return state(pool) == SUCCEEDED and any(is_lost(node, now, self.lost_seconds) for node in own)

    async def _clear(
        self, body: Mapping[str, Any], existing: list[Pool], nodes: Sequence[Mapping[str, Any]]
    ) -> None:
        """Take away an earlier pool of this name that cannot be used, and wait until it is gone."""
        earlier = next((p for p in existing if p["name"] == body["name"]), None)
        if earlier is None:
            return
        name = str(earlier["name"])
        if self._spent(earlier, nodes):
            await self.aks.begin_delete(name, etag=_etag(earlier), timeout=self.busy_seconds)
        elif state(earlier) not in LEAVING_STATES:
            return
        deadline = time.monotonic() + self.busy_seconds
        while await self.aks.find(name) is not None:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"AgentPool {name} is still there {self.busy_seconds:.0f} s after its deletion."
                )
            await self.cluster.sleep(self.poll)

    async def request_deletion(
        self, key: PoolKey, run_id: str, timeout: float | None = None
    ) -> tuple[list[str], list[str]]:
        """Ask for the deletion of the run's pools as they were read."""
        wanted = {**key.labels, names.RUN_ID: names.run_id_label(run_id)}
        patience = self.busy_seconds if timeout is None else timeout
        pools: list[Pool] = []
        for _ in range(DELETE_ATTEMPTS):
            pools, changed = await self._pools(wanted), False
            for pool in pools:
                if state(pool) not in LEAVING_STATES:
                    changed |= await self._begin_delete(pool, patience) is None
            if not changed:
                break
        nodes = nodes_of(pools, await self.cluster.list(NODE)) if pools else []
        return [str(pool["name"]) for pool in pools], [node["metadata"]["name"] for node in nodes]

    async def _begin_delete(self, pool: Pool, timeout: float) -> bool | None:
        """Ask for the deletion of a pool as it was read; False where it is gone, None where it has changed since."""
        name, etag = str(pool["name"]), _etag(pool) or None
        try:
            return await self.aks.begin_delete(name, etag=etag, timeout=timeout)
        except AksError as error:
            if error.stale:
                return None
            raise

    async def list_owned(self, labels: Mapping[str, str] | None = None) -> list[ObservedPool]:
        pools = await self._pools(labels)
        nodes = await self.cluster.list(NODE) if pools else []
        return [observed(pool, nodes) for pool in pools]

    async def delete_observed(self, pool: ObservedPool, *, unchanged: bool = False) -> bool:
        body: Pool = {"name": pool.name, "properties": {"eTag": pool.version}}
        for _ in range(DELETE_ATTEMPTS):
            if (done := await self._begin_delete(body, self.busy_seconds)) is not None:
                return done
            if unchanged:
                return False
            live = await self.aks.find(pool.name)
            if live is None or not is_ours(live) or observed(live, ()).run != pool.run:
                return False
            body = live
        return False

    async def may_own(self) -> bool:
        """Where agent pools were chosen, or may have been: `auto` may have done so when the cluster was another.

        A Workspace that is gone does not tell any more whom it chose, so then the connection decides.
        """
        if self.context.choice == self.name:
            return True
        if self.context.workspace is None:
            return await self._connected()
        return self.context.choice == names.AUTO_PROVIDER and await self._subscribed()

    async def _subscribed(self) -> bool:
        return await azure_subscribed(self.cluster, self.context.settings.azure_conn_id)

    async def _connected(self) -> bool:
        """Whether the connection names an AKS cluster."""
        conn_id = self.context.settings.azure_conn_id
        conn = await connection_of(self.cluster, conn_id)
        if conn is None:
            return False
        try:
            AksAccount.from_connection(conn_id, conn, conn.extra_dejson)
        except ConnectionIncomplete:
            return False
        return True

    async def check_availability(self, plans: Sequence[Plan]) -> dict[str, str]:
        """Ask Azure for its offer and our quota. What a Workspace holds already is not asked for again.

        :raises ValueError: AKS takes no such pool, or the connection can never reach pools.
        """
        workspace = self.context.workspace
        if workspace is None or not plans:
            return {}
        self._need_a_valid_pool(workspace, plans)
        try:
            if await self._holds_machines(PoolKey.of(workspace, plans[0].purpose)):
                return {}
            wanted = [self._wanted(plan) for plan in plans]
            refusals = await self.aks.offers_faults(wanted)
        except AirflowNotFoundException:
            raise ValueError(
                f"Provider {self.name} needs an Airflow connection {self.context.settings.azure_conn_id} of type "
                "azure, and there is none."
            ) from None
        except AksError as error:
            log.info(
                "Whether Azure has machines could not be asked (%s): it shows when they are asked for.", error
            )
            return {}
        return {plan.offer: " ".join(faults) for plan, faults in zip(plans, refusals, strict=True) if faults}

    async def _holds_machines(self, key: PoolKey) -> bool:
        try:
            pools = await self._pools(key.labels)
        except AksError as error:
            if classify(error.code, error.message) in (FailureClass.AUTH, FailureClass.CONFIG):
                raise ValueError(str(error)) from None
            raise
        return any(state(pool) not in LEAVING_STATES for pool in pools)

    def _need_a_valid_pool(self, workspace: Mapping[str, Any], plans: Sequence[Plan]) -> None:
        """Raise AgentPoolInvalid where AKS would take none of the plans' pools, with the first one's faults."""
        refused = []
        for plan in plans:
            try:
                agent_pool(workspace, plan, "", self.options)
                return
            except AgentPoolInvalid as error:
                refused.append(error)
        raise refused[0]

    def _wanted(self, plan: Plan) -> Wanted:
        spot = plan.capacity_type == SPOT if plan.capacity_type else self.options.spot
        zones = (plan.zone,) if plan.zone else self.options.zones
        return Wanted(plan.instance_type, plan.node_count, "", zones, spot)


def _dated(body: Mapping[str, Any]) -> Pool:
    """Return a pool whose Nodes tell when it was asked for: since then its machines cost."""
    labelled = {**labels(body), names.ASKED_AT: str(int(time.time()))}
    return {**body, "properties": {**properties(body), "nodeLabels": labelled}}


def _etag(pool: Mapping[str, Any]) -> str:
    return str(properties(pool).get("eTag") or "")


def _foreign(pool: Pool) -> str:
    whose = "of another Workspace" if is_ours(pool) else "that this project did not make"
    return (
        f"The AKS cluster has an agent pool {pool['name']} {whose}; it is not touched. Delete or rename it, or give "
        "the Workspace another name."
    )
