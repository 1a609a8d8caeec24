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

from include.contracts.grace import TRAINING_STOP_SECONDS

GRACE_SECONDS = TRAINING_STOP_SECONDS  # for the others, once one has failed


def should_launch(gpus: int) -> bool:
    """Whether this process is to start others: several GPUs, and no launcher has set a rank yet."""
    return gpus > 1 and "RANK" not in os.environ


def launch(processes: int) -> int:
    """Run this workload in `processes` ranks on this machine; returns the exit code for the pod."""
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
        children.append(subprocess.Popen([sys.executable, "-m", "include.workloads.tuning"], env=env))

    def pass_on(signum: int, frame: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(signum)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    return _wait(children)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Exit code of the chief, unless another failed first; the rest is stopped then."""
    verdict: int | None = None
    deadline = float("inf")
    # A list, not a generator: every child must be polled, also behind one that still runs.
    while None in [child.poll() for child in children]:
        failed = [child.returncode for child in children if child.returncode]
        if failed and verdict is None:
            verdict = failed[0]
            deadline = time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            for child in children:
                child.kill()
        time.sleep(0.2)
    codes = [child.returncode for child in children]
    worst = codes[0] or verdict or next((code for code in codes if code), 0)
    return worst if worst >= 0 else 1
