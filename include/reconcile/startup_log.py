"""How far a server that starts has come, by the last lines of its log: weights that arrive, weights that are read.

A pod that downloads 60 GiB is Running and not Ready for half an hour; its log alone says that it gets on.
"""

from __future__ import annotations

import re

#: What `include.workloads.weights.pace` writes of a download, and vLLM of the files that it reads.
_DOWNLOAD = re.compile(r"(\d+ of \d+ MiB \(\d+%\), \d+ MiB/s(?:, about \d+ (?:s|min) left)?)\s*$")
_SHARDS = re.compile(r"[Ll]oading (?:\w+ )*checkpoint shards:\s+(\d+)%")


def startup_stage(log: str) -> str:
    """Say what a starting server does; an empty text where the end of its log does not tell.

    :param log: its last lines, oldest first.
    """
    for line in reversed(log.replace("\r", "\n").splitlines()):
        if line.startswith("weights ready"):  # they are there; what comes next has no measure
            return ""
        if found := _DOWNLOAD.search(line):
            return f"downloading the weights: {found[1]}"
        if found := _SHARDS.search(line):
            return f"loading the weights: {found[1]}%"
    return ""
