"""AKS agent pools: each machine of a pool's scale set becomes a Node after its boot, and goes with the pool.

The REST side (sandbox.arm) writes down what is asked for; here it happens. A pool's operation succeeds when its
Nodes are Ready. It must never remove a Node of a living machine before its pods have ended, nor lose a machine that
runs: machines are in the state and in the ledger before their Node exists.
"""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

from sandbox.api.cluster import Cluster
from sandbox.arm import account
from sandbox.arm.account import machine_name
from sandbox.arm.errors import ArmError, allocation_failed
from sandbox.arm.schema import read_taint
from sandbox.arm.state import (
    BUSY,
    CANCELED,
    CANCELING,
    DELETING,
    SCALING,
    SUCCEEDED,
    ArmState,
    Pool,
    VirtualMachine,
)
from sandbox.cloud.ledger import Ledger
from sandbox.cloud.machines import MachineType, find_machine_type
from sandbox.cloud.nodes import BOOTING_SHARE, INSTANCE_TYPE, NodeLife, capacity_fault
from sandbox.controllers.ownership import condition_of, is_finished, is_terminating
from sandbox.controllers.reconciler import Controller, Feeds, Key, Object, read
from sandbox.controllers.volume_binding import DISK_ZONE
from sandbox.faults import Fault, FaultKind, Faults
from sandbox.layout import Timings
from sandbox.node import machine

AGENT_POOL = "kubernetes.azure.com/agentpool"
SPOT = {"key": "kubernetes.azure.com/scalesetpriority", "value": "spot", "effect": "NoSchedule"}
EVICTED = {"key": "remediator.aks.microsoft.com/unschedulable", "effect": "NoSchedule"}
CORDONED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
DRAIN_POLL = 1.0


def provider_id(pool: str, index: int) -> str:
    return (
        f"azure:///subscriptions/{account.SUBSCRIPTION}/resourceGroups/{account.NODE_GROUP.lower()}/providers/"
        f"Microsoft.Compute/virtualMachineScaleSets/{account.scale_set(pool)}/virtualMachines/{index}"
    )


def node_labels(pool: Pool, type_: MachineType, vm: VirtualMachine) -> dict[str, str]:
    """The labels that AKS puts on a machine's Node, over those that the pool asks for."""
    shown = account.pool_properties(pool)
    nvidia = {"accelerator": "nvidia", "kubernetes.azure.com/accelerator": "nvidia"}
    return {
        **(shown.get("nodeLabels") or {}),
        INSTANCE_TYPE: type_.name,
        "agentpool": pool.name,
        AGENT_POOL: pool.name,
        "kubernetes.azure.com/cluster": account.NODE_GROUP,
        "kubernetes.azure.com/mode": str(shown["mode"]).lower(),
        "kubernetes.azure.com/node-image-version": shown["nodeImageVersion"],
        "kubernetes.azure.com/os-sku": shown["osSKU"],
        "kubernetes.azure.com/role": "agent",
        "topology.kubernetes.io/region": account.LOCATION,
        "topology.kubernetes.io/zone": f"{account.LOCATION}-{vm.zone}" if vm.zone else "0",
        DISK_ZONE: f"{account.LOCATION}-{vm.zone}" if vm.zone else "",
        **(nvidia if type_.resource == "nvidia.com/gpu" else {}),
    }


def build_node(pool: Pool, type_: MachineType, vm: VirtualMachine) -> Object:
    taints = [read_taint(text) for text in account.pool_properties(pool).get("nodeTaints") or []]
    name, labels = machine_name(pool.name, vm.index), node_labels(pool, type_, vm)
    return machine.build_node(name, name, labels, taints=taints, provider_id=provider_id(pool.name, vm.index))


class AgentPoolController(Controller):
    """Keys are ("", pool name); the pools are in ArmState, so only Nodes and pods are followed."""

    resource: ClassVar[str] = ""
    workers: ClassVar[int] = 4

    def __init__(
        self,
        cluster: Cluster,
        feeds: Feeds,
        faults: Faults,
        ledger: Ledger,
        timings: Timings,
        state: ArmState,
    ) -> None:
        super().__init__(cluster, feeds)
        self._faults = faults
        self._ledger = ledger
        self._timings = timings
        self._state = state
        self._life = NodeLife(
            cluster,
            feeds,
            faults,
            timings,
            owned=lambda node: self._pool_of(node) is not None,
            changed=lambda node: self._node_changed("SYNC", node),
            notice=EVICTED,
        )
        feeds.subscribe("nodes", self._node_changed)
        feeds.subscribe("pods", self._pod_changed)
        faults.listen(FaultKind.SLOW_BOOT, self._look_again)

    async def run(self) -> None:
        for name in self._state.pools:
            self.enqueue(("", name))
        await super().run()

    # --- what wakes it --------------------------------------------------------------------------------------------

    def _pool_of(self, node: Object) -> Pool | None:
        labels = node["metadata"].get("labels") or {}
        return self._state.pools.get(labels.get(AGENT_POOL, "")) if machine.is_managed(node) else None

    def _node_changed(self, _event: str, node: Object) -> None:
        pool = self._pool_of(node)
        if pool is not None:
            self.enqueue(("", pool.name))

    def _pod_changed(self, event: str, pod: Object) -> None:
        """A drain waits for pods to end."""
        if event == "DELETED" or is_finished(pod):
            node = self.feeds.known_one("nodes", ("", pod["spec"].get("nodeName") or ""))
            pool = self._pool_of(node) if node is not None else None
            if pool is not None and (pool.state in BUSY or any(vm.leaving for vm in pool.machines)):
                self.enqueue(("", pool.name))

    def _look_again(self, _fault: Fault, _active: bool) -> None:
        for name in self._state.pools:
            self.enqueue(("", name))

    # --- one pool -------------------------------------------------------------------------------------------------

    async def reconcile(self, key: Key) -> float | None:
        pool = self._state.pools.get(key[1])
        if pool is None:
            return None
        if pool.state == DELETING:
            return await self._delete(pool)
        if pool.state == CANCELING:
            self._state.finish(pool, CANCELED)
            return None
        if pool.state in SCALING and not self._allocate(pool):
            return None
        waits = [await self._machine(pool, vm) for vm in list(pool.machines)]
        if pool.state in SCALING and await self._settled(pool):
            self._state.finish(pool, SUCCEEDED)
        return min((wait for wait in waits if wait is not None), default=None)

    def _allocate(self, pool: Pool) -> bool:
        """Start the machines that are missing; False when the cloud has none, and the operation has failed."""
        wanted = pool.count - sum(not vm.leaving for vm in pool.machines)
        for vm in sorted(pool.machines, key=lambda vm: -vm.index)[: max(0, -wanted)]:
            vm.leaving = True
        zones = pool.zones or [""]
        if wanted > 0:
            for zone in dict.fromkeys(zones[(pool.next_index + n) % len(zones)] for n in range(wanted)):
                if fault := capacity_fault(
                    self._faults, FaultKind.NO_CAPACITY, pool.instance_type, zone, spot=pool.spot
                ):
                    self._fail(pool, allocation_failed(pool.instance_type, zone, fault.message))
                    return False
        for vm in pool.launch():
            name = machine_name(pool.name, vm.index)
            labels = account.pool_properties(pool).get("nodeLabels") or {}
            self._ledger.start(name, pool.instance_type, pool.name, labels)
        self._state.save()
        return True

    def _fail(self, pool: Pool, error: ArmError) -> None:
        self._state.finish(pool, "Failed", error.detail(), error.status)

    async def _settled(self, pool: Pool) -> bool:
        """Whether the pool has all its Nodes, Ready, and none too many."""
        for vm in pool.machines:
            node = await read(self.cluster, "nodes", ("", machine_name(pool.name, vm.index)))
            if vm.leaving or node is None or (condition_of(node, "Ready") or {}).get("status") != "True":
                return False
        return len(pool.machines) == pool.count

    # --- one machine ----------------------------------------------------------------------------------------------

    async def _machine(self, pool: Pool, vm: VirtualMachine) -> float | None:
        """Bring one machine a step further; returns seconds until the next."""
        node = await read(self.cluster, "nodes", ("", machine_name(pool.name, vm.index)))
        if node is not None:
            node = await self._life.apply_faults(node)
        if vm.leaving:
            return await self._let_go(pool, vm, node)
        if node is not None and machine.is_lost(node):
            left = self._life.silence_left(node)
            return left + 0.05 if left else await self._vanish(pool, vm, node, left)
        type_ = find_machine_type(pool.instance_type)
        age, boot = time.time() - vm.since, self._life.boot_seconds(type_.name)
        if node is None:
            if age < boot * BOOTING_SHARE:
                return boot * BOOTING_SHARE - age
            node = await self._life.register(build_node(pool, type_, vm), type_.capacity_without_gpus)
        ready = (condition_of(node, "Ready") or {}).get("status") == "True"
        if not ready and age < boot:
            return boot - age
        if not ready:
            node = await self._life.boot(node)
        if is_terminating(node):
            return None
        return await self._life.offer_gpus(node, type_.capacity, age - boot)

    async def _vanish(
        self, pool: Pool, vm: VirtualMachine, node: Object, silent: float | None
    ) -> float | None:
        """The cloud removes the Node of a machine that is gone; the scale set does not replace it."""
        if silent is None:
            return None
        await self._life.remove(node)
        self._forget(pool, vm)
        return None

    async def _let_go(self, pool: Pool, vm: VirtualMachine, node: Object | None) -> float | None:
        """Drain, remove the Node, stop the machine."""
        if node is not None:
            if not await self._life.drained(node, CORDONED, "aks"):
                return DRAIN_POLL
            await self._life.remove(node)
        self._forget(pool, vm)
        return None

    def _forget(self, pool: Pool, vm: VirtualMachine) -> None:
        self._ledger.stop(machine_name(pool.name, vm.index))
        pool.machines.remove(vm)
        self._state.save()

    async def _delete(self, pool: Pool) -> float | None:
        for vm in pool.machines:
            vm.leaving = True
        waits = await asyncio.gather(*(self._machine(pool, vm) for vm in list(pool.machines)))
        if pool.machines:
            return min((wait for wait in waits if wait is not None), default=DRAIN_POLL)
        self._state.forget(pool)
        return None
