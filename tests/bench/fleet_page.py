"""What the table of 1,000 Workspaces costs Airflow's API server: rows, order and HTML, without cluster and browser.

    .venv/bin/python -m tests.bench.fleet_page [Workspaces] [repetitions]

Nothing is asserted: times are for people.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins"))

from fastapi import Request
from kaito.ui import pages
from kaito.ui.meter import Meter

from tests.support.fleet import TRAINING, reached


class Listed:
    """A cluster that has its list at hand."""

    def __init__(self, count: int) -> None:
        self.every = [reached(*TRAINING, name=f"workspace-{number}") for number in range(count)]

    async def fleet(self) -> list[dict[str, Any]]:
        return self.every


async def measured(count: int, repetitions: int) -> tuple[float, int]:
    """Return the median CPU time of one page in seconds, and its size in bytes."""
    cluster: Any = Listed(count)
    app = SimpleNamespace(state=SimpleNamespace(cluster=cluster, meter=Meter(cluster)))
    request = Request({"type": "http", "app": app, "headers": [], "root_path": "/kaito"})
    taken, size = [], 0
    for _ in range(repetitions + 1):
        began = time.process_time()
        page = await pages.workspaces_part(request)
        taken.append(time.process_time() - began)
        size = len(page.body)
    return statistics.median(taken[1:]), size  # the first one loads the templates


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seconds, length = asyncio.run(measured(wanted, int(sys.argv[2]) if len(sys.argv) > 2 else 7))
    print(f"{wanted} Workspaces: {seconds:.3f} s of CPU, {length / 1e6:.2f} MB of HTML")
