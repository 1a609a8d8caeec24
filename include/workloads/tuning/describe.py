"""`python -m include.workloads.tuning.describe`: `training_config.yaml`'s keys from the libraries' classes, as YAML.

Whoever judges a training config before a GPU is paid for has neither torch nor peft nor trl. So names, types and
choices are written to include/contracts/training_keys.yaml once, and a test compares. It must never judge anything
itself: include.contracts.training_config does.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from include.contracts.methods import Objective
from include.contracts.training_defaults import EARLY_STOPPING_PATIENCE, EARLY_STOPPING_THRESHOLD
from include.contracts.training_keys import SECTIONS

HEADER = "# Written by `python -m include.workloads.tuning.describe`; a test compares. Do not edit.\n"
_SIMPLE = {
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
    type(None): "null",
    dict: "dict",
    list[str]: "list[str]",
    list[int]: "list[int]",
    list[float]: "list[float]",
    dict[str, Any]: "dict",
}
_MODEL: dict[str, Any] = {"torch_dtype": str, "chat_template": str}
_DATASET: dict[str, Any] = {
    "shuffle_dataset": bool,
    "shuffle_seed": int,
    "train_test_split": float,
    "context_column": str,
    "response_column": str,
    "messages_column": str,
    "preference_data": str,
    "max_dropped_share": float,
    "max_cut_share": float,
    "max_duplicate_share": float,
}
_TRAINING: dict[str, Any] = {EARLY_STOPPING_PATIENCE: int, EARLY_STOPPING_THRESHOLD: float}
_QUANTIZATION: dict[str, Any] = {
    "load_in_4bit": bool,
    "load_in_8bit": bool,
    "llm_int8_threshold": float,
    "llm_int8_skip_modules": list[str],
    "llm_int8_enable_fp32_cpu_offload": bool,
    "llm_int8_has_fp16_weight": bool,
    "bnb_4bit_compute_dtype": str,
    "bnb_4bit_quant_type": str,
    "bnb_4bit_use_double_quant": bool,
    "bnb_4bit_quant_storage": str,
}
# Of type `str | Enum`, or of none at all in the classes: the words that the library reads them by.
_ENUMS = {
    "TrainingArguments.lr_scheduler_type": "transformers.trainer_utils.SchedulerType",
    "TrainingArguments.optim": "transformers.training_args.OptimizerNames",
}


@cache
def hints(section: str) -> Mapping[str, Any]:
    """Key -> type of one section, from the class that takes it (imports the library)."""
    if section == "LoraConfig":
        from peft import LoraConfig

        return _dataclass_types(LoraConfig)
    if section == "TrainingArguments":
        from trl import SFTConfig

        return {**_dataclass_types(SFTConfig), **_TRAINING}
    if section == "QuantizationConfig":
        from transformers import BitsAndBytesConfig

        real = set(inspect.signature(BitsAndBytesConfig.__init__).parameters)
        return {key: hint for key, hint in _QUANTIZATION.items() if key in real}
    return {"ModelConfig": _MODEL, "DatasetConfig": _DATASET}.get(section, {})


@cache
def objective_hints(objective: str) -> Mapping[str, Any]:
    """Key -> type of the TrainingArguments of an objective, from TRL's class for it."""
    import trl

    cls = {Objective.DPO: "DPOConfig", Objective.KTO: "KTOConfig"}.get(Objective(objective))
    return {**_dataclass_types(getattr(trl, cls)), **_TRAINING} if cls else hints("TrainingArguments")


def _objective(objective: str) -> dict[str, Any]:
    """What an objective's TrainingArguments have that sft's lack or have otherwise, and what they lack."""
    usual, own = hints("TrainingArguments"), objective_hints(objective)
    kinds = {key: described_type(hint) for key, hint in sorted(own.items())}
    return {
        "keys": {
            key: kind for key, kind in kinds.items() if key not in usual or kind != described_type(usual[key])
        },
        "lacks": sorted(set(usual) - set(own)),
    }


def _dataclass_types(cls: Any) -> Mapping[str, Any]:
    found = typing.get_type_hints(cls)
    return {field.name: found[field.name] for field in dataclasses.fields(cls) if field.init}


def described_type(hint: Any) -> str:
    """A type in few words: `int|null`; `any` where a class of the library's own decides."""
    words = {_word(option) for option in _options(hint)}
    return "any" if "any" in words else "|".join(sorted(words))


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _word(option: Any) -> str:
    if typing.get_origin(option) is typing.Literal:
        return "str" if all(isinstance(value, str) for value in typing.get_args(option)) else "any"
    if isinstance(option, type) and issubclass(option, enum.Enum):
        return "str"
    if typing.get_origin(option) is dict:
        return "dict"
    return _SIMPLE.get(option, "any")


def described_choices(name: str, hint: Any) -> list[str]:
    """The words that a key can be, where its type is nothing but words; [] elsewhere."""
    if name in _ENUMS:
        module, _, cls = _ENUMS[name].rpartition(".")
        found: Any = getattr(__import__(module, fromlist=[cls]), cls)
        return sorted(str(member.value) for member in found)
    words: list[str] = []
    for option in _options(hint):
        if typing.get_origin(option) is not typing.Literal:
            return []
        words += map(str, typing.get_args(option))
    return sorted(words)


def description() -> dict[str, Any]:
    """Sections with their keys and types, and the keys that are limited to certain words."""
    found = {section: hints(section) for section in SECTIONS}
    choices = {
        f"{section}.{key}": described_choices(f"{section}.{key}", hint)
        for section, known in found.items()
        for key, hint in sorted(known.items())
    }
    return {
        "sections": {
            section: {key: described_type(hint) for key, hint in sorted(known.items())}
            for section, known in found.items()
        },
        "objectives": {one.value: _objective(one) for one in (Objective.DPO, Objective.KTO)},
        "choices": {name: words for name, words in choices.items() if words},
    }


def text() -> str:
    """The file as it is committed."""
    return HEADER + yaml.safe_dump(description(), sort_keys=False, width=110)


if __name__ == "__main__":
    sys.stdout.write(text())
