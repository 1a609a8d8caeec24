"""`python -m tests.bench.dataset_speed [MiB]`: the dataset pod's work against `curl` and `sha256sum` of the same file.

Both fetch from one server on this machine, in turns; ours also reads, checks, normalises and writes every row, looks at
a part of them, and starts an interpreter. Prints medians, the ratio, the most memory that ours took, and CPU time,
which hangs less on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.dataset_server import folder_server

PAIRS, MIB = 3, 128
ROOT = Path(__file__).parents[2]
WORDS = ["pod", "node", "asks", "for", "GPUs", "waits", "until", "image", "then", "trains"]


def write(folder: Path, mebibytes: int) -> None:
    """The same chat rows of some 900 bytes as JSON lines and as Parquet."""
    dice, rows, size = random.Random(1), [], 0
    with (folder / "rows.jsonl").open("w") as file:
        while size < mebibytes << 20:
            asked, told = (" ".join(dice.choices(WORDS, k=count)) for count in (60, 120))
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": f'{told}\n"x"'}]
            size += file.write(json.dumps({"messages": messages}) + "\n")
            rows.append({"messages": messages})
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")


def seconds(command: list[str], env: dict[str, str]) -> tuple[float, float, int]:
    """Seconds on the clock of a command, seconds of CPU time, and its most resident memory in bytes."""
    started = time.monotonic()
    child = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{command} ended with {status}")
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> None:
    """Print a line for each format."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "mebibytes", nargs="?", type=int, default=MIB, help=f"size of the rows (default {MIB})"
    )
    mebibytes = parser.parse_args().mebibytes
    with tempfile.TemporaryDirectory(prefix="dataset-speed-") as name, ExitStack() as stack:
        folder = Path(name)
        # In a process of its own: what a process takes at its start counts as memory of those that it starts.
        code = (
            f"from pathlib import Path; from {__spec__.name} import write; write(Path({name!r}), {mebibytes})"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
        site = stack.enter_context(folder_server(folder))
        for form in ("jsonl", "parquet"):
            url, ours, theirs = f"{site}/rows.{form}", [], []
            for pair in range(PAIRS):
                fetch = f"curl -fsS {url} -o {folder}/copy && sha256sum {folder}/copy"
                theirs.append(seconds(["sh", "-c", fetch], dict(os.environ)))
                env = {
                    **os.environ,
                    "PYTHONDONTWRITEBYTECODE": "",  # in the image, the code is compiled
                    "DATASET_URLS": json.dumps([url]),
                    "ALLOWED_NETWORKS": "127.0.0.1/32",
                    "DATASET_OUTPUT": str(folder / f"{form}-{pair}"),
                    "TERMINATION_LOG": str(folder / "result.json"),
                }
                ours.append(seconds([sys.executable, "-m", "include.workloads.dataset"], env))
            (mine, busy, _), (other, other_busy, _) = (
                map(statistics.median, zip(*found, strict=True)) for found in (ours, theirs)
            )
            memory = max(resident for *_, resident in ours)
            print(
                f"{mebibytes} MiB of rows, {form}, medians of {PAIRS}: ours {mine:.2f} s (CPU {busy:.2f} s), curl and "
                f"sha256sum {other:.2f} s (CPU {other_busy:.2f} s): {mine / other:.1f}x; {memory >> 20} MiB"
            )


if __name__ == "__main__":
    main()
