"""Rules for the content of a tuning ConfigMap, key `training_config.yaml` (kaito-api.md#rules, M), key by key.

The content is only known once somebody has read the ConfigMap, so these rules take its text. They must never raise:
whatever the text is, the answer is a list of faults.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from include.contracts.yaml_documents import reader as documents
from include.workspace.validation.faults import Fault, Hints
from include.workspace.validation.training_keys import ignored_keys, key_faults

KEY = "training_config.yaml"
ROOT = "training_config"
SECTIONS = (
    "ModelConfig",
    "QuantizationConfig",
    "LoraConfig",
    "TrainingArguments",
    "DatasetConfig",
    "DataCollator",
)
QUANTIZATION = f"{ROOT}.QuantizationConfig"


def config_faults(text: str, method: str) -> list[Fault]:
    """Everything wrong with a `training_config.yaml` for this method ("lora" or "qlora"): M3 to M9, F11, F12."""
    try:
        loaded = documents.load_one(text)
    except documents.BadDocument as error:
        return [Fault(KEY, None, "M3", str(error))]
    config = loaded.get(ROOT) if isinstance(loaded, Mapping) else None
    if not isinstance(config, Mapping):
        return [Fault(KEY, None, "M3", f"must hold a mapping named {ROOT}")]
    stray = [
        Fault(str(key), None, "M3", f"stands beside {ROOT}", f"sections belong below {ROOT}")
        for key in loaded
        if key != ROOT
    ]
    return [*stray, *_sections(config), *_quantization(config, method), *_output_dir(config)]


def config_notices(text: str) -> list[str]:
    """Sentences about keys of a training config that the trainer takes and does not need."""
    try:
        loaded = documents.load_one(text)
    except documents.BadDocument:
        return []
    config = loaded.get(ROOT) if isinstance(loaded, Mapping) else None
    return ignored_keys(config) if isinstance(config, Mapping) else []


def _sections(config: Mapping[str, Any]) -> Iterator[Fault]:
    """M4."""
    hints = Hints()
    for name, content in config.items():
        path = f"{ROOT}.{name}"
        if name not in SECTIONS:
            yield Fault(
                path,
                None,
                "M4",
                "is not a section of a training config",
                hints.did_you_mean(str(name), SECTIONS),
            )
        elif content is not None and not isinstance(content, Mapping):
            yield Fault(path, content, "M3", "must be a mapping")
        elif content is not None:
            yield from key_faults(name, content, path, hints)


def _quantization(config: Mapping[str, Any], method: str) -> Iterator[Fault]:
    """M5, M6, M7, M8."""
    section = config.get("QuantizationConfig")
    section = section if isinstance(section, Mapping) else {}
    flags = {key: section.get(key) for key in ("load_in_4bit", "load_in_8bit")}
    for key, value in flags.items():
        if value is not None and not isinstance(value, bool):
            yield Fault(f"{QUANTIZATION}.{key}", value, "M5", "must be true or false")
    on = [key for key, value in flags.items() if value is True]
    if len(on) > 1:
        yield Fault(QUANTIZATION, None, "M6", "load_in_4bit and load_in_8bit cannot both be true")
    elif method == "lora" and on:
        hint = "remove it, or use method: qlora"
        yield Fault(f"{QUANTIZATION}.{on[0]}", True, "M7", "lora tunes an unquantised model", hint)
    elif method == "qlora" and not on:
        hint = "set load_in_4bit: true"
        yield Fault(QUANTIZATION, None, "M8", "qlora needs load_in_4bit or load_in_8bit to be true", hint)


def _output_dir(config: Mapping[str, Any]) -> Iterator[Fault]:
    """M9, by the path's meaning; a prefix test lets /mntfoo and /mnt/../x through (kaito-api.md#known-defects, 9)."""
    section = config.get("TrainingArguments")
    if not isinstance(section, Mapping) or "output_dir" not in section:
        return
    value, path = section["output_dir"], f"{ROOT}.TrainingArguments.output_dir"
    if not isinstance(value, str):
        yield Fault(path, value, "M9", "must be text")
        return
    cleaned = posixpath.normpath(posixpath.join("/mnt", value))
    if not cleaned.startswith("/mnt/"):
        yield Fault(path, value, "M9", "must be a folder below /mnt", "for example /mnt/results")
