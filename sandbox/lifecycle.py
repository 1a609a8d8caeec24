"""Start and stop the sandbox's process from outside: what `up`, `down` and `status` do.

Only the process that the pid file names is ever signalled: by its id with its start time, so that a number used again
is never taken for it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.layout import Layout

PROJECT = Path(__file__).resolve().parents[1]
#: The two programs that no Python package carries -> their Debian packages.
PACKAGES = {"bwrap": "bubblewrap", "docker-registry": "docker-registry"}
START_SECONDS, STOP_SECONDS, KILL_SECONDS = 30.0, 15.0, 5.0


class SandboxProblem(RuntimeError):
    """The command cannot do what it was asked; the message says why and what to do."""


class MissingPrograms(RuntimeError):
    """Something must be installed first; the message has the exact command."""


def check_programs() -> None:
    """Raise MissingPrograms when bubblewrap or docker-registry is not installed."""
    missing = [program for program in PACKAGES if shutil.which(program) is None]
    if missing:
        packages = " ".join(PACKAGES[program] for program in missing)
        raise MissingPrograms(
            f"The sandbox needs {' and '.join(missing)}, which Debian and Ubuntu package as {packages}. Install with:\n"
            f"  sudo apt-get update && sudo apt-get install -y {packages}"
        )


def _started(pid: int) -> int | None:
    """The kernel's start time of a living process in clock ticks; None when there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def own_record() -> dict[str, int]:
    return {"pid": os.getpid(), "started": _started(os.getpid()) or 0}


@dataclass(frozen=True)
class SandboxProcess:
    """A process that was recorded and still lives."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        return _started(self.pid) == self.started

    @classmethod
    def read(cls, path: Path) -> SandboxProcess | None:
        """The living process of a pid file; None when the file is missing, torn, or of a process that is gone."""
        try:
            process = cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return process if process.alive else None


def describe(layout: Layout) -> dict[str, Any] | None:
    """`sandbox.json` of a running sandbox, else None."""
    process = SandboxProcess.read(layout.pid_file)
    try:
        described = json.loads(layout.description.read_text())
    except (OSError, ValueError):
        return None
    return described if process is not None and described.get("pid") == process.pid else None


def sweep(layout: Layout) -> None:
    """Remove what a killed sandbox left: its notes, pod folders' memory volumes. Its processes died with it."""
    if SandboxProcess.read(layout.pid_file) is None:
        for path in (layout.pid_file, layout.description):
            path.unlink(missing_ok=True)
        shutil.rmtree(layout.memory_volumes, ignore_errors=True)


def start(layout: Layout, options: list[str]) -> dict[str, Any]:
    """Start a background process in a session of its own and wait until everything answers; a running one is kept."""
    running = describe(layout)
    if running is not None:
        return running
    sweep(layout)
    layout.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [
        sys.executable,
        "-m",
        "sandbox",
        "up",
        "--foreground",
        "--state-dir",
        str(layout.root),
        *options,
    ]
    with layout.process_log.open("ab") as log_file:
        begun = log_file.tell()
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        described = describe(layout)
        if described is not None:
            return described
        if process.poll() is not None:
            break
        time.sleep(0.03)
    else:
        process.terminate()
    with layout.process_log.open(errors="replace") as log_file:
        log_file.seek(begun)
        words = log_file.read().strip().splitlines()
    raise SandboxProblem("The sandbox did not start:\n" + "\n".join(words[-12:] or ["(it said nothing)"]))


def stop(layout: Layout) -> bool:
    """Stop the sandbox with all its pods; True when one ran. SIGKILL follows when SIGTERM is not enough."""
    process = SandboxProcess.read(layout.pid_file)
    if process is not None:
        os.kill(process.pid, signal.SIGTERM)
        if not _ended(process, STOP_SECONDS):
            os.kill(process.pid, signal.SIGKILL)
            if not _ended(process, KILL_SECONDS):
                raise SandboxProblem(
                    f"Process {process.pid} does not end, not even by SIGKILL. Look at it with ps."
                )
    sweep(layout)
    return process is not None


def _ended(process: SandboxProcess, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not process.alive:
            return True
        time.sleep(0.02)
    return not process.alive
