"""GPU machines as AKS agent pools: one pool for a run, made and taken back through Azure Resource Manager.

Only pools with our tag and our labels are ever changed
or deleted, and a deletion is guarded by the eTag that was read: a pool that has changed since is looked at again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from include.ledger.unregistered import UnregisteredCapacity
from include.manifests import AgentPoolOptions, ManifestSettings, agent_pool
from include.planning import Plan
from include.pools.aks import (
    ENDED_STATES,
    LEAVING_STATES,
    SUCCEEDED,
    agent_pool_status,
    belongs,
    is_ours,
    labels,
    machines,
    nodes_of,
    properties,
    state,
    unregistered_capacity,
)
from include.pools.lost_nodes import LOST_SECONDS, is_lost, standing
from include.pools.status import PoolStatus
from include.workspace.api import names
from kaito.hooks.aks import AksHook
from kaito.hooks.api import NODE
from kaito.hooks.azure_account import AksError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook, KaitoClusterHook
from kaito.providers.base import (
    ForeignPool,
    GpuPool,
    PoolKey,
    PoolTaken,
    Purpose,
    let_go_and_wait,
)

Pool = dict[str, Any]

#: How often a pool that changes between reading and deleting it is read again.
DELETE_ATTEMPTS = 5
#: Azure takes some minutes for an operation; who comes second waits for it.
BUSY_SECONDS = 900.0


class AgentPools:
    """AKS agent pools (``azure-mgmt-containerservice``).

    :param options: spot, zones and what else an installation or a retry decides.
    :param poll: seconds between two looks while an earlier pool goes away.
    :param lost_seconds: how long a machine may be silent before it counts as dead.
    """

    def __init__(
        self,
        hook: KaitoClusterHook,
        aks: AksHook,
        options: AgentPoolOptions | None = None,
        *,
        poll: float = 2.0,
        busy_seconds: float = BUSY_SECONDS,
        lost_seconds: float = LOST_SECONDS,
    ) -> None:
        self.hook = hook
        self.aks = aks
        self.options = options or AgentPoolOptions()
        self.poll = poll
        self.busy_seconds = busy_seconds
        self.lost_seconds = lost_seconds

    def request(
        self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings
    ) -> GpuPool:
        """Return the pool of a plan: one agent pool with all machines. Raises AgentPoolInvalid."""
        body = agent_pool(workspace, plan, run_id, self.options)
        return GpuPool(PoolKey.of(workspace, plan.purpose), run_id, plan.instance_type, (body,))

    def create(self, pool: GpuPool) -> list[str]:
        """Ask for the agent pool, or take up the one that an earlier attempt asked for; does not wait for machines.

        Machines that the pool has lost are asked for anew. A pool that Azure gave up on is taken away first, and so is
        one with a machine that is there and dead: Azure would count it. A serving pool that another run made is used
        again.

        :raises PoolTaken: another run is tuning on this Workspace's pool.
        :raises ForeignPool: a pool of that name is not ours.
        :raises AksError: Azure refused; ``classify`` sorts its code and message.
        """
        existing = [p for p in self.aks.list_pools() if belongs(p, pool.key.labels)]
        live = [p for p in existing if state(p) not in LEAVING_STATES | ENDED_STATES]
        self._check_owner(pool, live)
        if self._enough(pool, live):
            return []
        made = []
        for body in pool.claims:
            self._clear(body, existing)
            found, created = self.aks.begin_create(_dated(body), timeout=self.busy_seconds)
            if created:
                made.append(str(body["name"]))
            elif not belongs(found, pool.key.labels):
                raise ForeignPool(_foreign(found))
            elif self._standing(found) < body["properties"]["count"]:
                self.aks.begin_update(_dated(body), etag=_etag(found), timeout=self.busy_seconds)
                made.append(str(body["name"]))
        return made

    def _check_owner(self, pool: GpuPool, live: list[Pool]) -> None:
        run = names.run_id_label(pool.run_id)
        owners = {labels(p).get(names.RUN_ID) or "" for p in live} - {run, ""}
        if owners and pool.key.purpose == Purpose.TUNING:
            raise PoolTaken(
                f"Run {', '.join(sorted(owners))} holds the tuning machines of Workspace {pool.key.workspace}: "
                "wait until it ends, or stop it.",
                owners,
            )

    def _enough(self, pool: GpuPool, live: list[Pool]) -> bool:
        """Whether the pools that are there have the machines that are wanted."""
        wanted = sum(int(body["properties"]["count"]) for body in pool.claims)
        same = [p for p in live if properties(p).get("vmSize") == pool.instance_type]
        return sum(self._standing(p) for p in same) >= wanted

    def _standing(self, pool: Pool) -> int:
        """How many machines a pool has or is to get. Azure does not replace one that died or was evicted by itself."""
        if state(pool) != SUCCEEDED:
            return machines(pool)
        return min(machines(pool), len(standing(self._nodes(pool), datetime.now(UTC), self.lost_seconds)))

    def _nodes(self, pool: Pool) -> list[Mapping[str, Any]]:
        return nodes_of([pool], self.hook.list(NODE))

    def _spent(self, pool: Pool) -> bool:
        """Whether a pool can only be taken away: Azure gave up on it, or it has a dead machine."""
        if state(pool) in ENDED_STATES:
            return True
        now = datetime.now(UTC)
        return state(pool) == SUCCEEDED and any(
            is_lost(node, now, self.lost_seconds) for node in self._nodes(pool)
        )

    def _clear(self, body: Mapping[str, Any], existing: list[Pool]) -> None:
        """Take away an earlier pool of this name that cannot be used, and wait until it is gone."""
        earlier = next((p for p in existing if p["name"] == body["name"]), None)
        if earlier is None:
            return
        if self._spent(earlier):
            self.aks.begin_delete(str(earlier["name"]), etag=_etag(earlier), timeout=self.busy_seconds)
        elif state(earlier) not in LEAVING_STATES:
            return
        deadline = time.monotonic() + self.busy_seconds
        while self.aks.find(str(earlier["name"])) is not None:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"AgentPool {earlier['name']} is still there {self.busy_seconds:.0f} s after its deletion."
                )
            time.sleep(self.poll)

    def delete(self, key: PoolKey, run_id: str) -> list[str]:
        """Ask for the deletion of the run's agent pools; returns their names and those of their Nodes."""
        pools = self._request_deletion(key, run_id, self.busy_seconds)
        gone = nodes_of(pools, self.hook.list(NODE)) if pools else []
        return [str(pool["name"]) for pool in pools] + [node["metadata"]["name"] for node in gone]

    def _request_deletion(self, key: PoolKey, run_id: str, timeout: float) -> list[Pool]:
        """Ask for the deletion of the run's pools as they were read; returns those that are still there."""
        wanted = {**key.labels, names.RUN_ID: names.run_id_label(run_id)}
        pools: list[Pool] = []
        for _ in range(DELETE_ATTEMPTS):
            pools, changed = [p for p in self.aks.list_pools() if belongs(p, wanted)], False
            for pool in pools:
                if state(pool) in LEAVING_STATES:
                    continue
                try:
                    self.aks.begin_delete(str(pool["name"]), etag=_etag(pool), timeout=timeout)
                except AksError as error:
                    if not error.stale:
                        raise
                    changed = True
            if not changed:
                break
        return pools

    def delete_and_wait(self, key: PoolKey, run_id: str, *, timeout: float, poll: float = 0.3) -> None:
        """Delete the run's agent pools and return when they and their Nodes are gone.

        :raises TimeoutError: something is still there after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout

        def left() -> tuple[list[str], list[str]]:
            pools = self._request_deletion(key, run_id, max(0.0, deadline - time.monotonic()))
            nodes = nodes_of(pools, self.hook.list(NODE)) if pools else []
            return [str(pool["name"]) for pool in pools], [node["metadata"]["name"] for node in nodes]

        let_go_and_wait(self.hook, left, timeout=timeout, poll=poll)

    def owned(self) -> list[Pool]:
        """Return all agent pools that this project made, for whichever Workspace: what a janitor looks through."""
        return [pool for pool in self.aks.list_pools() if is_ours(pool)]

    def delete_as_seen(self, pool: Mapping[str, Any]) -> bool:
        """Ask for the deletion of one of our pools if it still is as it was read.

        :returns: False when it has changed since, is gone, or is not ours: then it is left alone.
        """
        if not is_ours(pool):
            return False
        try:
            return self.aks.begin_delete(str(pool["name"]), etag=_etag(pool), timeout=self.busy_seconds)
        except AksError as error:
            if error.stale:
                return False
            raise

    def unregistered_capacity(self, key: PoolKey) -> list[UnregisteredCapacity]:
        """Return the Workspace's pools, whatever for, whose machines may not all have joined."""
        mine = {name: value for name, value in key.labels.items() if name != names.POOL}
        return unregistered_capacity([pool for pool in self.aks.list_pools() if belongs(pool, mine)])

    def observe(self, key: PoolKey) -> PoolStatus:
        pools = [pool for pool in self.aks.list_pools() if belongs(pool, key.labels)]
        return agent_pool_status(pools, self.hook.list(NODE))


async def observe_agent_pools(hook: AsyncKaitoClusterHook, aks: AksHook, key: PoolKey) -> PoolStatus:
    """As :meth:`AgentPools.observe`, for triggers."""
    pools = [pool for pool in await aks.async_list_pools() if belongs(pool, key.labels)]
    return agent_pool_status(pools, await hook.list(NODE))


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
