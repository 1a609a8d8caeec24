"""The life of one container: made, started, probed, restarted with back-off, and ended.

Every wait here can be ended by `stop`, so that a pod's deletion never has to wait for a back-off or a probe.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

from sandbox.controllers.ownership import now_text
from sandbox.node import images, logs, probes
from sandbox.node.environment import ConfigProblem
from sandbox.node.memory import tree_memory
from sandbox.node.preparation import PodSurroundings, Prepared, prepare
from sandbox.node.probing import Prober
from sandbox.node.process import START_ERROR, ContainerProcess, StartProblem
from sandbox.node.status import ContainerRecord
from sandbox.node.volumes import VolumeProblem
from sandbox.quantities import parse_quantity

log = logging.getLogger(__name__)

Object = dict[str, Any]
Outcome = TypeVar("Outcome")
HEALTHY_SECONDS = 600.0  # a run this long forgets the back-off of earlier crashes (kubelet)
LEAST_GRACE = 2.0  # what the kubelet leaves a container at least when a grace period was asked for
CONFIG_RETRY, PULL_RETRY, LONGEST_PULL_RETRY, MEMORY_PERIOD = 2.0, 10.0, 300.0, 0.5
MESSAGE_BYTES = 4096


class ContainerRunner:
    """Runs one container of a pod until its restart policy or `stop` says that it is over."""

    def __init__(
        self, around: PodSurroundings, container: Object, record: ContainerRecord, *, init: bool
    ) -> None:
        self.record = record
        self._around = around
        self._container = container
        self._init = init
        self._policy = around.pod["spec"].get("restartPolicy", "Always")
        if init and self._policy == "Always":
            self._policy = "OnFailure"
        self._stopping = asyncio.Event()
        self._grace = 0.0
        self._process: ContainerProcess | None = None
        self._prepared: Prepared | None = None
        self._killed_for = ""
        self._ending: asyncio.Task[None] | None = None
        self._backoff = around.timings.restart_backoff

    async def run(self) -> None:
        """Return when the container has ended for good (its record says how)."""
        crashes = 0
        if self.record.terminated is not None and not self._restarts():
            return
        while not self._stopping.is_set():
            if crashes > 1:
                await self._back_off()
            else:
                self._remember_last()
            if self._stopping.is_set() or not await self._start():
                break
            began = time.monotonic()
            await self._attend()
            if self._stopping.is_set() or not self._restarts():
                break
            crashes += 1
            if time.monotonic() - began >= HEALTHY_SECONDS:
                crashes, self._backoff = 1, self._around.timings.restart_backoff
        self._settle()

    def stop(self, grace: float) -> None:
        """Begin to end the container: preStop hook, SIGTERM, SIGKILL after the grace period. `run` returns then."""
        self._grace = grace
        self._stopping.set()

    def kill(self, reason: str = "") -> None:
        """SIGKILL the processes; `reason` is what the status will say (OOMKilled), else Error."""
        self._killed_for = reason
        if self._process is not None:
            self._process.send(signal.SIGKILL)

    def _restarts(self) -> bool:
        if self._policy == "Always":
            return True
        return self._policy == "OnFailure" and not self.record.succeeded

    def _settle(self) -> None:
        """A container that was stopped while it waited never ran again: its last end is its end."""
        self.record.ready = self._init and self.record.succeeded
        self.record.started = False
        if "waiting" in self.record.state and self.record.last_state:
            self.record.state, self.record.last_state = self.record.last_state, {}
        self._around.changed()

    async def _until_stopped(self, wait: Awaitable[Outcome]) -> Outcome | None:
        """The result, or None when the container was told to stop first."""
        work = asyncio.ensure_future(wait)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            stop.cancel()
            if not work.done():
                work.cancel()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # --- starting -------------------------------------------------------------------------------------------------

    def _wait_for(self, reason: str, message: str = "") -> None:
        self.record.state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        self.record.ready = self.record.started = False
        self._around.changed()

    def _remember_last(self) -> None:
        if self.record.terminated is not None:
            self.record.last_state = self.record.state
            self.record.restart_count += 1
            self._wait_for("ContainerCreating")

    async def _back_off(self) -> None:
        metadata, name = self._around.pod["metadata"], self._container["name"]
        pod = f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        message = f"back-off {self._backoff:g}s restarting failed container={name} pod={pod}"
        self._remember_last()
        self._wait_for("CrashLoopBackOff", message)
        text = f"Back-off restarting failed container {name} in pod {pod}"
        await self._around.record_event("Warning", "BackOff", text)
        await self._pause(self._backoff)
        self._backoff = min(self._backoff * 2, self._around.timings.restart_backoff_max)

    async def _start(self) -> bool:
        """Try until the container has been started or a stop comes; False means stopped."""
        image = await self._pull()
        while image is not None and not self._stopping.is_set():
            try:
                self._prepared = await prepare(
                    self._around, self._container, image, self.record.restart_count
                )
            except (ConfigProblem, VolumeProblem) as problem:
                self._wait_for("CreateContainerConfigError", str(problem))
                await self._around.record_event("Warning", "Failed", f"Error: {problem}")
                await self._pause(CONFIG_RETRY)
                continue
            await self._launch(self._prepared)
            return True
        return False

    async def _pull(self) -> images.Image | None:
        """The image's profile; an image that cannot be had is tried again with back-off. None means stopped."""
        name, pause = self._container["image"], PULL_RETRY
        while not self._stopping.is_set():
            try:
                image = images.find_image(name)
            except images.ImageProblem as problem:
                await self._pull_failed(name, problem)
                await self._pause(pause)
                pause = min(pause * 2, LONGEST_PULL_RETRY)
            else:
                await self._around.record_event(
                    "Normal", "Pulled", f'Container image "{name}" already present on machine'
                )
                return image
        return None

    async def _pull_failed(self, name: str, problem: images.ImageProblem) -> None:
        self._wait_for(problem.reason, str(problem))
        await self._around.record_event("Warning", "Failed", f'Failed to pull image "{name}": {problem}')
        await self._around.record_event("Warning", "Failed", f"Error: {problem.reason}")
        if problem.reason == "ErrImagePull":
            await self._pause(1.0)
            message = f'Back-off pulling image "{name}"'
            self._wait_for("ImagePullBackOff", f"{message}: {problem.reason}: {problem}")
            await self._around.record_event("Normal", "BackOff", message)

    async def _launch(self, prepared: Prepared) -> None:
        name, record = self._container["name"], self.record
        record.image_id, record.container_id = prepared.image.id, f"bubblewrap://{uuid4().hex}{uuid4().hex}"
        self._killed_for, self._process = "", None
        await self._around.record_event("Normal", "Created", f"Created container: {name}")
        path = self._around.logs / name / f"{record.restart_count}.log"
        try:
            prepared.check_command()
            self._process = await ContainerProcess.start(prepared.walls, prepared.argv, prepared.env, path)
        except (StartProblem, OSError) as problem:
            message = f"failed to create containerd task: failed to start container: {problem}"
            self._terminated(START_ERROR, "StartError", message, now_text())
            await self._around.record_event("Warning", "Failed", f"Error: {message}")
            return
        record.state = {"running": {"startedAt": now_text()}}
        record.started = not self._container.get("startupProbe")
        record.ready = record.started and not self._container.get("readinessProbe") and not self._init
        self._around.changed()
        await self._around.record_event("Normal", "Started", f"Started container {name}")

    # --- running and ending ---------------------------------------------------------------------------------------

    async def _attend(self) -> None:
        """Watch a started container until it has ended, and record how."""
        process, prepared = self._process, self._prepared
        if process is None or prepared is None:
            return
        helpers = [asyncio.create_task(self._watch_memory(process))]
        if not self._init:
            prober = Prober(self._around, self._container, self.record, prepared, self._give_up)
            helpers.append(asyncio.create_task(prober.run()))
        for helper in helpers:
            helper.add_done_callback(_complain)
        started_at = self.record.state["running"]["startedAt"]
        try:
            code = await self._until_stopped(process.wait())
            if code is None:
                code = await self._end(process, prepared)
        finally:
            for helper in helpers:
                helper.cancel()
        reason = self._killed_for or ("Completed" if code == 0 else "Error")
        self._terminated(code, reason, self._message(code, prepared), started_at)

    async def _end(self, process: ContainerProcess, prepared: Prepared) -> int:
        """preStop inside the grace period, then SIGTERM, then SIGKILL."""
        if self._grace <= 0:
            return await process.stop(0.0)
        began = time.monotonic()
        if hook := (self._container.get("lifecycle") or {}).get("preStop"):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hook(hook, prepared), self._grace)
        return await process.stop(max(self._grace - (time.monotonic() - began), LEAST_GRACE))

    async def _hook(self, hook: Object, prepared: Prepared) -> None:
        if "sleep" in hook:
            await asyncio.sleep(float(hook["sleep"]["seconds"]))
            return
        asked = {**hook, "timeoutSeconds": self._grace}
        verdict = await probes.check(asked, self._container, self._around.address, prepared.run_beside)
        if not verdict.ok:
            await self._around.record_event(
                "Warning", "FailedPreStopHook", f"PreStopHook failed: {verdict.output}"
            )

    def _terminated(self, code: int, reason: str, message: str, started_at: str) -> None:
        state: Object = {
            "exitCode": code,
            "reason": reason,
            "startedAt": started_at,
            "finishedAt": now_text(),
            "containerID": self.record.container_id,
        }
        if message:
            state["message"] = message
        self.record.state = {"terminated": state}
        self.record.started = False
        self.record.ready = self._init and code == 0
        self._around.changed()

    def _message(self, code: int, prepared: Prepared) -> str:
        with suppress(OSError):
            text = prepared.message_file.read_bytes()[:MESSAGE_BYTES].decode(errors="replace")
            if text:
                return text
        if code != 0 and self._container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            return logs.tail(self._around.logs / self._container["name"] / f"{self.record.restart_count}.log")
        return ""

    async def _watch_memory(self, process: ContainerProcess) -> None:
        limit = ((self._container.get("resources") or {}).get("limits") or {}).get("memory")
        if limit is None or process.first is None:
            return
        allowed = parse_quantity(limit)
        while process.alive:
            used = await asyncio.to_thread(tree_memory, process.first)
            if used > allowed:
                log.info("%s uses %d bytes, more than its limit %s", self._container["name"], used, limit)
                self.kill("OOMKilled")
                return
            await asyncio.sleep(MEMORY_PERIOD)

    def _give_up(self, probe_name: str) -> None:
        """End the process for a failed probe; the restart policy then decides, as after any other exit."""
        grace = self._container[f"{probe_name}Probe"].get("terminationGracePeriodSeconds")
        if grace is None:
            grace = self._around.pod["spec"].get("terminationGracePeriodSeconds", 30)
        ending = "will be restarted" if self._policy != "Never" else "will be killed"
        message = f"Container {self._container['name']} failed {probe_name} probe, {ending}"
        process = self._process

        async def end() -> None:
            await self._around.record_event("Normal", "Killing", message)
            if process is not None:
                await process.stop(float(grace))

        self._ending = asyncio.create_task(end())


def _complain(task: asyncio.Task[None]) -> None:
    """A helper that breaks must be heard of: nothing else would notice."""
    if not task.cancelled() and task.exception() is not None:
        log.error("A container's probe or memory watch failed", exc_info=task.exception())
