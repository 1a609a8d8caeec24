"""Runs several commands as one process: a signal goes to all of them, and when one ends, so do the others.

python -m demo.together '[["airflow", "standalone"], ["airflow", "api-server", "--apps", "execution"]]'
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

LOOK_SECONDS, END_SECONDS = 0.2, 20.0


class _Told(Exception):
    """A signal came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _raise(number: int, _: FrameType | None) -> None:
    raise _Told(number)


def run(commands: Sequence[Sequence[str]]) -> int:
    """Run them until one ends or a signal comes; returns the exit status of the one that ended first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise)
    passed_on, children = signal.SIGTERM, [subprocess.Popen(command) for command in commands]
    try:
        while all(child.poll() is None for child in children):
            time.sleep(LOOK_SECONDS)
    except _Told as told:
        passed_on = signal.Signals(told.number)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ended = next((child.returncode for child in children if child.returncode is not None), 0)
    for child in children:
        child.send_signal(passed_on)
    deadline = time.monotonic() + END_SECONDS
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
    return ended


if __name__ == "__main__":
    sys.exit(run(json.loads(sys.argv[1])))
