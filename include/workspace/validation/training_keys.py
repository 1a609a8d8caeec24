"""Judges the keys and values of a training config by the trainer's own list, without the libraries that it comes from.

KAITO lets every key through to an argument parser that ends the pod at the first unknown one, on a GPU that is already
paid for. The list is presets/schemas/training_config.yaml, written by the trainer; what this module lets through may
still be refused there, but nothing that the trainer takes may be refused here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from include.catalog import records
from include.workspace.validation.faults import Fault, Hints, nearest

FILE = records.PRESETS / "schemas" / "training_config.yaml"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "null": None,
    "dict": dict[str, Any],
    "list[str]": list[str],
    "list[int]": list[int],
}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a mapping",
    "list[str]": "a list of names",
    "list[int]": "a list of whole numbers",
}
# Judged by rules of their own (M5, M9).
ELSEWHERE = frozenset(
    {
        "QuantizationConfig.load_in_4bit",
        "QuantizationConfig.load_in_8bit",
        "TrainingArguments.output_dir",
    }
)


@dataclass(frozen=True)
class Range:
    """The numbers that a setting takes: from `low` to `high`, with or without the ends, and `also`."""

    words: str
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    also: tuple[float, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether a value is in range; what is no number is not judged here."""
        if isinstance(value, bool) or not isinstance(value, int | float) or value in self.also:
            return True
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below


_POSITIVE = Range("must be above 0", 0, open_low=True)
_AT_LEAST_ONE = Range("must be 1 or more", 1)
_NOT_NEGATIVE = Range("must be 0 or more", 0)
# The trainer's limits (include/workloads/tuning/keys.py); a test compares the two, value by value.
RANGES: Mapping[str, Range] = {
    "LoraConfig.r": _AT_LEAST_ONE,
    "LoraConfig.lora_alpha": _POSITIVE,
    "LoraConfig.lora_dropout": Range("must be at least 0 and below 1", 0, 1, open_high=True),
    "DatasetConfig.train_test_split": Range(
        "must be above 0 and at most 1 (1 = all rows train, none evaluate)", 0, 1, open_low=True
    ),
    "DatasetConfig.max_dropped_share": Range(
        "must be at least 0 and at most 1 (0.5 = half of the rows may be unusable)", 0, 1
    ),
    "TrainingArguments.learning_rate": Range(
        "must be above 0 and below 1", 0, 1, open_low=True, open_high=True
    ),
    "TrainingArguments.num_train_epochs": _POSITIVE,
    "TrainingArguments.max_steps": Range(
        "must be 1 or more (-1 = as many as the epochs give)", 1, also=(-1,)
    ),
    "TrainingArguments.per_device_train_batch_size": _AT_LEAST_ONE,
    "TrainingArguments.per_device_eval_batch_size": _AT_LEAST_ONE,
    "TrainingArguments.gradient_accumulation_steps": _AT_LEAST_ONE,
    "TrainingArguments.warmup_steps": _NOT_NEGATIVE,
    "TrainingArguments.weight_decay": _NOT_NEGATIVE,
    "TrainingArguments.max_grad_norm": _NOT_NEGATIVE,
    "TrainingArguments.max_length": Range("must be 16 tokens or more", 16),
    "TrainingArguments.save_total_limit": _AT_LEAST_ONE,
    "TrainingArguments.save_steps": _POSITIVE,
    "TrainingArguments.logging_steps": _POSITIVE,
    "TrainingArguments.seed": _NOT_NEGATIVE,
}


@cache
def _known() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(FILE.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - safe
    return loaded


def key_faults(
    section: str, values: Mapping[Any, Any], path: str, hints: Hints | None = None
) -> Iterator[Fault]:
    """F11 and F12: every key of a section that the trainer does not take, and every value that it cannot use.

    `hints` are the suggestions that the whole file may still get.
    """
    known, hints = _known(), hints or Hints()
    names = _names(section)
    taken: dict[str, str] = known["sections"].get(section, {})
    for raw_key, value in values.items():
        key, where = str(raw_key), f"{section}.{raw_key}"
        if value is None or where in ELSEWHERE:
            continue
        renamed = known["renamed"].get(where)
        key = renamed if renamed and renamed not in values else key
        name = f"{section}.{key}"
        if name in known["refused"]:
            if not _neutral(value):
                shown = None if "token" in key else value
                yield Fault(f"{path}.{raw_key}", shown, "F11", "is not possible here", known["refused"][name])
        elif name in known["ignored"]:
            continue
        elif key not in taken:
            close = hints.nearest(key, names)
            hint = f"did you mean {close}?" if close else f"see {section} of the trainer's library"
            yield Fault(f"{path}.{raw_key}", None, "F11", "is not a key that the trainer takes", hint)
        else:
            yield from _value_faults(name, value, taken[key], f"{path}.{raw_key}")


@cache
def _names(section: str) -> frozenset[str]:
    """The keys of a section that may be written: those that count, and those without effect."""
    known = _known()
    idle = {word.partition(".")[2] for word in known["ignored"] if word.startswith(f"{section}.")}
    return frozenset(known["sections"].get(section, {})) | idle


def ignored_keys(config: Mapping[str, Any]) -> list[str]:
    """Sentences about keys that are accepted and have no effect."""
    found = []
    for section, values in config.items():
        for key in values if isinstance(values, Mapping) else ():
            why = _known()["ignored"].get(f"{section}.{key}")
            if why:
                found.append(f"{section}.{key} has no effect: {why}.")
    return found


def _value_faults(name: str, raw: Any, kind: str, path: str) -> Iterator[Fault]:
    choices = _known()["choices"].get(name)
    if raw is False and choices and "no" in choices:
        raw = "no"  # an unquoted `no` is false to YAML
    try:
        value = _converted(raw, kind)
    except ValidationError:
        words = " or ".join(_WORDS[word] for word in kind.split("|") if word in _WORDS)
        yield Fault(path, raw, "F12", f"must be {words}")
        return
    if choices and str(value) not in choices:
        close = nearest(str(value), frozenset(choices))
        hint = f"did you mean {close}?" if close else f"use one of {', '.join(choices)}"
        yield Fault(path, raw, "F12", "is not a value it can have", hint)
    elif name in RANGES and not RANGES[name].holds(value):
        yield Fault(path, raw, "F12", RANGES[name].words)


def _converted(raw: Any, kind: str) -> Any:
    """A YAML value as the trainer will read it: KAITO turns all into text, so "16" and "true" count as values."""
    words = kind.split("|")
    if isinstance(raw, str):
        raw = raw.strip()
        if "," in raw and any(word.startswith("list") for word in words):
            raw = [part.strip() for part in raw.split(",") if part.strip()]
        elif raw.lower() in ("none", "null") and "null" in words:
            return None
    return _adapter(kind).validate_python(raw)


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    if kind == "any":
        return TypeAdapter(Any)
    hint: Any = None
    for index, word in enumerate(kind.split("|")):
        hint = _TYPES[word] if index == 0 else hint | _TYPES[word]
    return TypeAdapter(hint)


def _neutral(value: object) -> bool:
    """False, nothing, or a text that says so: no wish at all."""
    return not value or str(value).strip().lower() in ("false", "none", "null", "main")
