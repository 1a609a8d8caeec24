"""What `python -m include.cli check` costs: its start, and a hundred Workspaces, valid and invalid.

    python tests/bench/check_speed.py [repetitions]

Prints a table: medians of several fresh processes in seconds, on the clock and of CPU, and the ratio of CPU to a bare
start that only imports yaml and pydantic. Most of pydantic is imported with the first model only, so a row says what
that takes: no check can start with less. The cost of a hundred Workspaces is the run with them less the start.
Nothing is asserted.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
MANY = 100
# With bytecode, as everybody but a shell that sets this runs Python: else each start compiles the whole package.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
#: As the command line starts: without a look for garbage or for pydantic's plugins.
ONE_MODEL = """\
import gc, os
gc.disable()
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
import yaml, pydantic
class One(pydantic.BaseModel):
    field: int
gc.freeze()
"""
TUNING = """\
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {{name: tune-{index}, namespace: ml}}
resource:
  instanceType: {machine}
  labelSelector:
    matchLabels: {{app: tune-{index}}}
tuning:
  preset: {{name: {preset}}}
  {method}: qlora
  input:
    urls: [{url}]
  output:
    image: registry.example.com/adapters/phi:{index}
    {push}: push-secret
"""
GOOD = {
    "machine": "Standard_NC24ads_A100_v4",
    "preset": "phi-3-mini-128k-instruct",
    "method": "method",
    "url": "https://example.com/train.parquet",
    "push": "imagePushSecret",
}
# Misspelt names are the dearest faults: each is compared with all known ones.
BAD = {
    "machine": "Standard_NC24ads_A10{index}_v4x",
    "preset": "phi-3-minni-{index}",
    "method": "metod",
    "url": "http://127.0.0.1/x",
    "push": "imagePushSecrett",
}


def workspaces(fields: dict[str, str], count: int = MANY) -> str:
    """That many Workspaces, each with names of its own."""
    documents = []
    for index in range(count):
        own = {key: value.format(index=index) for key, value in fields.items()}
        documents.append(TUNING.format(index=index, **own))
    return "---\n".join(documents)


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and seconds of a processor, which other work on the machine disturbs less."""

    clock: float
    cpu: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.clock - other.clock, self.cpu - other.cpu)


def cost(repetitions: int, *command: str) -> Cost:
    """The medians of a command in fresh processes, after one that does not count: it writes the bytecode."""
    clocks, cpus = [], []
    for _ in range(repetitions + 1):
        used, begin = cpu_of_children(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, *command], cwd=PROJECT_ROOT, capture_output=True, env=ENVIRONMENT
        )
        clocks.append(time.perf_counter() - begin)
        cpus.append(cpu_of_children() - used)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stderr.decode()}")
    return Cost(statistics.median(clocks[1:]), statistics.median(cpus[1:]))


def cpu_of_children() -> float:
    """Seconds that the ended children of this process have computed."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(repetitions: int) -> None:
    """Measure, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"one": workspaces(GOOD, 1), "valid": workspaces(GOOD), "invalid": workspaces(BAD)}
        for name, text in files.items():
            (Path(folder) / f"{name}.yaml").write_text(text)
        check = ("-m", "include.cli", "check")
        bare = cost(repetitions, "-c", "import yaml, pydantic")
        rows = [
            ("bare start: import yaml, pydantic", bare),
            ("one pydantic model of one field, and yaml", cost(repetitions, "-c", ONE_MODEL)),
            ("--help", cost(repetitions, "-m", "include.cli", "--help")),
            ("start: check of one Workspace", cost(repetitions, *check, f"{folder}/one.yaml")),
        ]
        start = rows[-1][1]
        for name in ("valid", "invalid"):
            whole = cost(repetitions, *check, f"{folder}/{name}.yaml")
            rows.append((f"{MANY} {name} Workspaces, beyond the start", whole - start))
    print(f"{'median of ' + str(repetitions):45} seconds   CPU   CPU of bare starts")
    for name, took in rows:
        print(f"{name:45} {took.clock:7.2f} {took.cpu:6.2f}   {took.cpu / bare.cpu:7.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
