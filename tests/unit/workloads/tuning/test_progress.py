from __future__ import annotations

import json
import logging
import socket
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from include.views.curve import points
from include.workloads.tuning.progress import Progress, Snapshot, duration, serve


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (45, "45s"), (100, "1m40s"), (7500, "2h05m"), (-3, "0s")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_line_is_the_contract_s() -> None:
    snapshot = Snapshot("training", 12, 60, 0.5, 1.234, 900, 205.2, 100)
    assert snapshot.line() == "step 12/60 | loss 1.234 | 205 tok/s | ETA 1m40s"
    more = replace(snapshot, learning_rate=2e-4, memory_bytes=3 << 30)
    assert more.line() == "step 12/60 | loss 1.234 | 205 tok/s | lr 0.0002 | 3 GiB | ETA 1m40s"


@pytest.mark.parametrize(("rate", "memory"), [(2e-4, 123 << 20), (1.25e-5, 80 << 30), (0.0, 1 << 20)])
def test_the_page_of_a_workspace_reads_the_line(rate: float, memory: int) -> None:
    snapshot = Snapshot("training", 12, 60, 0.5, 1.234, 900, 205.2, 100, rate, memory_bytes=memory)
    [point] = points([f"2026-11-29 INFO {snapshot.line()}"])
    assert (point.step, point.total, point.loss, point.tokens_per_second) == (12, 60, 1.234, 205)
    assert point.learning_rate == pytest.approx(rate)
    assert point.memory_gib == pytest.approx(memory / 2**30, rel=0.01)


def test_speed_and_eta_count_from_where_this_attempt_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("include.workloads.tuning.progress.time.monotonic", lambda: now[0])
    progress = Progress(tmp_path / "progress.json")
    progress.begin(step=10, total=20)
    now[0] += 10
    progress.evaluated(2.5, {"reward_margin": 0.5, "reward_accuracy": 0.75})
    progress.update(step=15, loss=0.5, tokens=1000, epoch=1.5, learning_rate=0.1, memory_bytes=1024)
    written = json.loads((tmp_path / "progress.json").read_text())
    assert written == {
        "stage": "training",
        "step": 15,
        "total": 20,
        "epoch": 1.5,
        "loss": 0.5,
        "tokens": 1000,
        "tokens_per_second": 100.0,
        "eta_seconds": 10.0,
        "learning_rate": 0.1,
        "loss_evaluation": 2.5,
        "reward_margin": 0.5,
        "reward_accuracy": 0.75,
        "memory_bytes": 1024,
        "notice": None,
    }
    assert "kaito_tuning_loss_evaluation 2.5" in progress.snapshot.prometheus()
    assert "kaito_tuning_reward_accuracy 0.75" in progress.snapshot.prometheus()


def test_a_notice_stays_to_the_end() -> None:
    progress = Progress(None)
    progress.notice("Memory ran out before.")
    progress.begin(0, 2)
    progress.update(1, 1.0, 10, 0.5)
    progress.stage("done", "")
    assert progress.snapshot.notice == "Memory ran out before."


def test_at_most_one_line_a_second_and_the_last_step_always(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("include.workloads.tuning.progress.time.monotonic", lambda: now[0])
    progress = Progress(None)
    progress.begin(0, 30)
    with caplog.at_level(logging.INFO, logger="workload"):
        for step in range(1, 31):
            now[0] += 0.1
            progress.update(step, 1.0, step, 0.0)
    lines = [record.getMessage() for record in caplog.records]
    assert 3 <= len(lines) <= 5
    assert lines[-1].startswith("step 30/30")


def test_a_file_that_cannot_be_written_does_not_stop_training(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "missing" / "progress.json")
    progress.begin(0, 2)
    progress.update(1, 0.1, 5, 0.5)
    assert progress.snapshot.step == 1


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def test_progress_and_metrics_are_served() -> None:
    progress = Progress(None)
    progress.begin(0, 4)
    progress.update(1, 2.5, 64, 0.25)
    server = serve(progress, "127.0.0.1", 0)
    assert server is not None
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert json.loads(get(f"{url}/progress"))["loss"] == 2.5
        metrics = get(f"{url}/metrics")
        assert "kaito_tuning_loss 2.5" in metrics
        assert "# TYPE kaito_tuning_tokens_total counter" in metrics
        assert 'kaito_tuning_stage{stage="training"} 1' in metrics
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{url}/else")
    finally:
        server.shutdown()
        server.server_close()


def test_a_taken_port_does_not_stop_training() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert serve(Progress(None), "127.0.0.1", taken.getsockname()[1]) is None
