"""Everything that must be known before a container can start: image, user, environment, mounts, walls.

What is missing yet (a ConfigMap, a volume's file) is a problem to wait for, never a reason to start with less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.layout import Timings
from sandbox.node import bubblewrap, images
from sandbox.node.environment import ConfigProblem, EnvironmentBuilder, expand
from sandbox.node.process import check_command, run_beside
from sandbox.node.volumes import Mount, VolumeProblem, VolumeSet

Object = dict[str, Any]
TERMINATION_LOG = "/dev/termination-log"


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
    record_event: Callable[[str, str, str], Awaitable[None]]  # type, reason, message

    @property
    def hostname(self) -> str:
        return str(self.pod["spec"].get("hostname") or self.pod["metadata"]["name"])


@dataclass(frozen=True)
class Prepared:
    """A container that can be started, and beside which commands can be run."""

    image: images.Image
    walls: list[str]
    argv: list[str]
    env: dict[str, str]
    mounts: tuple[Mount, ...]
    message_file: Path

    def check_command(self) -> None:
        check_command(self.argv, self.env, self.mounts)

    async def run_beside(self, command: list[str], timeout: float) -> tuple[int, str]:
        """Run a probe's or hook's command with the same files and environment: (exit code, output)."""
        return await run_beside(self.walls, command, self.env, timeout)


def identity(pod: Object, container: Object, image: images.Image) -> tuple[int, int]:
    """(uid, gid) inside the container; raises ConfigProblem where runAsNonRoot forbids it."""
    of_pod = pod["spec"].get("securityContext") or {}
    own = {**of_pod, **(container.get("securityContext") or {})}
    user = int(own.get("runAsUser", image.user))
    if own.get("runAsNonRoot") and user == 0:
        raise ConfigProblem("container has runAsNonRoot and image will run as root")
    return user, int(own.get("runAsGroup", user))


async def prepare(around: PodSurroundings, container: Object, image: images.Image, attempt: int) -> Prepared:
    """Raises ConfigProblem or VolumeProblem with the kubelet's sentence."""
    user, group = identity(around.pod, container, image)
    # HOME as runc sets it; the environment of the manifest wins.
    env = await around.environment.build(container, {"HOME": "/root" if user == 0 else "/", **image.env})
    message_file = around.folder / "containers" / container["name"] / f"{attempt}.message"
    message_file.parent.mkdir(parents=True, exist_ok=True)
    message_file.touch()
    message_path = container.get("terminationMessagePath") or TERMINATION_LOG
    mounts = (
        Mount(around.hosts, "/etc/hosts", True),
        *around.volumes.mounts(container, env),
        *(Mount(message_file, path, False) for path in sorted({message_path, TERMINATION_LOG})),
    )
    cell = bubblewrap.Cell(
        mounts=mounts,
        read_only_root=bool((container.get("securityContext") or {}).get("readOnlyRootFilesystem")),
        uid=user,
        gid=group,
        hostname=around.hostname,
        working_dir=container.get("workingDir") or image.working_dir,
        hidden=around.hidden,
        shown=(images.PROJECT, *bubblewrap.interpreter_folders()),
    )
    try:
        walls = await asyncio.to_thread(bubblewrap.build_arguments, cell)
    except OSError as error:
        raise VolumeProblem(f"a mount point cannot be made: {error}") from error
    argv = [expand(part, env) for part in images.arguments(image, container)]
    return Prepared(image, walls, argv, env, mounts, message_file)
