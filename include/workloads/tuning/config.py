"""Reads KAITO's `training_config.yaml` unchanged and finds every fault in it before any weight is loaded.

Upstream hands unknown keys to an argument parser that ends the pod at the first one; here each key is checked
against what peft, trl and bitsandbytes really accept, and all faults come back at once, with section, key, value
and the nearest right name. A key that KAITO documents but that has no meaning here is accepted with a note.
"""

from __future__ import annotations

import dataclasses
import hashlib
import typing
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from enum import Enum
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from include.contracts.methods import METHODS
from include.workloads.contract import UserConfigError
from include.workloads.tuning import keys

ROOT = "training_config"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing wrong in the configuration: `where` is `Section.key`."""

    where: str
    value: object
    message: str

    def __str__(self) -> str:
        shown = "" if self.value is None else f" (value {self.value!r})"
        return f"{self.where}{shown}: {self.message}"


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


def parse_config(text: str, method: str) -> TuningConfig:
    """Check the whole file for one tuning method (`lora` or `qlora`).

    Returns the configuration with values in their real types (strings such as "1e-4" and "true" included).
    Raises UserConfigError whose text names all faults.
    """
    method = method.lower()
    if method not in METHODS:
        raise UserConfigError(f"TUNING_METHOD is {method!r}; it must be one of {', '.join(METHODS)}.")
    sections = _sections(text)
    faults: list[Fault] = []
    notes: list[str] = []
    checked = {name: _check_section(name, sections.get(name) or {}, faults, notes) for name in keys.SECTIONS}
    for name, value in sections.items():
        if name not in keys.SECTIONS:
            faults.append(Fault(name, None, f"unknown section{_did_you_mean(name, keys.SECTIONS)}"))
        elif value is not None and not isinstance(value, Mapping):
            faults.append(Fault(name, value, "a section holds keys and values"))
    _check_quantization(method, checked["QuantizationConfig"], faults, notes)
    _check_together(checked["TrainingArguments"], faults)
    _raise(faults)
    return TuningConfig(
        method=method,
        model=checked["ModelConfig"],
        quantization=checked["QuantizationConfig"],
        lora=checked["LoraConfig"],
        training=checked["TrainingArguments"],
        dataset=checked["DatasetConfig"],
        notes=tuple(notes),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def parse_section(text: str, name: str) -> dict[str, Any]:
    """One section's checked keys, for a step that needs no other. UserConfigError whose text names all its faults."""
    faults: list[Fault] = []
    checked = _check_section(name, _sections(text).get(name) or {}, faults, [])
    _raise(faults)
    return checked


def _raise(faults: list[Fault]) -> None:
    if faults:
        listing = "\n".join(f"- {fault}" for fault in faults)
        raise UserConfigError(f"training_config.yaml has {_count(len(faults), 'fault')}:\n{listing}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _sections(text: str) -> Mapping[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserConfigError(f"training_config.yaml is not valid YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not isinstance(data.get(ROOT), Mapping | None):
        raise UserConfigError(f"training_config.yaml needs one top key, {ROOT}, that holds the sections.")
    stray = [str(key) for key in data if key != ROOT]
    if stray:
        raise UserConfigError(
            f"training_config.yaml has keys beside {ROOT}: {', '.join(stray)}; sections belong below {ROOT}."
        )
    return data.get(ROOT) or {}


def _did_you_mean(name: str, known: typing.Iterable[str]) -> str:
    matches = get_close_matches(name, list(known), n=1, cutoff=0.6)
    lowered = {item.lower(): item for item in known}
    match = lowered.get(name.lower()) or (matches[0] if matches else None)
    return f"; did you mean {match}?" if match else ""


def _check_section(name: str, values: object, faults: list[Fault], notes: list[str]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        return {}
    known = keys.accepted(name)
    checked: dict[str, Any] = {}
    for raw_key, raw in values.items():
        key, where = str(raw_key), f"{name}.{raw_key}"
        if raw is None:
            continue
        renamed = keys.RENAMED.get(where)
        if renamed and renamed not in values:
            notes.append(f"{where} is called {renamed} today; read as that.")
            key = renamed
        if sentence := keys.REFUSED.get(f"{name}.{key}"):
            if not keys.is_neutral(raw):
                faults.append(Fault(where, None if "token" in key else raw, sentence))
        elif sentence := keys.IGNORED.get(f"{name}.{key}"):
            notes.append(f"{where}: {raw!r} is accepted; {sentence}")
        elif key not in known:
            faults.append(Fault(where, raw, f"no such key{_did_you_mean(key, known)}"))
        else:
            _check_value(where, f"{name}.{key}", raw, known[key], checked, faults)
    return checked


def _check_value(
    where: str, rule: str, raw: object, hint: object, checked: dict[str, Any], faults: list[Fault]
) -> None:
    choices = keys.CHOICES.get(rule)
    if raw is False and choices and "no" in choices():
        raw = "no"  # an unquoted `no` is false to YAML
    try:
        value = convert(raw, hint)
    except ValidationError as error:
        reason = "; ".join(dict.fromkeys(item["msg"] for item in error.errors()))
        faults.append(Fault(where, raw, f"must be {type_name(hint)}: {reason}"))
        return
    if choices and _plain(value) not in choices():
        allowed = sorted(choices())
        hint_text = _did_you_mean(_plain(value), allowed)
        faults.append(Fault(where, raw, f"not one of {', '.join(allowed)}{hint_text}"))
        return
    limit: tuple[Callable[[Any], bool], str] | None = keys.LIMITS.get(rule)
    if limit and not limit[0](value):
        faults.append(Fault(where, raw, limit[1]))
        return
    checked[rule.partition(".")[2]] = _plain(value) if isinstance(value, Enum) else value


def convert(raw: object, hint: Any) -> Any:
    """A YAML value as the field's type. KAITO stringifies everything, so "true", "16" and "1e-4" count as values.

    A comma list in one string becomes a list where the field takes a list of names.
    """
    allowed = typing.get_args(hint) or (hint,)
    if isinstance(raw, str):
        raw = raw.strip()
        if "," in raw and any(typing.get_origin(option) is list for option in allowed):
            raw = [part.strip() for part in raw.split(",") if part.strip()]
        elif raw.lower() in ("none", "null") and type(None) in allowed:
            return None
    return TypeAdapter(hint).validate_python(raw)


def _plain(value: object) -> str:
    return str(value.value if isinstance(value, Enum) else value)


def type_name(hint: Any) -> str:
    """The type in a reader's words."""
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    options = [option for option in (typing.get_args(hint) or (hint,)) if option is not type(None)]
    return " or ".join(words.get(option, str(option).replace("typing.", "")) for option in options)


def _check_quantization(method: str, section: dict[str, Any], faults: list[Fault], notes: list[str]) -> None:
    four, eight = section.get("load_in_4bit"), section.get("load_in_8bit")
    where = "QuantizationConfig"
    if four and eight:
        faults.append(Fault(f"{where}.load_in_8bit", True, "4 and 8 bits cannot both be true"))
    if method == "lora" and (four or eight):
        bits = "load_in_4bit" if four else "load_in_8bit"
        faults.append(
            Fault(f"{where}.{bits}", True, "method lora does not quantise; use method qlora, or leave it out")
        )
    if method == "qlora" and four is False and not eight:
        faults.append(
            Fault(f"{where}.load_in_4bit", False, "method qlora quantises; use method lora, or leave it out")
        )
    if method == "lora" and set(section) - {"load_in_4bit", "load_in_8bit"}:
        notes.append("QuantizationConfig is not used: method lora does not quantise.")


def _check_together(training: dict[str, Any], faults: list[Fault]) -> None:
    if training.get("bf16") and training.get("fp16"):
        faults.append(Fault("TrainingArguments.fp16", True, "bf16 and fp16 cannot both be true"))
