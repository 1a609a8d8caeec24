"""A hub that drips is left in time, although its client's threads cannot be stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from include.workloads.weights import pace
from include.workloads.weights.pace import MIN_BYTES, Meter, Pace, line

ROOT = Path(__file__).parents[4]
# What the library does with a server that drips: threads that wait and are waited for.
HELD = """
from concurrent.futures import ThreadPoolExecutor
import time
def snapshot_download(*args, **options):
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: time.sleep(60), range(2)))
"""


def test_a_download_that_gets_on_is_left_alone():
    judged = Pace(max_seconds=1000, stall_seconds=10, begun=0)
    assert [judged.judge(second * MIN_BYTES // 5, second) for second in range(1, 900)] == [None] * 899
    assert judged.judge(MIN_BYTES * 500, 1001) == "took longer than 1000 s"


def test_a_byte_now_and_then_is_no_progress():
    judged = Pace(max_seconds=1000, stall_seconds=10, begun=0, held=5 * MIN_BYTES)
    assert judged.judge(5 * MIN_BYTES + 10, 10) is None
    assert judged.judge(5 * MIN_BYTES + 11, 11) == "sent less than 1 MiB in 10 s"


@pytest.mark.parametrize("setting", ["WEIGHTS_STALL_SECONDS", "WEIGHTS_MAX_SECONDS"])
def test_the_pod_ends_and_may_be_tried_again(setting: str, tmp_path: Path):
    (tmp_path / "huggingface_hub.py").write_text(HELD)
    result = tmp_path / "result"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "TERMINATION_LOG": str(result),
        "WEIGHTS_SOURCE": "hub",
        "WEIGHTS_PATH": str(tmp_path / "weights"),
        "MODEL_ID": "a/b",
        "WEIGHTS_STALL_SECONDS": "2",
        setting: "1",
    }
    begun = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "include.workloads.weights"],
        env=environment,
        cwd=tmp_path,
        check=False,
        timeout=50,
    )
    assert ended.returncode == 75
    assert time.monotonic() - begun < 30
    assert "while a/b at main was downloaded" in json.loads(result.read_text())["error"]


@pytest.mark.parametrize(
    ("line_of", "told"),
    [
        ((100 << 20, 400 << 20, 10.0), "100 of 400 MiB (25%), 10 MiB/s, about 30 s left"),
        ((100 << 20, 40 << 30, 10.0), "100 of 40960 MiB (0%), 10 MiB/s, about 68 min left"),
        ((100 << 20, 400 << 20, 10.0, 50 << 20), "100 of 400 MiB (25%), 5 MiB/s, about 60 s left"),
        ((400 << 20, 400 << 20, 10.0), "400 of 400 MiB (100%), 40 MiB/s"),
        ((100 << 20, 0, 10.0), "100 MiB, 10 MiB/s"),
        ((0, 10, 0.0), "0 of 0 MiB (0%), 0 MiB/s"),
    ],
)
def test_a_line_says_how_much_how_fast_and_how_long_still(line_of, told):
    assert line(*line_of) == told


def test_a_registry_that_sends_next_to_nothing_is_left(monkeypatch: pytest.MonkeyPatch):
    ended: list[str] = []
    seen = threading.Event()

    def end(error: Exception) -> None:
        ended.append(str(error))
        seen.set()

    monkeypatch.setattr(pace, "end_now", end)
    monkeypatch.setattr(pace, "asked_pace", lambda begun: Pace(1000, 0.05, begun))
    with Meter(1 << 30, "the model image", guarded=True):
        assert seen.wait(10)
    assert ended[0].startswith(
        "The registry sent less than 1 MiB in 0 s while the model image was downloaded"
    )
    with Meter(1 << 30, "a push", seconds=0.01):
        assert not seen.clear()
        assert not seen.wait(0.3), "who sends is not held to it"
