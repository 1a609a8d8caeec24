"""One training process per GPU: starts them, passes SIGTERM on, and ends with the first one's verdict.

The same as `torchrun --standalone`, whose exit code would hide the workload contract's. Rank 0 alone writes the
termination message.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from include.contracts.exit_codes import ExitCode
from include.contracts.grace import TRAINING_STOP_SECONDS
from include.workloads.tuning.memory import AGAIN, MODULE

GRACE_SECONDS = TRAINING_STOP_SECONDS  # for the others, once one has failed


def should_launch(gpus: int) -> bool:
    """Whether this process is to start others: several GPUs, and no launcher has set a rank yet."""
    return gpus > 1 and "RANK" not in os.environ


def launch(processes: int) -> int:
    """Run this workload in `processes` ranks on this machine; returns the exit code for the pod.

    When a rank asks for it (memory ran out), all are started again.
    """
    asked = _Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked.hear)
    code = AGAIN
    while code == AGAIN and not asked.heard:
        asked.children = _start(processes)
        if asked.heard:  # before they were known
            asked.hear(signal.SIGTERM, None)
        code = _wait(asked.children)
    if code == AGAIN or (code < 0 and asked.heard):  # by the signal, before a process could answer it
        return ExitCode.TRY_AGAIN
    return ExitCode.INTERNAL if code < 0 else code


class _Stop:
    """Passes a signal on to the processes of now."""

    def __init__(self) -> None:
        self.children: Sequence[subprocess.Popen[bytes]] = ()
        self.heard = False

    def hear(self, signum: int, frame: object) -> None:
        self.heard = True
        for child in self.children:
            if child.poll() is None:
                child.send_signal(signum)


def _start(processes: int) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        env = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        if rank:
            env["TERMINATION_LOG"] = os.devnull
        children.append(subprocess.Popen([sys.executable, "-m", MODULE], env=env))
    return children


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Exit code of the chief, unless another failed first; the rest is stopped then. Below 0: ended by that signal."""
    verdict: int | None = None
    deadline = float("inf")
    # A list, not a generator: every child must be polled, also behind one that still runs.
    while None in [child.poll() for child in children]:
        failed = [child.returncode for child in children if child.returncode]
        if failed and verdict is None:
            verdict = failed[0]
            # Those that wait for one whose memory ran out have nothing to save.
            deadline = time.monotonic() + (0 if AGAIN in failed else GRACE_SECONDS)
        if time.monotonic() > deadline:
            for child in children:
                child.kill()
        time.sleep(0.2)
    codes = [child.returncode for child in children]
    if AGAIN in codes:
        return AGAIN
    return codes[0] or verdict or next((code for code in codes if code), 0)
