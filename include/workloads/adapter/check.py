"""Whether a folder is a LoRA adapter that serving can load without a surprise.

An adapter comes out of a training pod or out of somebody's registry; its configuration can name code to import and
modules to replace, so only known keys pass, and those that could do such things must be empty.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from include.workloads.adapter.layout import CONFIG_FILE, FILES, MODEL_FILE
from include.workloads.contract import UserDataError
from include.workloads.safetensors_header import read_header

MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 1024
# What PEFT 0.11 to 0.21 write for LoRA (peft.LoraConfig.to_dict) and only describes weights and their use.
_KNOWN = """
    alora_invocation_tokens alpha_pattern arrow_config base_model_name_or_path bias corda_config
    ensure_weight_tying eva_config exclude_modules fan_in_fan_out inference_mode init_lora_weights kasa_config
    layers_pattern layers_to_transform loftq_config lora_alpha lora_bias lora_dropout lora_ga_config
    megatron_core monteclora_config peft_type peft_version qalora_group_size r rank_pattern revision
    target_modules target_parameters task_type use_bdlora use_dora use_qalora use_rslora velora_config
"""
KNOWN = frozenset(_KNOWN.split())
# These name classes to import, whole modules to replace or layers to copy: PEFT would do it without asking.
MUST_BE_EMPTY = (
    "auto_mapping",
    "layer_replication",
    "megatron_config",
    "modules_to_save",
    "runtime_config",
    "trainable_token_indices",
)


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
    for key in MUST_BE_EMPTY:
        if config.get(key):
            raise UserDataError(f"{where}: {CONFIG_FILE} sets {key}, which an adapter must not bring along.")
    unknown = sorted(set(config) - KNOWN - set(MUST_BE_EMPTY))
    if unknown:
        raise UserDataError(f"{where}: {CONFIG_FILE} has unknown keys: {', '.join(unknown[:5])}.")
    rank = config.get("r")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise UserDataError(f"{where}: the rank r is {rank!r}; expected a whole number from 1 to {MAX_RANK}.")
