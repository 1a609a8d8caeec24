"""A model's folder, small and whole, with all that must not be in an image beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CARD = "---\nlicense: apache-2.0\nlanguage: en\n---\n# A model\n"


def write_model(folder: Path, size: int = 1000, shards: int = 2, card: str = CARD) -> Path:
    """Write the folder.

    :param size: of each shard, in numbers of 4 bytes.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "auto_map": {"A": "evil.B"}}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSE").write_text("the terms")
    (folder / "README.md").write_text(card)
    (folder / "modeling_evil.py").write_text("raise SystemExit(99)")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    random = np.random.default_rng(3)
    for name in names:
        save_file({name: random.normal(size=size).astype(np.float32)}, folder / name)
    index = {"weight_map": {name: name for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
