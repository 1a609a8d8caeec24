"""A real training by two processes, as on a machine with two GPUs, but over gloo on a CPU."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from include.contracts.exit_codes import ExitCode
from tests.support.tuning_runs import ROOT, environment, make_inputs

pytestmark = [pytest.mark.integration, pytest.mark.weights, pytest.mark.timeout(300)]

LAUNCH = "import sys; from include.workloads.tuning.launch import launch; sys.exit(launch(2))"
ALONE = ("-m", "include.workloads.tuning")


def config(accumulation: int) -> dict[str, Any]:
    """16 updates of 4 sequences, over 1.6 times all rows."""
    training = {
        "max_steps": 16,
        "max_length": 64,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": accumulation,
    }
    return {"LoraConfig": {"r": 4}, "TrainingArguments": training}


def start(inputs: Path, output: Path, *command: str) -> subprocess.Popen[str]:
    """Both trainings are of one config: what it says of each process is for two of them."""
    text = json.dumps({"training_config": config(2)})
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(inputs, output, text) | {"DTYPE": "float32"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def losses(output: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((output / "record" / "metrics.json").read_text())]


def test_two_processes_learn_what_one_does_and_one_goes_on_where_two_were_stopped(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs")
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    two = start(inputs, shared, "-c", LAUNCH)
    progress, deadline = shared / "progress.json", time.monotonic() + 120
    while two.poll() is None and time.monotonic() < deadline:
        if progress.exists() and json.loads(progress.read_text())["step"] >= 4:
            two.send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    log, _ = two.communicate(timeout=120)
    assert two.returncode == ExitCode.TRY_AGAIN, log
    one = start(inputs, shared, *ALONE)
    log, _ = one.communicate(timeout=120)
    assert one.returncode == 0, log
    assert (
        "The attempts before took 4 sequences an update: 1 process with 1 at a time, one update every 4."
        in log
    )
    result = json.loads((shared.with_suffix(".json")).read_text())
    assert result["resumed_from_step"] >= 4
    assert result["steps"] == 16
    whole = subprocess.run(
        [sys.executable, *ALONE],
        cwd=ROOT,
        env=environment(inputs, alone, json.dumps({"training_config": config(4)})) | {"DTYPE": "float32"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert whole.returncode == 0
    assert losses(shared) == pytest.approx(losses(alone), abs=2e-3)
    assert losses(alone)[-1] < losses(alone)[0] - 0.2  # there was something to learn
    assert (shared / "adapter" / "adapter_model.safetensors").stat().st_size > 0
