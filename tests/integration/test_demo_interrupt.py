"""Ctrl-C in the demo stops every process that it started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def started_with(folder: Path) -> list[psutil.Process]:
    """Processes that name the folder in their arguments or their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), *process.environ().values()])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if str(folder) in text:
            found.append(process)
    return found


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo", "--state-dir", str(tmp_path), "--keep"]
    demo = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a shell does behind a `&`
    )
    try:
        deadline = time.monotonic() + 240
        while not (tmp_path / "demo" / "airflow" / "airflow.pid").exists():
            assert time.monotonic() < deadline
            assert demo.poll() is None
            time.sleep(0.2)
        assert len(started_with(tmp_path)) > 2, "the demo, the sandbox and Airflow run"
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=240)
    finally:
        demo.kill()
    assert demo.returncode == 130, output
    assert "interrupted" in output
    assert started_with(tmp_path) == []
