"""The training configuration of this run: what include.contracts.training_config reads, or a fault that names them all.

`check` and the preflight have judged the same text by the same rules before this pod was paid for.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from include.contracts.methods import METHODS, Objective, TuningMethod
from include.contracts.plural import plural
from include.contracts.training_config import KEY, TrainingConfig, read_config
from include.workloads.contract import UserConfigError


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """What the user asked for, key by key with checked types; whatever is absent is ours to choose."""

    method: str
    model: Mapping[str, Any]
    quantization: Mapping[str, Any]
    lora: Mapping[str, Any]
    training: Mapping[str, Any]
    dataset: Mapping[str, Any]
    notes: tuple[str, ...]
    sha256: str
    objective: str = Objective.SFT


def parse_config(text: str, method: str, objective: str = Objective.SFT) -> TuningConfig:
    """Check the whole file for one tuning method (`lora` or `qlora`) and objective (`sft`, `dpo` or `kto`).

    Returns the configuration with values in their real types (strings such as "1e-4" and "true" included).
    Raises UserConfigError whose text names all faults.
    """
    method = method.lower()
    if method not in METHODS:
        raise UserConfigError(f"TUNING_METHOD is {method!r}; it must be one of {', '.join(METHODS)}.")
    read = _read(text, method, objective)
    notes = list(read.notices)
    if method == TuningMethod.LORA and set(read.section("QuantizationConfig")) - {
        "load_in_4bit",
        "load_in_8bit",
    }:
        notes.append("QuantizationConfig is not used: method lora does not quantise.")
    return TuningConfig(
        method=method,
        objective=objective,
        model=read.section("ModelConfig"),
        quantization=read.section("QuantizationConfig"),
        lora=read.section("LoraConfig"),
        training=read.section("TrainingArguments"),
        dataset=read.section("DatasetConfig"),
        notes=tuple(notes),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def parse_section(text: str, name: str, objective: str = Objective.SFT) -> dict[str, Any]:
    """One section's values, for a step that needs no other. UserConfigError whose text names all faults."""
    return dict(_read(text, objective=objective).section(name)) if text.strip() else {}


def _read(text: str, method: str = "", objective: str = Objective.SFT) -> TrainingConfig:
    read = read_config(text, method, objective)
    if read.faults:
        listing = "\n".join(f"- {fault}" for fault in read.faults)
        raise UserConfigError(f"{KEY} has {plural(len(read.faults), 'fault')}:\n{listing}")
    return read
