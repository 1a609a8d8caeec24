"""How long the catalogue takes to import and to read, in fresh processes: every parse of a DAG file reads it.

    python tests/bench/catalog_load.py [repetitions]

Nothing is asserted: times are for people.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
MEASURE = """
import time
import yaml  # Airflow has it loaded already
begin = time.perf_counter()
from include.catalog import load_catalog
imported = time.perf_counter()
load_catalog()
print(imported - begin, time.perf_counter() - imported)
"""


def main(repetitions: int) -> None:
    """Print the medians in milliseconds."""
    runs = []
    for _ in range(repetitions):
        command = [sys.executable, "-c", MEASURE]
        done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
        runs.append([float(part) * 1000 for part in done.stdout.split()])
    imports, loads = zip(*runs, strict=True)
    print(f"import {statistics.median(imports):.0f} ms, load {statistics.median(loads):.0f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
