"""The node lifecycle: nodes that stop reporting become Unknown, and pods of nodes that are gone fail and are removed.

It must never touch a pod whose node reports; only the node agent knows what runs there.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sandbox.api.cluster import ApiError
from sandbox.controllers.ownership import (
    condition_of,
    is_finished,
    now_text,
    seconds_since,
    set_condition,
)
from sandbox.controllers.reconciler import NOT_FOUND, Controller, Feeds, Key, Object, read, remove

UNREACHABLE = "node.kubernetes.io/unreachable"
NOT_READY = "node.kubernetes.io/not-ready"
SILENT = "Kubelet stopped posting node status."


def lifecycle_taints(node: Object) -> list[Object]:
    """The node's taints with those that follow from its Ready condition: unreachable, not-ready or neither."""
    ready = condition_of(node, "Ready")
    kept = [t for t in node["spec"].get("taints") or [] if t["key"] not in (UNREACHABLE, NOT_READY)]
    state = None if ready is None else ready.get("status")
    if state == "True":
        return kept
    key = UNREACHABLE if state == "Unknown" else NOT_READY
    old = {t["effect"]: t for t in node["spec"].get("taints") or [] if t["key"] == key}
    new = [{"key": key, "effect": "NoSchedule"}]
    if state == "Unknown":
        new.append(old.get("NoExecute") or {"key": key, "effect": "NoExecute", "timeAdded": now_text()})
    return kept + new


class NodeLifecycle(Controller):
    resource: ClassVar[str] = "nodes"

    def __init__(self, cluster: Any, feeds: Feeds, grace: float) -> None:
        super().__init__(cluster, feeds)
        self._grace = grace
        feeds.subscribe("pods", self._pod_changed)

    def _pod_changed(self, event: str, pod: Object) -> None:
        """A pod may be bound to a node that has just gone: look at that node too."""
        node = pod["spec"].get("nodeName")
        if (
            node
            and event != "DELETED"
            and not any(n["metadata"]["name"] == node for n in self.feeds.known("nodes"))
        ):
            self.enqueue(("", node))

    async def reconcile(self, key: Key) -> float | None:
        node = await read(self.cluster, "nodes", key)
        if node is None:
            await self._collect_pods(key[1])
            return None
        ready = condition_of(node, "Ready")
        if ready is None:
            return None
        silent = seconds_since(ready.get("lastHeartbeatTime") or node["metadata"]["creationTimestamp"])
        if silent >= self._grace and ready.get("status") != "Unknown":
            node = await self._mark_unknown(node)
        taints = lifecycle_taints(node)
        if taints != (node["spec"].get("taints") or []):
            await self.cluster.patch("nodes", key[1], {"spec": {"taints": taints or None}})
        return max(0.5, self._grace - silent + 0.1)

    async def _mark_unknown(self, node: Object) -> Object:
        conditions = node["status"].get("conditions") or []
        for condition in list(conditions):
            conditions = set_condition(conditions, condition["type"], "Unknown", "NodeStatusUnknown", SILENT)
        node["status"]["conditions"] = conditions
        node = await self.cluster.update("nodes", node, subresource="status")
        name = node["metadata"]["name"]
        message = f"Node {name} status is now: NodeNotReady"
        await self.cluster.event(node, "Normal", "NodeNotReady", message, "node-controller")
        pods, _ = await self.cluster.list("pods", field_selector=f"spec.nodeName={name}")
        for pod in pods:
            ready = condition_of(pod, "Ready")
            if ready is not None and ready.get("status") == "True":
                pod["status"]["conditions"] = set_condition(
                    pod["status"]["conditions"], "Ready", "False", ready.get("reason") or "", SILENT
                )
                await self.cluster.update("pods", pod, subresource="status")
        return node

    async def _collect_pods(self, node: str) -> None:
        """What pod GC does for a node that no longer exists: mark its pods failed and delete them without a wait.

        Like there, no event says so: the condition is all that is told, and only for as long as the object lasts.
        """
        pods, _ = await self.cluster.list("pods", field_selector=f"spec.nodeName={node}")
        for pod in pods:
            if not is_finished(pod):
                await self._fail(pod)
            await remove(self.cluster, "pods", pod, grace_seconds=0)

    async def _fail(self, pod: Object) -> None:
        status = pod.setdefault("status", {})
        why = ("DeletionByPodGC", "PodGC: node no longer exists")
        conditions = set_condition(status.get("conditions") or [], "DisruptionTarget", "True", *why)
        status |= {"phase": "Failed", "conditions": conditions}
        try:
            await self.cluster.update("pods", pod, subresource="status")
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
