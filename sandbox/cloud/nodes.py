"""What a machine's Node goes through, whoever asked the cloud for the machine: booting, draining, eviction, loss.

The NodeClaim controller and the agent pools share it, so that both clouds' machines behave the same. It must never
decide that a machine goes: it carries out what a controller or a fault has decided.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fnmatch import fnmatchcase

from sandbox.api.cluster import ApiError, Cluster
from sandbox.controllers.ownership import condition_of, is_finished, is_terminating, seconds_since
from sandbox.controllers.reconciler import NOT_FOUND, Feeds, Object, key_of, remove
from sandbox.faults import Fault, FaultKind, Faults
from sandbox.layout import Timings
from sandbox.node import machine

BOOTING_SHARE = 0.8  # of the boot delay until the Node appears, not ready yet
TOO_MANY = 429
REGION = "sandbox"
INSTANCE_TYPE = "node.kubernetes.io/instance-type"


def capacity_fault(
    faults: Faults, kind: FaultKind, instance_type: str, zone: str = "", *, spot: bool = False
) -> Fault | None:
    """A fault set for this machine type, for it in this zone (target TYPE@ZONE) or as a spot machine (TYPE/spot).

    Uses up its count.
    """
    zoned = [f"{instance_type}@{zone}"] if zone else []
    names = [instance_type, *zoned, *([f"{instance_type}/spot"] if spot else [])]
    return next((fault for name in names if (fault := faults.inject(kind, name))), None)


class NodeLife:
    """The Nodes of one controller.

    :param owned: whether a Node is one of this controller's.
    :param changed: called with a Node that a fault has struck, so that its owner is reconciled.
    :param notice: the taint that a Node gets when its spot machine is about to be evicted.
    """

    def __init__(
        self,
        cluster: Cluster,
        feeds: Feeds,
        faults: Faults,
        timings: Timings,
        *,
        owned: Callable[[Object], bool],
        changed: Callable[[Object], None],
        notice: Object,
    ) -> None:
        self.cluster = cluster
        self._feeds = feeds
        self._faults = faults
        self._timings = timings
        self._owned = owned
        self._changed = changed
        self._notice = notice
        self._warned: dict[str, float] = {}  # nodes with a notice that is not written yet, and its seconds
        self._doomed: set[str] = set()  # nodes whose machine a fault takes
        for kind in (FaultKind.NODE_LOSS, FaultKind.SPOT_EVICTION):
            faults.listen(kind, self._lose_nodes)

    # --- faults ---------------------------------------------------------------------------------------------------

    def _lose_nodes(self, fault: Fault, active: bool) -> None:
        """Node loss at once, a spot eviction after its notice (`value` seconds)."""
        evicted = fault.kind == FaultKind.SPOT_EVICTION
        notice = fault.value or 0.0 if evicted else 0.0
        for node in self._feeds.known("nodes"):
            name = node["metadata"]["name"]
            if active and self._owned(node) and fnmatchcase(name, fault.target):
                if evicted:
                    self._warned[name] = notice
                    self._changed(node)
                asyncio.get_running_loop().call_later(notice, self._doom, node)

    def _doom(self, node: Object) -> None:
        self._doomed.add(node["metadata"]["name"])
        self._changed(node)

    async def apply_faults(self, node: Object) -> Object:
        """Write what a fault does to this Node: the notice of an eviction, and the loss of its machine."""
        name = node["metadata"]["name"]
        if (seconds := self._warned.pop(name, None)) is not None:
            node = await self._warn(node, seconds)
        if name in self._doomed:
            self._doomed.discard(name)
            lost = {"metadata": {"annotations": {machine.LOST: "true"}}}
            node = await self.cluster.patch("nodes", name, lost)
        return node

    async def _warn(self, node: Object, seconds: float) -> Object:
        message = f"Preempt scheduled: the spot machine of this node is evicted in {seconds:g} s"
        await self.cluster.event(node, "Warning", "PreemptScheduled", message, "node-problem-detector")
        return await self._taint(node, self._notice)

    async def _taint(self, node: Object, taint: Object) -> Object:
        taints = node["spec"].get("taints") or []
        if any(known["key"] == taint["key"] for known in taints):
            return node
        return await self.cluster.patch(
            "nodes", node["metadata"]["name"], {"spec": {"taints": [*taints, taint]}}
        )

    # --- the start ------------------------------------------------------------------------------------------------

    def boot_seconds(self, instance_type: str) -> float:
        slow = self._faults.peek(FaultKind.SLOW_BOOT, instance_type)
        return self._timings.boot + (slow.value or 0.0 if slow else 0.0)

    async def register(self, manifest: Object, capacity: dict[str, str]) -> Object:
        """Make the Node, not ready yet."""
        node = await self.cluster.create("nodes", manifest)
        node["status"] = machine.node_status(node["metadata"]["name"], capacity, ready=False)
        return await self.cluster.update("nodes", node, subresource="status")

    async def boot(self, node: Object) -> Object:
        """The kubelet says that it is ready, once."""
        if (condition_of(node, "Ready") or {}).get("reason") == "NodeStatusUnknown":
            return node  # the heartbeat brings it back
        node["status"]["conditions"] = machine.node_conditions(ready=True)
        node = await self.cluster.update("nodes", node, subresource="status")
        name = node["metadata"]["name"]
        await self.cluster.event(
            node, "Normal", "NodeReady", f"Node {name} status is now: NodeReady", "kubelet"
        )
        return node

    async def offer_gpus(self, node: Object, capacity: dict[str, str], ready_for: float) -> float | None:
        """The device plugin's part: GPUs become allocatable a little after the Node is Ready (seconds until then)."""
        if (node["status"].get("allocatable") or {}) == capacity:
            return None
        if ready_for < self._timings.gpu:
            return self._timings.gpu - ready_for
        node["status"] |= {"capacity": capacity, "allocatable": capacity}
        await self.cluster.update("nodes", node, subresource="status")
        return None

    # --- the end --------------------------------------------------------------------------------------------------

    async def drained(self, node: Object, taint: Object, component: str) -> bool:
        """Keep new pods away and end the present ones; True when none is left. A lost machine has nothing to drain."""
        if machine.is_lost(node):
            return True
        name = node["metadata"]["name"]
        await self._taint(node, taint)
        pods, _ = await self.cluster.list("pods", field_selector=f"spec.nodeName={name}")
        for pod in pods:
            if not is_terminating(pod):
                await self._evict(pod, component)
        return not any(not is_finished(pod) for pod in pods)

    async def _evict(self, pod: Object, component: str) -> None:
        """By the eviction API, as karpenter and AKS do; what a budget holds back is asked again in the next round."""
        namespace, name = key_of(pod)
        try:
            await self.cluster.create("pods/eviction", {"metadata": {"name": name}}, namespace)
        except ApiError as error:
            if error.code not in (NOT_FOUND, TOO_MANY):
                raise
            return
        message = "Evicted pod: the node is being removed"
        await self.cluster.event(pod, "Normal", "Evicted", message, component)

    async def remove(self, node: Object) -> None:
        """Delete the Node, whatever finalizers hold it."""
        await remove(self.cluster, "nodes", node)
        try:
            await self.cluster.patch("nodes", node["metadata"]["name"], {"metadata": {"finalizers": None}})
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise

    def silence_left(self, node: Object) -> float | None:
        """Seconds until the cloud gives up the Node of a machine that is gone; None while nobody has noticed."""
        ready = condition_of(node, "Ready") or {}
        if ready.get("status") != "Unknown":
            return None  # the node lifecycle will say so, and that wakes the owner again
        waited = seconds_since(ready["lastTransitionTime"])
        return max(0.0, self._timings.lost_node_removal - waited)
