from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from include.workloads.tuning import launch


def process(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code])


@pytest.mark.parametrize(("gpus", "rank", "expected"), [(1, None, False), (4, None, True), (4, "0", False)])
def test_only_the_first_process_of_a_machine_with_several_gpus_launches(
    gpus: int, rank: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert launch.should_launch(gpus) is expected


@pytest.mark.parametrize(("codes", "verdict"), [((0, 0), 0), ((64, 64), 64), ((0, 75), 75)])
def test_the_verdict_is_the_chief_s_or_the_first_failure(codes: tuple[int, int], verdict: int) -> None:
    children = [process(f"import sys; sys.exit({code})") for code in codes]
    assert launch._wait(children) == verdict


def test_one_failed_rank_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.1)
    children = [process("import time; time.sleep(60)"), process("import sys; sys.exit(64)")]
    assert launch._wait(children) != 0
    assert all(child.returncode is not None for child in children)


def test_when_memory_ran_out_in_one_all_are_started_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others wait for the one that failed, so they are not given time to save."""
    starts: list[list[subprocess.Popen[bytes]]] = []

    def start(processes: int) -> list[subprocess.Popen[bytes]]:
        codes = ["import time; time.sleep(60)", "import sys; sys.exit(76)"] if not starts else ["", ""]
        starts.append([process(code) for code in codes])
        return starts[-1]

    monkeypatch.setattr(launch, "_start", start)
    monkeypatch.setattr(launch.signal, "signal", lambda *_: None)  # type: ignore[attr-defined]
    assert launch.launch(2) == 0
    assert len(starts) == 2
    assert all(child.returncode is not None for child in starts[0])


STOPPED_WHILE_IMPORTING = """
import os, runpy, signal, sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
runpy.run_module("include.workloads.tuning", run_name="__main__")
"""


def test_a_stop_while_importing_is_told_and_tried_again(tmp_path: Path) -> None:
    """It ended by the signal, with no message; as the first process of a container it did not end at all."""
    result = tmp_path / "result.json"
    ended = subprocess.run(
        [sys.executable, "-c", STOPPED_WHILE_IMPORTING],
        cwd=Path(__file__).parents[4],
        env={**os.environ, "TERMINATION_LOG": str(result)},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert ended.returncode == 75, ended.stderr
    assert json.loads(result.read_text()) == {
        "error": "Stopped by SIGTERM while it started; it can be started again.",
        "class": "transient",
    }


def test_a_stop_before_the_processes_are_known_reaches_them(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Callable[[int, object], None]] = []

    def start(processes: int) -> list[subprocess.Popen[bytes]]:
        heard[0](signal.SIGTERM, None)
        return [process("import time; time.sleep(60)")]

    monkeypatch.setattr(launch, "_start", start)
    monkeypatch.setattr(launch.signal, "signal", lambda number, handler: heard.append(handler))  # type: ignore[attr-defined]
    assert launch.launch(1) == 75, "it ended by the signal, before it could answer it"


def test_an_end_by_a_signal_that_nobody_asked_for_is_an_internal_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_start", lambda processes: [process("import os; os.kill(os.getpid(), 11)")])
    monkeypatch.setattr(launch.signal, "signal", lambda *_: None)  # type: ignore[attr-defined]
    assert launch.launch(1) == 1
