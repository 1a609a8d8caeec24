"""How far a pod that starts has come, by the last lines of its log: weights that arrive, weights that are read.

A pod that downloads 60 GiB is Running and not Ready for half an hour; its log alone says that it gets on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from include.workspace.status.startup import DOWNLOADING, LOADING, STEP_PERCENT, share

#: What `include.workloads.weights.pace` writes of a download, and vLLM of the files that it reads.
_DOWNLOAD = re.compile(
    r"((\d+) of (\d+) MiB \(\d+%\), \d+ MiB/s(?:, about (?P<left>\d+) (?P<unit>s|min) left)?)\s*$"
)
_SHARDS = re.compile(r"[Ll]oading (?:\w+ )*checkpoint shards:\s+(\d+)%")
_SECONDS = {"s": 1.0, "min": 60.0}


@dataclass(frozen=True, slots=True)
class Startup:
    """What a starting server does and how far it is: MiB of a download, percent of a load.

    :param text: the same in words, without the stage.
    """

    stage: str
    step: int
    total: int
    text: str
    eta_seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.stage}: {self.text}"

    @property
    def percent(self) -> int:
        return share(self.step, self.total)

    @property
    def step_of_it(self) -> str:
        """The same for as long as it has not moved by a step that is worth a write of the status."""
        return f"{self.stage} {self.percent // STEP_PERCENT}"

    def status(self) -> dict[str, Any]:
        """The status' `progress`, in the shape that a training's has."""
        told = {"stage": self.stage, "step": self.step, "total": self.total, "percent": self.percent}
        return told if self.eta_seconds is None else {**told, "etaSeconds": self.eta_seconds}


def startup(log: str) -> Startup | None:
    """Say what a starting server does; None where the end of its log does not tell.

    :param log: its last lines, oldest first.
    """
    for line in reversed(log.replace("\r", "\n").splitlines()):
        if line.startswith("weights ready"):  # they are there; what comes next has no measure
            return None
        if found := _DOWNLOAD.search(line):
            left = int(found["left"]) * _SECONDS[found["unit"]] if found["left"] else None
            return Startup(DOWNLOADING, int(found[2]), int(found[3]), found[1], left)
        if found := _SHARDS.search(line):
            return Startup(LOADING, int(found[1]), 100, f"{found[1]}%")
    return None
