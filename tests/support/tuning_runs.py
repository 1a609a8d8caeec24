"""A small model, forty rows, and the environment that a pod gives to a training of both."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from include.workloads.tuning.standin import make_standin

ROOT = Path(__file__).parents[2]


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
