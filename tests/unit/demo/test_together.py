"""Commands that run as one: they end together, by a signal or by themselves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest

from demo.processes import PROJECT_ROOT
from demo.stack import EXECUTION_API, with_execution_api

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]
SAYS_UP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


def together(*commands: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "demo.together", json.dumps(commands)],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_goes_to_all(number: signal.Signals) -> None:
    process = together(SLEEPS, SAYS_UP)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    process.send_signal(number)
    process.wait(20)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_the_first_that_ends_ends_all_and_is_what_is_told() -> None:
    began = time.monotonic()
    process = together(SLEEPS, [sys.executable, "-c", "exit(3)"])
    assert process.wait(30) == 3
    assert time.monotonic() - began < 30


def test_the_workers_ask_another_process_than_people_do() -> None:
    environment = {f"AIRFLOW__{EXECUTION_API}": "http://127.0.0.1:4321/execution/"}
    command = with_execution_api(["airflow", "standalone"], environment)
    assert command[1:3] == ["-m", "demo.together"]
    first, second = json.loads(command[3])
    assert first == ["airflow", "standalone"]
    assert second[:2] == ["sh", "-c"]
    assert second[2].endswith("airflow api-server --apps execution --port 4321")
