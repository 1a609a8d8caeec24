"""The life of one container: made, started, probed, restarted with back-off, and ended.

Every wait here can be ended by `stop`, so that a pod's deletion never has to wait for a back-off or a probe.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from include.sandbox.controllers.ownership import now_text
from include.sandbox.layout import Timings
from include.sandbox.node import bubblewrap, images, logs, probes
from include.sandbox.node.environment import ConfigProblem, EnvironmentBuilder, expand
from include.sandbox.node.memory import tree_memory
from include.sandbox.node.process import (
    START_ERROR,
    ContainerProcess,
    StartProblem,
    check_command,
    run_beside,
)
from include.sandbox.node.status import ContainerRecord
from include.sandbox.node.volumes import Mount, VolumeProblem, VolumeSet
from include.sandbox.quantities import parse_quantity

log = logging.getLogger(__name__)

Object = dict[str, Any]
Outcome = TypeVar("Outcome")
HEALTHY_SECONDS = 600.0  # a run this long forgets the back-off of earlier crashes (kubelet)
CONFIG_RETRY, PULL_RETRY, MEMORY_PERIOD = 2.0, 10.0, 0.5
MESSAGE_BYTES = 4096
KILLED = 128 + signal.SIGKILL


@dataclass
class PodSurroundings:
    """What a pod's containers share: its address, files, and how to tell the cluster about them."""

    pod: Object
    folder: Path
    logs: Path
    hidden: Path
    hosts: Path
    address: str
    volumes: VolumeSet
    environment: EnvironmentBuilder
    timings: Timings
    changed: Callable[[], None]
    tell: Callable[[str, str, str], Awaitable[None]]  # type, reason, message


@dataclass
class Prepared:
    """Everything needed to start (or to run a probe beside) a container."""

    walls: list[str]
    argv: list[str]
    env: dict[str, str]
    message_file: Path


class ContainerRunner:
    """Runs one container of a pod until its restart policy or `stop` says that it is over."""

    def __init__(
        self, pod: PodSurroundings, container: Object, record: ContainerRecord, *, init: bool
    ) -> None:
        self.record = record
        self._pod = pod
        self._container = container
        self._init = init
        self._policy = pod.pod["spec"].get("restartPolicy", "Always")
        if init and self._policy == "Always":
            self._policy = "OnFailure"
        self._stopping = asyncio.Event()
        self._grace = 0.0
        self._process: ContainerProcess | None = None
        self._prepared: Prepared | None = None
        self._killed_for = ""
        self._backoff = pod.timings.restart_backoff

    # --- the whole life -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Return when the container has ended for good (its record says how)."""
        crashes = 0
        if self.record.terminated is not None and not self._restarts():
            return
        while not self._stopping.is_set():
            if crashes > 1:
                await self._back_off()
            elif crashes == 1 or self.record.terminated is not None:
                self._remember_last()
            if self._stopping.is_set() or not await self._start():
                break
            began = time.monotonic()
            await self._attend()
            if self._stopping.is_set() or not self._restarts():
                break
            crashes += 1
            if time.monotonic() - began >= HEALTHY_SECONDS:
                crashes, self._backoff = 1, self._pod.timings.restart_backoff
        self._settle()

    async def stop(self, grace: float) -> None:
        """End the container: preStop hook, SIGTERM, SIGKILL after the grace period. Returns at once; `run` ends."""
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
        """A container that was stopped while it waited never ran again: say so."""
        self.record.ready = self._init and self.record.succeeded
        self.record.started = False
        if "waiting" in self.record.state and self.record.last_state:
            self.record.state, self.record.last_state = self.record.last_state, {}
        self._pod.changed()

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
        self._pod.changed()

    def _remember_last(self) -> None:
        if self.record.terminated is not None:
            self.record.last_state = self.record.state
            self.record.restart_count += 1
            self._wait_for("ContainerCreating")

    async def _back_off(self) -> None:
        metadata, name = self._pod.pod["metadata"], self._container["name"]
        label = f"{name} pod={metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        self._remember_last()
        self._wait_for("CrashLoopBackOff", f"back-off {self._backoff:g}s restarting failed container={label}")
        await self._pod.tell(
            "Warning",
            "BackOff",
            f"Back-off restarting failed container {name} in pod {label.split('pod=')[1]}",
        )
        await self._pause(self._backoff)
        self._backoff = min(self._backoff * 2, self._pod.timings.restart_backoff_max)

    async def _start(self) -> bool:
        """Try until the container has been started or a stop comes; False means stopped."""
        image = await self._pull()
        while image is not None and not self._stopping.is_set():
            try:
                self._prepared = await self._prepare(image)
            except (ConfigProblem, VolumeProblem) as problem:
                self._wait_for("CreateContainerConfigError", str(problem))
                await self._pod.tell("Warning", "Failed", f"Error: {problem}")
                await self._pause(CONFIG_RETRY)
                continue
            await self._launch(image, self._prepared)
            return True
        return False

    async def _pull(self) -> images.Image | None:
        """The image's profile; an image that cannot be had is tried again with back-off, as it may be added."""
        name, pause = self._container["image"], PULL_RETRY
        while not self._stopping.is_set():
            try:
                image = images.find_image(name)
            except images.ImageProblem as problem:
                self._wait_for(problem.reason, str(problem))
                await self._pod.tell("Warning", "Failed", f'Failed to pull image "{name}": {problem}')
                await self._pod.tell("Warning", "Failed", f"Error: {problem.reason}")
                if problem.reason == "ErrImagePull":
                    await self._pause(min(1.0, pause))
                    self._wait_for(
                        "ImagePullBackOff", f'Back-off pulling image "{name}": {problem.reason}: {problem}'
                    )
                    await self._pod.tell("Normal", "BackOff", f'Back-off pulling image "{name}"')
                await self._pause(pause)
                pause = min(pause * 2, 300.0)
            else:
                await self._pod.tell(
                    "Normal", "Pulled", f'Container image "{name}" already present on machine'
                )
                return image
        return None

    def _identity(self, image: images.Image) -> tuple[int, int]:
        spec = self._pod.pod["spec"].get("securityContext") or {}
        own = self._container.get("securityContext") or {}
        user = own.get("runAsUser", spec.get("runAsUser", image.user))
        group = own.get("runAsGroup", spec.get("runAsGroup", user))
        if own.get("runAsNonRoot", spec.get("runAsNonRoot")) and user == 0:
            raise ConfigProblem("container has runAsNonRoot and image will run as root")
        return int(user), int(group)

    async def _prepare(self, image: images.Image) -> Prepared:
        pod, container = self._pod, self._container
        user, group = self._identity(image)
        env = await pod.environment.build(container, image.env)
        message_file = pod.folder / "containers" / container["name"] / f"{self.record.restart_count}.message"
        message_file.parent.mkdir(parents=True, exist_ok=True)
        message_file.touch()
        message_path = container.get("terminationMessagePath") or "/dev/termination-log"
        mounts = [
            Mount(pod.hosts, "/etc/hosts", True),
            *pod.volumes.mounts(container, env),
            Mount(message_file, message_path, False),
        ]
        if message_path != "/dev/termination-log":
            mounts.append(Mount(message_file, "/dev/termination-log", False))
        cell = bubblewrap.Cell(
            mounts=tuple(mounts),
            read_only_root=bool((container.get("securityContext") or {}).get("readOnlyRootFilesystem")),
            uid=user,
            gid=group,
            hostname=pod.pod["spec"].get("hostname") or pod.pod["metadata"]["name"],
            working_dir=container.get("workingDir") or image.working_dir,
            hidden=pod.hidden,
            shown=(images.PROJECT, *bubblewrap.interpreter_folders()),
        )
        argv = [expand(part, env) for part in images.arguments(image, container)]
        try:
            walls = await asyncio.to_thread(bubblewrap.build_arguments, cell)
        except OSError as error:
            raise VolumeProblem(f"a mount point cannot be made: {error}") from error
        return Prepared(walls, argv, env, message_file)

    async def _launch(self, image: images.Image, prepared: Prepared) -> None:
        name, record = self._container["name"], self.record
        record.image_id, record.container_id = image.id, f"bubblewrap://{uuid4().hex}{uuid4().hex}"
        self._killed_for, self._process = "", None
        await self._pod.tell("Normal", "Created", f"Created container: {name}")
        path = self._pod.logs / name / f"{record.restart_count}.log"
        try:
            check_command(
                prepared.argv, prepared.env, self._pod.volumes.mounts(self._container, prepared.env)
            )
            self._process = await ContainerProcess.start(prepared.walls, prepared.argv, prepared.env, path)
        except (StartProblem, OSError) as problem:
            message = f"failed to create containerd task: failed to start container: {problem}"
            self._terminated(START_ERROR, "StartError", message, now_text())
            await self._pod.tell("Warning", "Failed", f"Error: {message}")
            return
        record.state = {"running": {"startedAt": now_text()}}
        record.started = not self._container.get("startupProbe")
        record.ready = record.started and not self._container.get("readinessProbe") and not self._init
        self._pod.changed()
        await self._pod.tell("Normal", "Started", f"Started container {name}")

    # --- running --------------------------------------------------------------------------------------------------

    async def _attend(self) -> None:
        """Watch a started container until it has ended, and record how."""
        process = self._process
        if process is None:
            return
        helpers = [asyncio.create_task(self._watch_memory(process))]
        if not self._init:
            helpers.append(asyncio.create_task(self._probe()))
        started_at = self.record.state["running"]["startedAt"]
        try:
            code = await self._until_stopped(process.wait())
            if code is None:
                code = await self._end(process)
        finally:
            for helper in helpers:
                helper.cancel()
        reason = self._killed_for or ("Completed" if code == 0 else "Error")
        self._terminated(code, reason, self._message(code), started_at)

    async def _end(self, process: ContainerProcess) -> int:
        """preStop inside the grace period, then SIGTERM, then SIGKILL."""
        began = time.monotonic()
        hook = (self._container.get("lifecycle") or {}).get("preStop")
        if hook and self._grace > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hook(hook), self._grace)
        left = self._grace - (time.monotonic() - began)
        return await process.stop(max(left, 0.0) if self._grace <= 0 else max(left, 2.0))

    async def _hook(self, hook: Object) -> None:
        if "sleep" in hook:
            await asyncio.sleep(float(hook["sleep"]["seconds"]))
            return
        verdict = await probes.check(
            {**hook, "timeoutSeconds": self._grace}, self._container, self._pod.address, self._execute
        )
        if not verdict.ok:
            await self._pod.tell("Warning", "FailedPreStopHook", f"PreStopHook failed: {verdict.output}")

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
        self._pod.changed()

    def _message(self, code: int) -> str:
        if self._prepared is None:
            return ""
        with suppress(OSError):
            text = self._prepared.message_file.read_bytes()[:MESSAGE_BYTES].decode(errors="replace")
            if text:
                return text
        if code != 0 and self._container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            return logs.tail(self._pod.logs / self._container["name"] / f"{self.record.restart_count}.log")
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

    async def _execute(self, command: list[str], timeout: float) -> tuple[int, str]:
        prepared = self._prepared
        assert prepared is not None  # noqa: S101 - probes run only after the start
        return await run_beside(prepared.walls, command, prepared.env, timeout)

    # --- probes ---------------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        startup = self._container.get("startupProbe")
        if startup:
            await self._repeat("Startup", startup, self._on_startup)
            if not self.record.started:
                return
        async with asyncio.TaskGroup() as group:
            if probe := self._container.get("readinessProbe"):
                group.create_task(self._repeat("Readiness", probe, self._on_readiness))
            if probe := self._container.get("livenessProbe"):
                group.create_task(self._repeat("Liveness", probe, self._on_liveness))

    async def _repeat(self, word: str, probe: Object, decided: Callable[[bool], bool]) -> None:
        async def ask() -> probes.Verdict:
            return await probes.check(probe, self._container, self._pod.address, self._execute)

        async def failed(output: str) -> None:
            await self._pod.tell("Warning", "Unhealthy", f"{word} probe failed: {output}")

        await probes.repeat(probe, ask, decided, failed)

    def _on_startup(self, ok: bool) -> bool:
        if not ok:
            self._restart_after("startup")
            return False
        self.record.started = True
        self.record.ready = not self._container.get("readinessProbe")
        self._pod.changed()
        return False

    def _on_readiness(self, ok: bool) -> bool:
        if self.record.ready != ok:
            self.record.ready = ok
            self._pod.changed()
        return True

    def _on_liveness(self, ok: bool) -> bool:
        if not ok:
            self._restart_after("liveness")
        return ok

    def _restart_after(self, probe_name: str) -> None:
        """End the process; the restart policy then decides, as after any other exit."""
        process, probe = self._process, self._container[f"{probe_name}Probe"]
        grace = probe.get("terminationGracePeriodSeconds")
        if grace is None:
            grace = self._pod.pod["spec"].get("terminationGracePeriodSeconds", 30)
        ending = "will be restarted" if self._policy != "Never" else "will be killed"
        message = f"Container {self._container['name']} failed {probe_name} probe, {ending}"

        async def end() -> None:
            await self._pod.tell("Normal", "Killing", message)
            if process is not None:
                await process.stop(float(grace))

        self._ending = asyncio.create_task(end())
