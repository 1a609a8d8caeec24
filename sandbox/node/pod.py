"""The life of one pod on its node: volumes, init containers in order, containers together, status, end.

One worker per pod; only it writes that pod's status. It must never report a pod as ended while a process of it lives.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sandbox.api.cluster import ApiError, Cluster
from sandbox.controllers.ownership import is_finished, now_text, seconds_since
from sandbox.controllers.reconciler import CONFLICT, NOT_FOUND, Object, key_of, read, remove
from sandbox.layout import Layout, Timings
from sandbox.node.addresses import HOST_ADDRESS
from sandbox.node.container import ContainerRunner
from sandbox.node.environment import EnvironmentBuilder
from sandbox.node.image_volumes import ImageStore
from sandbox.node.preparation import PodSurroundings
from sandbox.node.status import ContainerRecord, PodRecord, build_status
from sandbox.node.volumes import VolumeProblem, VolumeSet

log = logging.getLogger(__name__)

MOUNT_RETRY = 1.0
DEADLINE = "Pod was active on the node longer than the specified deadline"
INTERRUPTED = "The sandbox stopped while this container ran"


def _recovered(record: ContainerRecord) -> ContainerRecord:
    """A container that ran when the sandbox ended has been killed with it."""
    running = record.state.get("running")
    if running:
        record.state = {
            "terminated": {
                "exitCode": 137,
                "reason": "Error",
                "message": INTERRUPTED,
                "startedAt": running.get("startedAt"),
                "finishedAt": now_text(),
                "containerID": record.container_id,
            }
        }
    return record


def _records(pod: Object, field: str, status_field: str) -> list[ContainerRecord]:
    known = {s["name"]: s for s in (pod.get("status") or {}).get(status_field) or []}
    return [_recovered(ContainerRecord.of(c, known.get(c["name"]))) for c in pod["spec"].get(field) or []]


class PodWorker:
    """Runs one pod. `start`, then `stop` or `abandon`; `done` is set when no process is left."""

    def __init__(
        self,
        cluster: Cluster,
        pod: Object,
        layout: Layout,
        timings: Timings,
        address: str,
        write_hosts: Callable[[Object, str, Path], None],
    ) -> None:
        self.pod = pod
        self.key = key_of(pod)
        self.uid: str = pod["metadata"]["uid"]
        self._cluster = cluster
        self._layout = layout
        self._folder = layout.pods / self.uid
        self.hosts_file = self._folder / "hosts"
        self.address = address
        self._write_hosts = write_hosts
        self._dirty = asyncio.Event()
        self._stopping = asyncio.Event()
        self._silent = False
        self._runners: list[ContainerRunner] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._annotations = dict(pod["metadata"].get("annotations") or {})
        self.done = asyncio.Event()
        self.record = PodRecord(
            containers=_records(pod, "containers", "containerStatuses"),
            init_containers=_records(pod, "initContainers", "initContainerStatuses"),
            start_time=(pod.get("status") or {}).get("startTime") or now_text(),
            host_ip=HOST_ADDRESS,
        )
        self._surroundings = PodSurroundings(
            pod={**pod, "status": {**(pod.get("status") or {}), "podIP": address, "hostIP": HOST_ADDRESS}},
            folder=self._folder,
            logs=layout.logs / self.uid,
            hidden=layout.root,
            hosts=self.hosts_file,
            address=address,
            volumes=VolumeSet(
                cluster, pod, self._folder, layout.memory_volumes / self.uid, ImageStore(layout.images)
            ),
            environment=EnvironmentBuilder(cluster, pod),
            timings=timings,
            changed=self._dirty.set,
            record_event=self._record_event,
        )
        self._surroundings.environment = EnvironmentBuilder(cluster, self._surroundings.pod)

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._live(), name=f"pod {'/'.join(self.key)}"),
            asyncio.create_task(self._report(), name=f"status of {'/'.join(self.key)}"),
        ]

    def marked(self, pod: Object) -> bool:
        """Whether the pod's annotations have changed; remembers them."""
        now = pod["metadata"].get("annotations") or {}
        before, self._annotations = self._annotations, dict(now)
        return before != now

    async def refresh(self) -> None:
        """What a kubelet does with the volumes of a pod that has changed."""
        await self._surroundings.volumes.refresh()

    @property
    def finished(self) -> bool:
        return self.done.is_set()

    # --- from outside ---------------------------------------------------------------------------------------------

    async def stop(self, grace: float) -> None:
        """End all containers within the grace period (seconds) and wait until no process is left."""
        first = not self._stopping.is_set()
        self._stopping.set()
        for runner in self._runners:
            if first and "running" in runner.record.state and not self._silent:
                await self._record_event("Normal", "Killing", f"Stopping container {runner.record.name}")
            runner.stop(grace)
        await self.done.wait()

    async def delete(self, grace: float) -> None:
        """What a deletion asks: stop, report the end, and let the API server remove the object."""
        await self.stop(grace)
        if not self.record.phase:
            ended = [c for c in self.record.containers if c.terminated]
            well = len(ended) == len(self.record.containers) and all(c.succeeded for c in ended)
            self.record.phase = "Succeeded" if well else "Failed"
        await self._write_status()
        await remove(self._cluster, "pods", self.pod, grace_seconds=0)

    def fall_silent(self) -> None:
        """Write no status and no event from now on."""
        self._silent = True

    async def abandon(self) -> None:
        """The node's machine is gone: kill everything and never report again."""
        self.fall_silent()
        self.kill()
        await self.stop(0.0)
        await self._end_reports()

    def kill(self, reason: str = "") -> None:
        """SIGKILL all containers, as a fault or the kernel would; the restart policy decides what follows."""
        for runner in self._runners:
            runner.kill(reason)

    async def clean_up(self) -> None:
        """Forget the pod's files; its object is gone."""
        await self._end_reports()
        self._surroundings.volumes.tear_down()
        for folder in (self._folder, self._layout.logs / self.uid):
            await asyncio.to_thread(shutil.rmtree, folder, True)

    # --- the life -------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        deadline = asyncio.create_task(self._watch_deadline())
        try:
            if is_finished(self.pod) or not await self._set_up():
                return
            if await self._run_init_containers():
                await self._run_containers()
        except Exception as error:
            log.exception("The pod %s could not be run", "/".join(self.key))
            self.record.phase, self.record.reason = "Failed", "SandboxError"
            self.record.message = f"The sandbox could not run this pod: {error}"
        finally:
            deadline.cancel()
            self.done.set()
            self._dirty.set()

    async def _set_up(self) -> bool:
        """Hosts file and volumes; a volume that is missing yet is waited for. False when stopped meanwhile."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write_hosts(self._surroundings.pod, self.address, self.hosts_file)
        self._dirty.set()
        while not self._stopping.is_set():
            try:
                await self._surroundings.volumes.set_up()
            except VolumeProblem as problem:
                await self._record_event("Warning", "FailedMount", str(problem))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), MOUNT_RETRY)
            else:
                self.record.pod_ip = self.address  # of the pod's sandbox, which comes after its volumes
                return True
        return False

    async def _run_init_containers(self) -> bool:
        containers = self.pod["spec"].get("initContainers") or []
        if containers:
            for record in self.record.containers:
                if "waiting" in record.state:
                    record.state = {"waiting": {"reason": "PodInitializing"}}
        for container, record in zip(containers, self.record.init_containers, strict=True):
            if record.succeeded:
                continue
            await self._run_together([ContainerRunner(self._surroundings, container, record, init=True)])
            if self._stopping.is_set() or not record.succeeded:
                return False
        return not self._stopping.is_set()

    async def _run_containers(self) -> None:
        pairs = zip(self.pod["spec"]["containers"], self.record.containers, strict=True)
        await self._run_together([ContainerRunner(self._surroundings, c, r, init=False) for c, r in pairs])

    async def _run_together(self, runners: list[ContainerRunner]) -> None:
        self._runners = runners
        if self._stopping.is_set():
            return
        async with asyncio.TaskGroup() as group:
            for runner in runners:
                group.create_task(runner.run())

    async def _watch_deadline(self) -> None:
        seconds = self.pod["spec"].get("activeDeadlineSeconds")
        if seconds is None:
            return
        await asyncio.sleep(max(0.0, float(seconds) - seconds_since(self.record.start_time)))
        self.record.phase, self.record.reason, self.record.message = "Failed", "DeadlineExceeded", DEADLINE
        await self._record_event("Normal", "DeadlineExceeded", DEADLINE)
        self._stopping.set()
        for runner in self._runners:
            runner.stop(float(self.pod["spec"].get("terminationGracePeriodSeconds", 30)))

    # --- telling the cluster --------------------------------------------------------------------------------------

    async def _record_event(self, type_: str, reason: str, message: str) -> None:
        if self._silent:
            return
        with suppress(ApiError):
            await self._cluster.event(self.pod, type_, reason, message, "kubelet")

    async def _report(self) -> None:
        """Write the status whenever it changed; a burst of changes is one write."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._write_status()
            except Exception:
                log.exception("The status of %s could not be written; trying again", "/".join(self.key))
                await asyncio.sleep(0.2)
                self._dirty.set()

    async def _write_status(self) -> None:
        while not self._silent:
            pod = await read(self._cluster, "pods", self.key)
            if pod is None or pod["metadata"]["uid"] != self.uid:
                return
            status = build_status(pod, self._shown())
            if status == pod.get("status"):
                return
            try:
                await self._cluster.update("pods", {**pod, "status": status}, subresource="status")
                return
            except ApiError as error:
                if error.code == NOT_FOUND:
                    return
                if error.code != CONFLICT:
                    raise

    def _shown(self) -> PodRecord:
        """The record as it may be told now: no end of the pod before its last process has ended."""
        if self.record.phase and not self.done.is_set():
            return PodRecord(**{**vars(self.record), "phase": "", "reason": "", "message": ""})
        return self.record

    async def _end_reports(self) -> None:
        for task in self._tasks[1:]:
            task.cancel()
        self._tasks = self._tasks[:1]
