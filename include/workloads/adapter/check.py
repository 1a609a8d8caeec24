"""Whether a folder is a LoRA adapter that serving can load without a surprise.

An adapter comes out of a training pod or out of somebody's registry; its configuration can name code to import and
modules to replace, so only known keys pass, and those that could do such things must be empty.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from include.contracts.adapter_keys import (
    KNOWN,
    MAX_RANK,
    MUST_BE_NEUTRAL,
    SERVED_INITS,
    is_neutral,
    largest_rank,
    names_transformers,
)
from include.workloads.adapter.layout import CONFIG_FILE, FILES, MODEL_FILE
from include.workloads.contract import UserDataError
from include.workloads.safetensors_header import read_header

MAX_CONFIG_BYTES = 1 << 20


def check_adapter(folder: Path, where: str) -> dict[str, Any]:
    """The adapter's configuration. UserDataError says what `where` lacks or holds that it must not."""
    for name in FILES:
        path = folder / name
        if not path.is_file() or path.is_symlink():
            instead = (
                " (there is an adapter_model.bin: save it as safetensors)" if _has_pickle(folder) else ""
            )
            raise UserDataError(f"{where} has no file {name}, so it is not a complete adapter{instead}.")
    config = _read_config(folder / CONFIG_FILE, where)
    _check_config(config, where)
    names = [tensor.name for tensor in read_header(folder / MODEL_FILE)]
    foreign = [name for name in names if "lora_" not in name]
    if foreign:
        raise UserDataError(
            f"{where}: {MODEL_FILE} holds {len(foreign)} tensors that are no LoRA weights, such as {foreign[0]}."
        )
    return config


def _has_pickle(folder: Path) -> bool:
    return (folder / "adapter_model.bin").exists()


def _read_config(path: Path, where: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError("too big")
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UserDataError(f"{where}: {CONFIG_FILE} is not a JSON object.")
    return config


def _check_config(config: dict[str, Any], where: str) -> None:
    if config.get("peft_type") != "LORA":
        raise UserDataError(
            f"{where}: peft_type is {config.get('peft_type')!r}; only LORA adapters are served."
        )
    for key, why in MUST_BE_NEUTRAL.items():
        if not is_neutral(config.get(key)) and not (
            key == "auto_mapping" and names_transformers(config[key])
        ):
            raise UserDataError(f"{where}: {CONFIG_FILE} sets {key}: {why}.")
    unknown = sorted(set(config) - KNOWN)
    if unknown:
        raise UserDataError(f"{where}: {CONFIG_FILE} has unknown keys: {', '.join(unknown[:5])}.")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in SERVED_INITS:
        raise UserDataError(
            f"{where}: init_lora_weights is {init!r}, which changes the base model; convert the adapter with PEFT's "
            "path_initial_model_for_weight_conversion."
        )
    try:
        rank = largest_rank(config)
    except ValueError as error:
        raise UserDataError(f"{where}: {error} (r is {config.get('r')!r}).") from None
    if rank > MAX_RANK:
        raise UserDataError(f"{where}: it has the rank {rank}; ranks up to {MAX_RANK} are served.")
