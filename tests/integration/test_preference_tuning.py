"""Trains on preferences for real: from the files as people have them, through the dataset step, with a kill between.

What is learnt is which of two answers is the better one; the held-out rows have questions that no trained row has.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from include.contracts.exit_codes import ExitCode
from include.contracts.sharding import VARIABLE
from tests.support.tuning_runs import ALONE, ROOT, TOGETHER, environment, losses, make_inputs

pytestmark = [pytest.mark.integration, pytest.mark.weights, pytest.mark.timeout(300)]

GOOD, BAD = "yes, eight of them", "no idea at all"
PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"GPUs of machine {number}?"}],
        "chosen": [{"role": "assistant", "content": GOOD}],
        "rejected": [{"role": "assistant", "content": BAD}],
    }
    for number in range(48)
]
MARKED = [
    {"prompt": f"GPUs of machine {number}?", "completion": answer, "label": answer == GOOD}
    for number in range(24)
    for answer in (GOOD, BAD)
]
STEPS = 36


def text(**training: Any) -> str:
    config = {
        "QuantizationConfig": {"load_in_4bit": True},
        "LoraConfig": {"r": 4},
        "DatasetConfig": {"train_test_split": 0.7},
        "TrainingArguments": {
            **{"max_steps": STEPS, "learning_rate": 1e-3, "eval_strategy": "steps", "eval_steps": STEPS // 6},
            **training,
        },
    }
    return json.dumps({"training_config": config})


def prepare(folder: Path, rows: list[dict[str, Any]], objective: str, config: str) -> dict[str, str]:
    """The pods' volumes, after the dataset step; the environment of the tuning."""
    inputs = make_inputs(folder / "inputs")
    source = folder / "source"
    source.mkdir()
    (source / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    common = environment(inputs, folder / "out", config) | {
        "TUNING_OBJECTIVE": objective,
        "TUNING_METHOD": "qlora",
    }
    done = subprocess.run(
        [sys.executable, "-m", "include.workloads.dataset"],
        cwd=ROOT,
        env=common
        | {
            "DATASET_PATH": str(source),
            "DATASET_OUTPUT": str(inputs / "data"),
            "TERMINATION_LOG": "/dev/null",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return common


def tune(common: dict[str, str], command: Sequence[str] = ALONE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=common,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def stopped_after(process: subprocess.Popen[str], step: int) -> None:
    """Ask the training to stop once its log shows this step."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= step:
            process.send_signal(signal.SIGTERM)
            break
    log, _ = process.communicate(timeout=120)
    assert process.returncode == ExitCode.TRY_AGAIN, log


def finished(common: dict[str, str], folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The termination result, and the evaluations in order."""
    process = tune(common)
    log, _ = process.communicate(timeout=200)
    assert process.returncode == 0, log
    metrics = json.loads((folder / "out" / "record" / "metrics.json").read_text())
    return json.loads((folder / "out.json").read_text()), [one for one in metrics if "eval_loss" in one]


def test_the_better_answer_is_learnt_from_pairs_and_a_killed_training_goes_on(tmp_path: Path) -> None:
    common = prepare(tmp_path, PAIRS, "dpo", text())
    stopped_after(tune(common), STEPS // 4)
    result, evaluations = finished(common, tmp_path)
    assert result["resumed_from_step"] >= STEPS // 4
    assert result["steps"] == STEPS
    assert result["objective"] == "dpo"
    assert result["reward_accuracy"] == 1.0
    margins = [one["reward_margin"] for one in evaluations]
    assert margins == sorted(margins), "the margin grows with each evaluation"
    assert result["reward_margin"] == margins[-1] > 0.5
    card = (tmp_path / "out" / "record" / "README.md").read_text()
    assert "| Reward accuracy on held-out rows | 1.0 |" in card
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").stat().st_size > 0


@pytest.mark.slow
def test_sharded_over_two_processes_pairs_are_learnt_as_by_one(tmp_path: Path) -> None:
    found = []
    for command, accumulation in ((ALONE, 4), (TOGETHER, 2)):
        folder = tmp_path / str(accumulation)
        sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": accumulation}
        common = prepare(folder, PAIRS, "dpo", text(max_steps=6, eval_steps=6, **sizes))
        training = tune(common | {"DTYPE": "float32", VARIABLE: "true"}, command)
        log, _ = training.communicate(timeout=200)
        assert training.returncode == 0, log
        found.append(losses(folder / "out"))
    assert found[1] == pytest.approx(found[0], abs=2e-3)
    assert found[0][-1] < 0.1


def test_good_answers_are_told_from_bad_ones_by_their_labels(tmp_path: Path) -> None:
    common = prepare(tmp_path, MARKED, "kto", text())
    result, evaluations = finished(common, tmp_path)
    assert result["objective"] == "kto"
    assert evaluations[-1]["reward_margin"] > evaluations[0]["reward_margin"]
    assert result["reward_margin"] > 0.2
    assert "reward_accuracy" not in result  # no pairs, so there is no such number
