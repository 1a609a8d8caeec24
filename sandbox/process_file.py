"""Which process is the sandbox: its id with its start time, so that a number used again is never taken for it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path


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
