"""Waits for a workload pod, and for the moment when nobody wants it any more.

The provider's trigger knows the pod alone. This one also looks at the Workspace now and then: when that is going or has
a newer generation, the wait ends at once, so that GPUs do not go on working for nobody. It looks at the pod's Node:
where that has been silent for longer than Kubernetes itself waits, nobody will ever say how the pod ended, and the wait
ends too. And until the pod runs, it puts the scheduler's and the kubelet's own words into the Workspace's conditions; a
pod that cannot start ends the wait in time, so that no machine is paid for it.

It deletes nothing then; the task does, when it comes back. Only where a user ends the task itself (marks it, clears it)
the provider's trigger deletes the pod, unless a later try has taken it up meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.triggers.base import TriggerEvent

from include.pools import lost_nodes as lost
from include.reconcile.pod_problems import StartWatch, begins_late
from include.reconcile.startup_log import Startup
from include.workspace.status import conditions, startup
from kaito.hooks.api import NODE, POD, WORKSPACE, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook, StaleWorkspace, fence
from kaito.pod_events import LatestEvents
from kaito.triggers.base import FENCE_SECONDS, Served, write_status
from kaito.triggers.startup import StartupLog

#: The provider's label of a pod: the try that made it; here, that took it up last.
TRY_LABEL = "try_number"
#: The event's status when the Workspace has moved on.
SUPERSEDED = "superseded"
#: The event's status when the pod cannot start.
STUCK = "stuck"
#: Pause between two looks at a pod that does not run yet, in seconds.
START_SECONDS = 1.0
#: The event's status when the pod's Node has been silent for too long.
NODE_LOST = "node-lost"
#: Pause between two looks at a pod's Node, in seconds: its silence is counted from its own time stamps.
NODE_SECONDS = 10.0
#: What Kubernetes gives a pod that says nothing to end in, in seconds.
GRACE_SECONDS = 30


def try_of(pod: Any) -> int:
    """Return the number of the try that made a pod or took it up last; 0 where the pod does not tell."""
    number = str((pod.metadata.labels or {}).get(TRY_LABEL))
    return int(number) if number.isdecimal() else 0


def evicted(pod: Any) -> bool:
    """Whether the cluster told a pod, if there is one, to go: a drain, a spot eviction, a node that is lost."""
    marks = (pod.status.conditions if pod and pod.status else None) or []
    return any(mark.type == "DisruptionTarget" and mark.status == "True" for mark in marks)


class WorkloadPodTrigger(KubernetesPodTrigger):
    """As the provider's trigger, and fenced.

    :param workspace: name of the Workspace that the pod works for.
    :param workspace_uid: its uid.
    :param generation: the generation that the run serves.
    :param fence_seconds: pause between two looks at the Workspace.
    :param lost_seconds: how long the pod's Node may be silent, to which the pod's own grace is added; None to wait for
        it however long it takes.
    :param node_seconds: pause between two looks at the Node.
    :param pending: the phase to report while the pod does not run yet, "" for none; ``working`` is that of its running.
    :param holds_machines: whether machines are paid for while the pod cannot start.
    """

    def __init__(
        self,
        *,
        workspace: str,
        workspace_uid: str,
        generation: int,
        fence_seconds: float = FENCE_SECONDS,
        lost_seconds: float | None = None,
        node_seconds: float = NODE_SECONDS,
        pending: str = "",
        working: str = "",
        holds_machines: bool = False,
        **pod: Any,
    ) -> None:
        super().__init__(**pod)
        self.workspace = workspace
        self.workspace_uid = workspace_uid
        self.generation = generation
        self.fence_seconds = fence_seconds
        self.lost_seconds = lost_seconds
        self.node_seconds = node_seconds
        self.pending = pending
        self.working = working
        self.holds_machines = holds_machines
        self._grace = float(GRACE_SECONDS)
        #: Where the pod was when it was last seen, and whether it was told to go with its machine.
        self._where: dict[str, Any] = {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        own = {
            "workspace": self.workspace,
            "workspace_uid": self.workspace_uid,
            "generation": self.generation,
            "fence_seconds": self.fence_seconds,
            "lost_seconds": self.lost_seconds,
            "node_seconds": self.node_seconds,
            "pending": self.pending,
            "working": self.working,
            "holds_machines": self.holds_machines,
        }
        return f"{__name__}.{type(self).__qualname__}", {**super().serialize()[1], **own}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        pod = asyncio.create_task(self._pod_event())
        stale = asyncio.create_task(self._until_stale())
        silent = asyncio.create_task(self._until_lost())
        stuck = asyncio.create_task(self._until_stuck())
        waits = {pod, stale, silent, stuck}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if pod.done():
                event = pod.result()
                yield TriggerEvent({**event.payload, **self._where})
                return
            self._fired_event = True
            found = {"name": self.pod_name, "namespace": self.pod_namespace}
            if stale.done():
                yield TriggerEvent({**found, "status": SUPERSEDED, "message": stale.result()})
                return
            status, why = (NODE_LOST, silent) if silent.done() else (STUCK, stuck)
            told = {"status": status, "message": why.result(), **self.trigger_kwargs}
            yield TriggerEvent({**found, **told, **self._where})
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def on_kill(self) -> None:
        """A user has ended the task: delete its pod, which is not a later try's that bears the same name."""
        try:
            pod = await self.hook.get_pod(self.pod_name, self.pod_namespace)
            taken = try_of(pod)
        except Exception as error:  # the provider's own deletion says what is wrong
            self.log.warning("Pod %s could not be looked at: %s", self.pod_name, error)
            taken = 0
        mine = getattr(getattr(self, "task_instance", None), "try_number", None)
        if mine is not None and taken > mine:
            self.log.info("Try %d goes on with pod %s: it stays.", taken, self.pod_name)
            return
        await super().on_kill()

    async def _get_pod(self) -> Any:  # type: ignore[override]  # the provider's is wrapped by tenacity
        pod = await super()._get_pod()
        self._where = {"node": pod.spec.node_name, "evicted": evicted(pod), "uid": pod.metadata.uid}
        grace = getattr(pod.spec, "termination_grace_period_seconds", None)
        self._grace = float(GRACE_SECONDS if grace is None else grace)
        return pod

    async def _pod_event(self) -> TriggerEvent:
        async for event in super().run():
            return event
        raise RuntimeError("The wait for the pod ended without a word.")

    async def _until_stale(self) -> str:
        """Return why the Workspace is no longer this run's, as soon as it is not."""
        hook = AsyncKaitoClusterHook(conn_id=self.kubernetes_conn_id)
        while True:
            try:
                live = await hook.find(WORKSPACE, self.workspace, self.pod_namespace)
                fence(live, self.workspace, self.workspace_uid, self.generation)
            except StaleWorkspace as moved_on:
                return str(moved_on)
            except ClusterError as error:
                self.log.warning("The Workspace could not be looked at, trying again: %s", error)
            await asyncio.sleep(self.fence_seconds)

    async def _until_stuck(self) -> str:
        """Return why the pod cannot start, as soon as that is sure; tell the Workspace's author what it waits for."""
        hook, watch = AsyncKaitoClusterHook(conn_id=self.kubernetes_conn_id), StartWatch(self.holds_machines)
        log, latest, told = StartupLog(self.log), LatestEvents(self.log), ""
        while True:
            try:
                pod = await hook.find(POD, self.pod_name, self.pod_namespace)
            except ClusterError as error:
                self.log.warning("Pod %s could not be looked at, trying again: %s", self.pod_name, error)
                pod = None
            events = await latest.about(hook, [pod] if pod and begins_late(pod) else ())
            seen = watch.look(pod, time.monotonic(), events) if pod else None
            if seen and seen.hopeless:
                return seen.message
            if pod and seen:
                said = None if seen.running else await log.read(hook, self.pod_namespace, [pod])
                news = f"{seen.message} {said.step_of_it if said else ''}"
                if news != told:
                    told = news
                    phase, message = self.working if seen.running else self.pending, seen.message
                    await self._tell(hook, phase, f"{message}, {said}" if said else message, said)
            if seen and seen.running:
                await asyncio.Event().wait()
            await asyncio.sleep(START_SECONDS)

    async def _tell(
        self, hook: AsyncKaitoClusterHook, phase: str, message: str, said: Startup | None = None
    ) -> None:
        """Put what the pod does into the Workspace's conditions; what cannot be written is no failure of the pod."""
        self.log.info("%s", message)
        if not phase:
            return

        def next_status(live: dict[str, Any]) -> dict[str, Any]:
            now = datetime.now(UTC)
            found = conditions.progress(live, phase, message=message, generation=self.generation, now=now)
            return startup.written(found, said.status() if said else None)

        mine = Served(self.workspace_uid, self.generation)
        await write_status(hook, (self.workspace, self.pod_namespace), mine, next_status, self.log)

    async def _until_lost(self) -> str:
        """Return what is wrong with the pod's Node, when it has been silent for too long."""
        if self.lost_seconds is None:
            await asyncio.Event().wait()
        hook, said = AsyncKaitoClusterHook(conn_id=self.kubernetes_conn_id), ""
        while True:
            await asyncio.sleep(self.node_seconds)
            name = self._where.get("node")
            try:
                node = await hook.find(NODE, name) if name else None
            except ClusterError as error:
                self.log.warning("Node %s could not be looked at, trying again: %s", name, error)
                continue
            patience = (self.lost_seconds or 0.0) + self._grace
            left = lost.seconds_left(node, datetime.now(UTC), patience) if node else None
            if node is None or left is None:
                said = ""
                continue
            message = lost.sentence(node)
            if lost.is_lost(node, datetime.now(UTC), patience):
                return f"{message}; taken as lost after {patience:.0f} s"
            if message != said:
                said = message
                self.log.warning("%s. It is taken as lost in %.0f s, if it stays so.", message, left)
