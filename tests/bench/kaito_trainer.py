"""KAITO's own trainer from a checkout of KAITO, in an environment with KAITO's pins: `tuning_throughput` starts it.

    PYTHON tests/bench/kaito_trainer.py CHECKOUT FOLDER WEIGHTS OUTPUT

It runs the checkout's `fine_tuning.py` as it is, with the settings of its qlora template and one epoch. Two things
are changed for a machine without a GPU: the call that chooses one does nothing, and `use_cpu` is set. FOLDER has the
rows in `data`; the adapter goes to OUTPUT/adapter; the last line is JSON, as of the other trainers. It imports nothing
of this project, whose libraries are not in that environment.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch
import trl
import yaml

SCRIPTS = "presets/workspace/tuning/text-generation"


def settings(weights: str, output: str) -> dict[str, Any]:
    """The values of `charts/kaito/workspace/templates/qlora-params.yaml`, with places of this machine."""
    return {
        "training_config": {
            "ModelConfig": {
                "torch_dtype": "bfloat16",
                "local_files_only": True,
                "device_map": "auto",
                "pretrained_model_name_or_path": weights,
            },
            "QuantizationConfig": {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_compute_dtype": "bfloat16",
                "bnb_4bit_use_double_quant": True,
            },
            "LoraConfig": {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0},
            "TrainingArguments": {
                "output_dir": output,
                "num_train_epochs": 1,
                "ddp_find_unused_parameters": False,
                "save_strategy": "no",
                "per_device_train_batch_size": 1,
                "use_cpu": True,
            },
            "DataCollator": {"mlm": True},
            "DatasetConfig": {"shuffle_dataset": True, "train_test_split": 1},
        }
    }


def main(checkout: str, folder: str, weights: str, output: str) -> None:
    """Train, and print tokens a second of the call that trains, which is what the other trainers measure too."""
    told: dict[str, float] = {}
    train = trl.SFTTrainer.train

    def timed(trainer: Any, *given: Any, **named: Any) -> Any:
        tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
        begin = time.monotonic()
        found = train(trainer, *given, **named)
        told.update(tokens=tokens, speed=tokens / (time.monotonic() - begin))
        return found

    trl.SFTTrainer.train = timed
    torch.cuda.set_device = lambda device: None
    config = Path(output) / "training_config.yaml"
    config.write_text(yaml.safe_dump(settings(weights, str(Path(output) / "adapter"))))
    os.environ |= {"YAML_FILE_PATH": str(config), "DATASET_FOLDER_PATH": str(Path(folder) / "data")}
    scripts = Path(checkout) / SCRIPTS
    sys.path.insert(0, str(scripts))
    runpy.run_path(str(scripts / "fine_tuning.py"))
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
