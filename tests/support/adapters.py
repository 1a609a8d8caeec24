"""Adapters on disk and in image layers."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
    "task_type": "CAUSAL_LM",
}

TENSOR = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def write_adapter(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    values = np.random.default_rng(7).normal(size=(4, 64)).astype(np.float32)
    save_file({TENSOR: values}, folder / "adapter_model.safetensors")
    return folder


def layer(path: Path, *members: tuple[str, bytes | str], zipped: bool = True) -> Path:
    """A layer: bytes make a file, `dir`, `link:to`, `hard:to` or `fifo` the other kinds."""
    with tarfile.open(path, "w:gz" if zipped else "w") as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
                continue
            kind, _, to = what.partition(":")
            info.type = {"dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}.get(
                kind, tarfile.FIFOTYPE
            )
            info.linkname = to
            tar.addfile(info)
    return path
