"""How long each DAG file takes to parse beyond what every such file needs (Airflow's SDK, the KubernetesPodOperator).

    python tests/bench/dag_parse.py [repetitions]

Prints one line for each file: seconds, and the ratio to the base import. Nothing is asserted: times are for people.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
MEASURE = """
import runpy, sys, time
begin = time.perf_counter()
import airflow.sdk
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
base = time.perf_counter()
runpy.run_path(sys.argv[1])
print(base - begin, time.perf_counter() - base)
"""


def measure(file: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Return (base import, DAG file) in seconds, each in a fresh process."""
    command = [sys.executable, "-c", MEASURE, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    base, own = done.stdout.split()[-2:]
    return float(base), float(own)


def main(repetitions: int) -> None:
    """Measure every DAG file and print the medians."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
            "PYTHONPATH": f"{PROJECT_ROOT}{os.pathsep}{PROJECT_ROOT / 'plugins'}",
        }
        for file in sorted((PROJECT_ROOT / "dags").glob("kaito_*.py")):
            times = [measure(file, environment) for _ in range(repetitions)]
            base, own = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{file.name}: {own:.2f} s beyond the base import of {base:.2f} s (ratio {own / base:.2f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
