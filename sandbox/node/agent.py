"""The node agent: one for all simulated nodes. It starts, ends and forgets pods as the cluster says, and heartbeats.

Pods are followed by uid, so that a pod that was replaced under the same name is never mistaken for the old one.
It must never write to a pod of a node whose machine is lost.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sandbox.api.cluster import ApiError, Cluster
from sandbox.controllers.ownership import is_terminating, now_text, set_condition
from sandbox.controllers.reconciler import CONFLICT, NOT_FOUND, Feeds, Object
from sandbox.faults import Fault, FaultKind, Faults
from sandbox.layout import Layout, Timings
from sandbox.node import machine
from sandbox.node.addresses import HOST_ADDRESS, PodAddresses
from sandbox.node.hosts import hosts_text
from sandbox.node.pod import PodWorker

log = logging.getLogger(__name__)


class NodeAgent:
    """Follows pods and nodes through the feeds; `run` heartbeats until it is cancelled, `close` ends all pods."""

    def __init__(
        self, cluster: Cluster, feeds: Feeds, faults: Faults, layout: Layout, timings: Timings
    ) -> None:
        self._cluster = cluster
        self._feeds = feeds
        self._layout = layout
        self._timings = timings
        self._addresses = PodAddresses(layout.number)
        self._workers: dict[str, PodWorker] = {}
        self._ending: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._hosts_timer: asyncio.TimerHandle | None = None
        self._closing = False
        feeds.subscribe("pods", self._pod_changed)
        feeds.subscribe("nodes", self._node_changed)
        feeds.subscribe("services", lambda _event, _obj: self._names_changed())
        faults.listen(FaultKind.POD_KILL, self._kill_pods)
        faults.listen(FaultKind.OOM, self._kill_pods)

    # --- pods -----------------------------------------------------------------------------------------------------

    def _pod_changed(self, event: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if event == "DELETED":
            if worker is not None:
                self._do(self._forget(worker))
        elif self._runs_here(pod):
            if worker is None:
                worker = self._begin(pod)
            elif worker.marked(pod):
                self._do(worker.refresh())
            if is_terminating(pod) and worker is not None:
                self._end(worker, float(pod["metadata"].get("deletionGracePeriodSeconds") or 0))
        if (pod.get("status") or {}).get("podIP"):
            self._names_changed()

    def _runs_here(self, pod: Object) -> bool:
        name = pod["spec"].get("nodeName")
        node = self._feeds.known_one("nodes", ("", name)) if name else None
        return (
            not self._closing and node is not None and machine.is_managed(node) and not machine.is_lost(node)
        )

    def _begin(self, pod: Object) -> PodWorker:
        uid = pod["metadata"]["uid"]
        if pod["spec"].get("hostNetwork"):
            address = HOST_ADDRESS
        else:
            address = self._addresses.take(uid, (pod.get("status") or {}).get("podIP") or "")
        worker = PodWorker(self._cluster, pod, self._layout, self._timings, address, self._write_hosts)
        self._workers[uid] = worker
        worker.start()
        return worker

    def _end(self, worker: PodWorker, grace: float) -> None:
        """Begin the deletion; a second request with a shorter grace period shortens it."""
        known = self._ending.get(worker.uid)
        if known is None:
            self._ending[worker.uid] = (grace, self._do(worker.delete(grace)))
        elif grace < known[0]:
            self._ending[worker.uid] = (grace, known[1])
            self._do(self._hurry(worker, grace))

    async def _hurry(self, worker: PodWorker, grace: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(worker.done.wait(), grace)
        worker.kill()

    async def _forget(self, worker: PodWorker) -> None:
        """The object is gone (perhaps by force): nothing of it may go on."""
        if not worker.finished:
            worker.kill()
            await worker.stop(0.0)
        await worker.clean_up()
        self._workers.pop(worker.uid, None)
        self._ending.pop(worker.uid, None)
        self._addresses.give_back(worker.uid)

    # --- nodes ----------------------------------------------------------------------------------------------------

    def _node_changed(self, event: str, node: Object) -> None:
        name = node["metadata"]["name"]
        gone = event == "DELETED" or machine.is_lost(node)
        for worker in list(self._workers.values()):
            if gone and worker.pod["spec"].get("nodeName") == name:
                self._do(worker.abandon())
        if not gone and event in ("ADDED", "SYNC"):
            for pod in self._feeds.known("pods"):
                if pod["spec"].get("nodeName") == name:
                    self._pod_changed("SYNC", pod)

    async def sweep(self) -> None:
        """Remove files of pods that no longer exist, which a killed sandbox may have left."""
        pods, _ = await self._cluster.list("pods")
        living = {pod["metadata"]["uid"] for pod in pods}
        for folder in (self._layout.pods, self._layout.logs, self._layout.memory_volumes):
            if folder.is_dir():
                for leftover in folder.iterdir():
                    if leftover.name not in living:
                        await asyncio.to_thread(shutil.rmtree, leftover, True)

    async def ensure_cpu_node(self) -> None:
        """The permanent CPU node, with this machine's capacity."""
        labels = {"node.kubernetes.io/instance-type": "sandbox.cpu", "kubernetes.azure.com/mode": "system"}
        node = machine.build_node(machine.CPU_NODE, machine.CPU_NODE, labels)
        with suppress(ApiError):  # exists since an earlier start
            await self._cluster.create("nodes", node)
        node = await self._cluster.get("nodes", machine.CPU_NODE)
        node["status"] = machine.node_status(machine.CPU_NODE, machine.cpu_capacity(), ready=True)
        await self._cluster.update("nodes", node, subresource="status")

    async def beat(self) -> None:
        """One heartbeat of every node whose machine lives; a node that had become Unknown is Ready again."""
        nodes, _ = await self._cluster.list("nodes")
        for node in nodes:
            if machine.is_managed(node) and not machine.is_lost(node):
                try:
                    await self._cluster.update("nodes", _alive(node), subresource="status")
                except ApiError as error:
                    if error.code not in (CONFLICT, NOT_FOUND):
                        raise

    async def run(self) -> None:
        while True:
            try:
                await self.beat()
            except Exception:
                log.exception("A heartbeat failed")
            await asyncio.sleep(self._timings.heartbeat)

    async def close(self) -> None:
        """End every pod's processes. Statuses stay as they are: the next start finds out what was interrupted."""
        self._closing = True
        workers = [worker for worker in self._workers.values() if not worker.finished]
        for worker in self._workers.values():
            worker.fall_silent()
        await asyncio.gather(
            *(worker.stop(self._timings.stop_grace) for worker in workers), return_exceptions=True
        )

    # --- names ----------------------------------------------------------------------------------------------------

    def _names_changed(self) -> None:
        if self._hosts_timer is None:
            self._hosts_timer = asyncio.get_running_loop().call_later(0.02, self._rewrite_hosts)

    def _rewrite_hosts(self) -> None:
        self._hosts_timer = None
        for worker in self._workers.values():
            if not worker.finished and worker.hosts_file.exists():
                self._write_hosts(worker.pod, worker.address, worker.hosts_file)

    def _write_hosts(self, pod: Object, address: str, path: Path) -> None:
        """In place, because containers have this very file bound."""
        text = hosts_text(pod, address, self._feeds.known("services"), self._feeds.known("pods"))
        if not path.exists() or path.read_text() != text:
            path.write_text(text)

    # --- faults ---------------------------------------------------------------------------------------------------

    def _kill_pods(self, fault: Fault, active: bool) -> None:
        for worker in self._workers.values():
            if active and fnmatchcase("/".join(worker.key), fault.target):
                worker.kill("OOMKilled" if fault.kind == FaultKind.OOM else "")

    def _do(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("The node agent failed on a pod", exc_info=task.exception())


def _alive(node: Object) -> Object:
    """The node with fresh heartbeats; a booting machine (KubeletNotReady) stays not ready."""
    conditions: list[Object] = (node.get("status") or {}).get("conditions") or []
    for condition in machine.node_conditions(ready=True):
        old = next((c for c in conditions if c["type"] == condition["type"]), None)
        if old is not None and old.get("reason") == "KubeletNotReady":
            condition = old
        conditions = set_condition(
            conditions, condition["type"], condition["status"], condition["reason"], condition["message"]
        )
    beaten = [{**c, "lastHeartbeatTime": now_text()} for c in conditions]
    return {**node, "status": {**(node.get("status") or {}), "conditions": beaten}}
