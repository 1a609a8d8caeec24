"""What a real training does when memory runs out, the disk is full, or its losses say that it should end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tuning_runs import ROOT, environment, make_inputs

pytestmark = [pytest.mark.integration, pytest.mark.weights, pytest.mark.timeout(400)]

#: Runs the training with one fault put into it; what the training starts again is the real one.
FAULTY = """
import torch
from include.workloads import contract
from include.workloads.tuning import __main__ as program, trainer
step = trainer.AdapterTrainer.training_step
def faulty(self, *args, **options):
    if self.state.global_step == {step}:
        raise {error}
    return step(self, *args, **options)
trainer.AdapterTrainer.training_step = faulty
contract.run(program._main, on_stop=lambda: None)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def tune(
    inputs: Path, output: Path, config: dict[str, Any], code: str = "", before: tuple[str, ...] = ()
) -> tuple[int, dict[str, Any], str]:
    """Exit code, termination result and log of a training."""
    environ = environment(inputs, output, json.dumps({"training_config": config}))
    done = subprocess.run(
        [*before, sys.executable, *(("-c", code) if code else ("-m", "include.workloads.tuning"))],
        cwd=ROOT,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    result = Path(environ["TERMINATION_LOG"])
    said = json.loads(result.read_text()) if result.exists() else {}
    return done.returncode, said, done.stdout


def test_out_of_memory_goes_on_with_smaller_pieces_of_the_same_updates(inputs: Path, tmp_path: Path) -> None:
    config = {
        "LoraConfig": {"r": 4},
        "TrainingArguments": {
            "max_steps": 8,
            "max_length": 64,
            "per_device_train_batch_size": 4,
            "save_strategy": "steps",
            "save_steps": 2,
        },
    }
    fault = FAULTY.format(step=5, error='torch.OutOfMemoryError("CUDA out of memory")')
    code, result, log = tune(inputs, tmp_path / "ran-out", config, fault)
    assert code == 0, log
    assert "Out of memory after step 5: going on from the last checkpoint" in log
    assert "Resuming from step 4." in log
    assert (result["steps"], result["resumed_from_step"]) == (8, 4)
    assert result["memory"] == (
        "Memory ran out before: 2 sequences at a time now, one update every 2 (as many sequences an update as before)."
    )
    assert json.loads((tmp_path / "ran-out" / "progress.json").read_text())["notice"] == result["memory"]


def test_a_killed_training_ends_with_the_bytes_of_one_that_was_not(inputs: Path, tmp_path: Path) -> None:
    """The adapter and the record of it: nothing in them hangs on the attempts, the clock or the pod."""
    config = {
        "LoraConfig": {"r": 4, "lora_dropout": 0.1},
        "TrainingArguments": {"max_steps": 9, "max_length": 64, "save_strategy": "steps", "save_steps": 3},
    }
    code, straight, log = tune(inputs, tmp_path / "straight", config)
    assert code == 0, log
    killed = FAULTY.format(step=7, error="__import__('os')._exit(137)").replace("raise ", "")
    process_code, _, _ = tune(inputs, tmp_path / "killed", config, killed)
    assert process_code == 137
    code, result, log = tune(inputs, tmp_path / "killed", config)
    assert code == 0, log
    assert result["resumed_from_step"] == 6
    assert result["adapter"]["sha256"] == straight["adapter"]["sha256"]
    for name in ("adapter", "record"):
        files = [
            {p.name: p.read_bytes() for p in (tmp_path / run / name).iterdir()}
            for run in ("straight", "killed")
        ]
        assert files[0] == files[1]
    record = json.loads((tmp_path / "straight" / "record" / "reproduce.json").read_text())
    assert record["adapter_sha256"] == result["adapter"]["sha256"]
    assert json.loads(record["training_config"]) == {"training_config": config}
    assert record["arguments"]["training"]["seed"] == 42
    metrics = json.loads((tmp_path / "straight" / "record" / "metrics.json").read_text())
    assert [entry["step"] for entry in metrics] == list(range(1, 10))
    card = (tmp_path / "straight" / "record" / "README.md").read_text()
    assert card.startswith('---\nbase_model: "stand-in/phi-3"\nlibrary_name: peft\n')


#: Asks the training to stop at a place of its own.
STOPPED = """
import os, signal
from include.workloads import contract
from include.workloads.tuning import __main__ as program, trainer
place = trainer.AdapterTrainer.{place}
def stopping(self, *args, **options):
    if self.state.global_step == {step} and {when} and not contract.stop_requested():
        os.kill(os.getpid(), signal.SIGTERM)
    return place(self, *args, **options)
trainer.AdapterTrainer.{place} = stopping
contract.run(program._main, on_stop=lambda: None)
"""


WHOLE, WITHIN = "self.accelerator.sync_gradients", "not self.accelerator.sync_gradients"
BY_STEPS, BY_EPOCHS = {"eval_strategy": "steps", "eval_steps": 2}, {"eval_strategy": "epoch"}


@pytest.mark.parametrize(
    ("place", "step", "when", "strategy"),
    [
        ("prediction_step", 4, WHOLE, BY_STEPS),
        ("prediction_step", 8, WHOLE, BY_STEPS),
        ("training_step", 3, WHOLE, BY_STEPS),
        ("training_step", 2, WHOLE, BY_EPOCHS),
        ("training_step", 3, WHOLE, BY_EPOCHS),
        ("training_step", 3, WITHIN, BY_STEPS),
        ("training_step", 4, WITHIN, BY_STEPS),
        ("training_step", 4, WITHIN, BY_EPOCHS),
    ],
    ids=[
        *("while-evaluating", "at-the-end", "before-evaluating", "in-an-epoch", "at-an-epoch-s-end"),
        *("within-an-update", "within-the-one-after-an-evaluation", "within-an-epoch-s-first"),
    ],
)
def test_a_stop_waits_for_no_evaluation_and_no_update_and_changes_none(
    inputs: Path, tmp_path: Path, place: str, step: int, when: str, strategy: dict[str, Any]
) -> None:
    """The pod has seconds left, and the held-out rows may take minutes: they are looked at by the next attempt.

    So may an update of many pieces: what it has accumulated is thrown away.
    """
    config = {
        "LoraConfig": {"r": 4, "lora_dropout": 0.1},
        "TrainingArguments": {
            **strategy,
            "max_steps": 8,
            "max_length": 64,
            "gradient_accumulation_steps": 3,
            "learning_rate": 0.02,
            "load_best_model_at_end": True,
        },
        "DatasetConfig": {"train_test_split": 0.7},
    }
    code, straight, log = tune(inputs, tmp_path / "straight", config)
    assert code == 0, log
    code, said, log = tune(
        inputs, tmp_path / "stopped", config, STOPPED.format(place=place, step=step, when=when)
    )
    assert code == 75, log
    if when == WITHIN:
        assert f"Stopped at step {step} of 8" in said["error"], "not after the update"
    assert "a checkpoint is saved and the next attempt resumes there" in said["error"]
    code, result, log = tune(inputs, tmp_path / "stopped", config)
    assert code == 0, log
    for key in ("steps", "best_step", "loss_evaluation"):
        assert result[key] == straight[key], log
    assert result["adapter"]["sha256"] == straight["adapter"]["sha256"]
    records = [(tmp_path / run / "record" / "metrics.json").read_text() for run in ("straight", "stopped")]
    assert records[0] == records[1]


def test_a_stop_within_the_first_update_keeps_nothing(inputs: Path, tmp_path: Path) -> None:
    config = {"TrainingArguments": {"max_steps": 2, "max_length": 64, "gradient_accumulation_steps": 3}}
    stopping = STOPPED.format(place="training_step", step=0, when=WITHIN)
    code, said, log = tune(inputs, tmp_path / "first", config, stopping)
    assert code == 75, log
    assert "Stopped within the first of 2 steps" in said["error"]
    code, result, log = tune(inputs, tmp_path / "first", config)
    assert code == 0, log
    assert result["resumed_from_step"] == 0


@pytest.mark.slow
def test_the_best_adapter_by_the_held_out_rows_is_kept(inputs: Path, tmp_path: Path) -> None:
    config = {
        "LoraConfig": {"r": 4},
        "TrainingArguments": {
            "num_train_epochs": 40,
            "learning_rate": 0.02,  # soon overfitted: the rows have nothing in common
            "lr_scheduler_type": "constant",
            "max_length": 64,
            "early_stopping_patience": 2,
        },
        "DatasetConfig": {"train_test_split": 0.7},
    }
    code, result, log = tune(inputs, tmp_path / "best", config)
    assert code == 0, log
    assert result["stopped_early"] == "stopped early: no better loss on the held-out rows in 2 evaluations"
    assert result["best_step"] < result["steps"]
    best = (
        tmp_path / "best" / "checkpoints" / f"checkpoint-{result['best_step']}" / "adapter_model.safetensors"
    )
    adapter = Path(result["adapter"]["path"]) / "adapter_model.safetensors"
    assert _tensors(adapter) == _tensors(best)
    # Its pod was lost before the adapter was saved: the same is chosen again, and nothing is trained.
    shutil.rmtree(result["adapter"]["path"])
    code, again, log = tune(inputs, tmp_path / "best", config)
    assert code == 0, log
    assert again["adapter"] == result["adapter"]
    assert [again[key] for key in ("steps", "best_step")] == [result[key] for key in ("steps", "best_step")]


def _tensors(path: Path) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    return {name: array.tobytes() for name, array in load_file(path).items()}


@pytest.mark.slow
def test_a_training_that_diverges_ends_with_a_sentence(inputs: Path, tmp_path: Path) -> None:
    """A model without knowledge cannot get worse by much, so its loss is made to grow."""
    config = {"LoraConfig": {"r": 4}, "TrainingArguments": {"max_steps": 100, "max_length": 64}}
    grown = FAULTY.replace("raise {error}", "self.lost = True").replace(
        "return step(self, *args, **options)",
        "return step(self, *args, **options) + 20 * getattr(self, 'lost', False)",
    )
    code, result, log = tune(inputs, tmp_path / "diverged", config, grown.format(step=20))
    assert code == 64, log
    assert "The training has diverged: the loss was" in result["error"]
    assert "Set TrainingArguments.learning_rate lower (it is 0.0002)" in result["error"]


@pytest.mark.parametrize(
    ("step", "training", "told"),
    [
        (0, {}, "The loss is not a number after step 2"),
        (1, {"logging_strategy": "no"}, "The loss is not a number after step 4"),
        (1, {"logging_strategy": "no", "save_strategy": "steps", "save_steps": 3}, "The weights"),
        (3, {}, "The weights of the adapter are not numbers after step 4"),
    ],
    ids=["told", "never-told", "in-a-checkpoint", "last-update"],
)
def test_an_adapter_that_is_no_number_is_never_kept(
    inputs: Path, tmp_path: Path, step: int, training: dict[str, Any], told: str
) -> None:
    """Whenever it comes, and however seldom the config lets the losses be told."""
    config = {"LoraConfig": {"r": 4}, "TrainingArguments": {"max_steps": 4, "max_length": 64, **training}}
    lost = FAULTY.format(step=step, error="None").replace(
        "raise None",
        "for one in filter(lambda one: one.requires_grad, self.model.parameters()):\n"
        "            one.register_hook(lambda slope: slope * float('nan'))",
    )
    code, result, log = tune(inputs, tmp_path / "lost", config, lost)
    assert code == 64, log
    assert told in result["error"]
    assert "set TrainingArguments.learning_rate lower (it is 0.0002)" in result["error"]
    assert not (tmp_path / "lost" / "adapter").exists()
    assert not list((tmp_path / "lost").glob("checkpoints/*/complete.json"))


def test_rows_that_fill_no_batch_are_no_training(inputs: Path, tmp_path: Path) -> None:
    """They gave an adapter that had learnt nothing, or an internal fault."""
    training = {
        "max_steps": 2,
        "max_length": 64,
        "per_device_train_batch_size": 64,
        "dataloader_drop_last": True,
    }
    code, result, log = tune(
        inputs, tmp_path / "small", {"LoraConfig": {"r": 4}, "TrainingArguments": training}
    )
    assert code == 65, log
    assert "fewer than the 64 of one batch, and TrainingArguments.dataloader_drop_last" in result["error"]
    assert not (tmp_path / "small" / "adapter").exists()


def test_settings_that_only_the_optimizer_refuses_are_the_config_s_fault(
    inputs: Path, tmp_path: Path
) -> None:
    training = {"max_steps": 2, "max_length": 64, "optim": "sgd", "optim_args": "nesterov=true"}
    code, result, log = tune(
        inputs, tmp_path / "sgd", {"LoraConfig": {"r": 4}, "TrainingArguments": training}
    )
    assert code == 64, log
    assert result["error"].startswith("The libraries refuse the training configuration: Nesterov momentum")


def test_a_step_is_reported_whether_its_loss_is_told_or_not(inputs: Path, tmp_path: Path) -> None:
    config = {
        "LoraConfig": {"r": 4},
        "TrainingArguments": {"max_steps": 3, "max_length": 64, "logging_strategy": "no"},
    }
    code, _, log = tune(inputs, tmp_path / "quiet", config)
    assert code == 0, log
    progress = json.loads((tmp_path / "quiet" / "progress.json").read_text())
    assert (progress["step"], progress["loss"]) == (3, None)
    assert progress["tokens_per_second"] > 0
    assert progress["eta_seconds"] == 0


def test_a_full_volume_is_named_with_its_size(inputs: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    small = ("bwrap", "--dev-bind", "/", "/", "--size", "300000", "--tmpfs", str(volume), "--")
    config = {"LoraConfig": {"r": 16}, "TrainingArguments": {"max_steps": 2, "max_length": 64}}
    code, result, log = tune(inputs, volume, config, before=small)
    assert code == 64, log
    assert f"The volume at {volume} (0.3 MiB, " in result["error"]
