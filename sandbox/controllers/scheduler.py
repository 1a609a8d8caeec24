"""The scheduler: binds each pod that has no node to the best node that it fits, and says why when there is none.

It must never bind a pod to a node whose allocatable resources do not cover it: GPU nodes are what people pay for.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, ClassVar

from sandbox.api.cluster import ApiError
from sandbox.controllers.fitting import explain, explain_problem, is_crowded, obstacles, score
from sandbox.controllers.ownership import condition_of, is_finished, is_terminating, set_condition
from sandbox.controllers.reconciler import (
    CONFLICT,
    NOT_FOUND,
    Controller,
    Feeds,
    Key,
    Object,
    key_of,
    read,
)
from sandbox.controllers.volume_binding import (
    CLAIMS,
    CLASSES,
    SELECTED_NODE,
    PodVolumes,
    pod_volumes,
    selected_node,
    volume_obstacles,
)

NAME = "default-scheduler"


def is_pending(pod: Object) -> bool:
    """Whether this scheduler has to find a node for the pod."""
    spec = pod["spec"]
    waits = not spec.get("nodeName") and not is_terminating(pod) and not is_finished(pod)
    return waits and spec.get("schedulerName", NAME) == NAME and not spec.get("schedulingGates")


class Scheduler(Controller):
    resource: ClassVar[str] = "pods"
    workers: ClassVar[int] = 1  # two at a time could give the same GPU to two pods

    def __init__(self, cluster: Any, feeds: Feeds) -> None:
        super().__init__(cluster, feeds)
        self._recheck: asyncio.TimerHandle | None = None
        feeds.subscribe("pods", self._pod_changed)
        for resource in ("nodes", CLAIMS, CLASSES):
            feeds.subscribe(resource, lambda _event, _obj: self._room_may_have_changed())

    def enqueue(self, key: Key) -> None:
        pod = self.feeds.known_one("pods", key)
        if pod is None or is_pending(pod):
            super().enqueue(key)

    def _pod_changed(self, event: str, pod: Object) -> None:
        if event == "DELETED" or is_finished(pod):
            self._room_may_have_changed()

    def _room_may_have_changed(self) -> None:
        """Try all pending pods again, once for a burst of changes."""
        if self._recheck is None:
            self._recheck = asyncio.get_running_loop().call_later(0.01, self._enqueue_pending)

    def _enqueue_pending(self) -> None:
        self._recheck = None
        for pod in self.feeds.known("pods"):
            if is_pending(pod):
                self.enqueue(key_of(pod))

    async def reconcile(self, key: Key) -> float | None:
        pod = await read(self.cluster, "pods", key)
        if pod is None or not is_pending(pod):
            return None
        volumes = await pod_volumes(self.cluster, pod)
        nodes, _ = await self.cluster.list("nodes")
        if not nodes:
            await self._unschedulable(pod, "no nodes available to schedule pods")
            return None
        if volumes.problem:
            await self._unschedulable(pod, explain_problem(volumes.problem, len(nodes)))
            return None
        on_node = await self._pods_by_node()

        def why_not(node: Object) -> list[str]:
            return obstacles(pod, node, on_node[node["metadata"]["name"]]) or volume_obstacles(volumes, node)

        reasons = [(node, why_not(node)) for node in nodes]
        fitting = [node for node, why in reasons if not why]
        if not fitting:
            crowded = sum(is_crowded(pod, node, why) for node, why in reasons)
            await self._unschedulable(pod, explain((why for _, why in reasons), len(nodes), crowded))
            return None
        best = max(fitting, key=lambda node: score(pod, node, on_node[node["metadata"]["name"]]))
        if volumes.waiting:  # the pod is bound when they are: the change of its claims brings it back
            await self._choose_volumes_place(volumes, best["metadata"]["name"])
        else:
            await self._bind(pod, best["metadata"]["name"])
        return None

    async def _pods_by_node(self) -> dict[str, list[Object]]:
        pods, _ = await self.cluster.list("pods")
        result: dict[str, list[Object]] = defaultdict(list)
        for pod in pods:
            if pod["spec"].get("nodeName") and not is_finished(pod):
                result[pod["spec"]["nodeName"]].append(pod)
        return result

    async def _choose_volumes_place(self, volumes: PodVolumes, node: str) -> None:
        """Let the claims that wait for their first consumer be provisioned where the pod will run."""
        annotations = {"metadata": {"annotations": {SELECTED_NODE: node}}}
        for claim, _ in volumes.waiting:
            if selected_node(claim) != node:
                await self.cluster.patch(CLAIMS, claim["metadata"]["name"], annotations, key_of(claim)[0])

    async def _bind(self, pod: Object, node: str) -> None:
        namespace, name = key_of(pod)
        patch = {"metadata": {"uid": pod["metadata"]["uid"]}, "spec": {"nodeName": node}}
        try:
            await self.cluster.patch("pods", name, patch, namespace, subresource="binding")
        except ApiError as error:
            if error.code in (NOT_FOUND, CONFLICT):
                return  # deleted or bound meanwhile; the watch brings it back when it still needs a node
            raise
        await self.cluster.event(
            pod, "Normal", "Scheduled", f"Successfully assigned {namespace}/{name} to {node}", NAME
        )

    async def _unschedulable(self, pod: Object, message: str) -> None:
        known = condition_of(pod, "PodScheduled") or {}
        if known.get("status") == "False" and known.get("message") == message:
            return
        status = pod.setdefault("status", {})
        status["conditions"] = set_condition(
            status.get("conditions") or [], "PodScheduled", "False", "Unschedulable", message
        )
        try:
            await self.cluster.update("pods", pod, subresource="status")
        except ApiError as error:
            if error.code == NOT_FOUND:
                return
            raise
        await self.cluster.event(pod, "Warning", "FailedScheduling", message, NAME)
