"""One running container: a process behind bubblewrap's walls, its log, its signals and its exit code.

`--die-with-parent` ties it to the agent, and its own process space ends with its first process, so nothing can be
left behind. That first process is number 1 in there, as in a real container: SIGTERM does nothing unless handled.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandbox.node.logs import LogFile
from sandbox.node.volumes import Mount

PIPE_LIMIT = 256 * 1024
START_ERROR = 128  # the runtime's exit code for a command that cannot be started
#: Pods share this machine's few cores with the control plane, for which a real node reserves some.
BEHIND_THE_CONTROL_PLANE = ("nice", "-n", "5")


class StartProblem(Exception):
    """The command cannot be started; the message is the runtime's."""


def check_command(argv: Sequence[str], env: Mapping[str, str], mounts: Sequence[Mount]) -> None:
    """Refuse a command that is not there, since bubblewrap would only say so in the container's log."""
    program = argv[0] if argv else ""
    if not program:
        raise StartProblem("no command specified")
    if "/" not in program:
        if shutil.which(program, path=env.get("PATH", "")) is None:
            raise StartProblem(f'exec: "{program}": executable file not found in $PATH: unknown')
        return
    mounted = any(program.startswith(mount.target.rstrip("/") + "/") for mount in mounts)
    if not mounted and not Path(program).exists():
        raise StartProblem(f'exec: "{program}": stat {program}: no such file or directory: unknown')


async def _first_process(descriptor: int) -> int | None:
    """The host's process id of the container's first process, from bubblewrap's --info-fd."""

    def read_all() -> bytes:
        with os.fdopen(descriptor, "rb") as pipe:
            return pipe.read()

    text = await asyncio.to_thread(read_all)
    return int(json.loads(text)["child-pid"]) if text else None


class ContainerProcess:
    """A started container. Made by `start`; `wait` gives its exit code."""

    def __init__(self, process: asyncio.subprocess.Process, first: int | None, log: LogFile) -> None:
        self._process = process
        self._log = log
        self.first = first
        streams = (("stdout", process.stdout), ("stderr", process.stderr))
        self._copying = [asyncio.create_task(log.take(name, reader)) for name, reader in streams if reader]
        self._finished = asyncio.create_task(self._finish())

    @classmethod
    async def start(
        cls, walls: Sequence[str], argv: Sequence[str], env: Mapping[str, str], log_path: Path
    ) -> ContainerProcess:
        """Start `argv` behind `walls` (bwrap's arguments). The environment does not show in any command line."""
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *BEHIND_THE_CONTROL_PLANE,
                *walls,
                "--info-fd",
                str(writing),
                "--",
                *argv,
                env=dict(env),
                pass_fds=(writing,),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=PIPE_LIMIT,
                start_new_session=True,
                cwd="/",
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return cls(process, await _first_process(reading), LogFile(log_path))

    @property
    def alive(self) -> bool:
        return not self._finished.done()

    async def wait(self) -> int:
        """The exit code as a container runtime reports it: 128 + n for signal n."""
        return await asyncio.shield(self._finished)

    async def _finish(self) -> int:
        code = await self._process.wait()
        await asyncio.gather(*self._copying, return_exceptions=True)
        self._log.close()
        return code if code >= 0 else 128 - code

    def send(self, number: int) -> None:
        if not self.alive:
            return
        try:
            if self.first is not None:
                os.kill(self.first, number)
            else:
                self._process.send_signal(number)
        except ProcessLookupError:
            pass

    async def stop(self, grace: float) -> int:
        """SIGTERM, then SIGKILL after the grace period; returns the exit code."""
        if grace > 0:
            self.send(signal.SIGTERM)
            try:
                return await asyncio.wait_for(asyncio.shield(self._finished), grace)
            except TimeoutError:
                pass
        self.send(signal.SIGKILL)
        return await self.wait()


async def run_beside(
    walls: Sequence[str], argv: Sequence[str], env: Mapping[str, str], timeout: float
) -> tuple[int, str]:
    """Run a command (an exec probe or hook) with the same files and environment; returns (exit code, output).

    It has a process space of its own, so it cannot see the container's processes. Raises TimeoutError.
    """
    process = await asyncio.create_subprocess_exec(
        *walls,
        "--",
        *argv,
        env=dict(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        cwd="/",
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout)
    except (TimeoutError, asyncio.CancelledError):
        process.kill()
        await process.wait()
        raise
    code = process.returncode or 0
    return (code if code >= 0 else 128 - code), output.decode(errors="replace").strip()
