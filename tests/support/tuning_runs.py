"""A small model, forty rows, and the environment that a pod gives to a training of both, by one process or several."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from include.workloads.tuning.standin import make_standin

ROOT = Path(__file__).parents[2]
ALONE = ("-m", "include.workloads.tuning")
TOGETHER = ("-c", "import sys; from include.workloads.tuning.launch import launch; sys.exit(launch(2))")


def make_inputs(root: Path) -> Path:
    """The folder with `weights` and `data`."""
    root.mkdir(parents=True, exist_ok=True)
    make_standin(root / "weights")
    (root / "data").mkdir()
    turns = [
        [{"role": "user", "content": f"How many, {n}?"}, {"role": "assistant", "content": f"{n * n}"}]
        for n in range(40)
    ]
    pq.write_table(
        pa.Table.from_pylist([{"messages": one} for one in turns]), root / "data" / "train.parquet"
    )
    return root


def environment(inputs: Path, output: Path, config: str) -> dict[str, str]:
    """What a training is given; its result is in the file of the output's name that ends with `.json`.

    :param config: the text of training_config.yaml.
    """
    output.mkdir(parents=True, exist_ok=True)
    settings, result = (output.with_suffix(end) for end in (".yaml", ".json"))
    settings.write_text(config)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(inputs),
        "PYTHONPATH": str(ROOT),
        "HOST": "127.0.0.1",
        "METRICS_PORT": "0",
        "OMP_NUM_THREADS": "1",
        "WEIGHTS_PATH": str(inputs / "weights"),
        "DATASET_FOLDER_PATH": str(inputs / "data"),
        "YAML_FILE_PATH": str(settings),
        "OUTPUT_DIR": str(output),
        "TUNING_METHOD": "lora",
        "MODEL_ID": "stand-in/phi-3",
        "TERMINATION_LOG": str(result),
    }


def sixteen_updates(accumulation: int, **sections: Mapping[str, Any]) -> str:
    """A training config: 16 updates of 4 sequences by one process with 4, or two with 2; over 1.6 times all rows."""
    training = {
        "max_steps": 16,
        "max_length": 64,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": accumulation,
        **sections.pop("TrainingArguments", {}),
    }
    return json.dumps(
        {"training_config": {"LoraConfig": {"r": 4}, "TrainingArguments": training, **sections}}
    )


def start(inputs: Path, output: Path, config: str, *command: str, **more: str) -> subprocess.Popen[str]:
    """A training in float32; `more` is environment."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(inputs, output, config) | {"DTYPE": "float32", **more},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def stop_after(training: subprocess.Popen[str], output: Path, step: int) -> str:
    """Ask a training to stop once it has taken a step; returns its log."""
    progress, deadline = output / "progress.json", time.monotonic() + 120
    while training.poll() is None and time.monotonic() < deadline:
        if progress.exists() and json.loads(progress.read_text())["step"] >= step:
            training.send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    return training.communicate(timeout=120)[0]


def losses(output: Path) -> list[float]:
    """Of each update, as the training recorded them."""
    return [
        entry["loss"]
        for entry in json.loads((output / "record" / "metrics.json").read_text())
        if "loss" in entry
    ]
