"""Reads and judges KAITO's `training_config.yaml`: the one reader of check, preflight, plan and trainer.

KAITO lets every key through to an argument parser that ends the pod at the first unknown one, on a GPU that is already
paid for. Here all faults come back at once (M3 to M9 of KAITO's rules, F11 for keys and F12 for values), with every
value that is right, in its real type and under today's name. It must never raise, whatever the text is.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from include.contracts import optimizers, preference_keys, weight_init
from include.contracts import training_keys as keys
from include.contracts.adapter_keys import ENDS, MAX_RANK, NOT_ON_EVERY_VLLM, NOT_ON_VLLM, is_neutral
from include.contracts.faults import Fault, Hints, nearest
from include.contracts.methods import OBJECTIVES, Objective, TuningMethod
from include.contracts.training_defaults import (
    EARLY_STOPPING_PATIENCE,
    EARLY_STOPPING_THRESHOLD,
    TRAINING_DEFAULTS,
)
from include.contracts.training_keys import SECTIONS
from include.contracts.yaml_documents import reader as documents

KEY = "training_config.yaml"
ROOT = "training_config"
QUANTIZATION = f"{ROOT}.QuantizationConfig"
_FLAGS = ("load_in_4bit", "load_in_8bit")
_TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "null": None,
    "dict": dict[str, Any],
    "list[str]": list[str],
    "list[int]": list[int],
    "list[float]": list[float],
}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a mapping",
    "list[str]": "a list of names",
    "list[int]": "a list of whole numbers",
    "list[float]": "a list of numbers",
}
_SCHEDULE_WORDS = frozenset({"warmup_type", "decay_type"})
# Judged by rules of their own: M5 wants true or false itself, M9 is about a path.
_OWN_RULES = frozenset({*(f"QuantizationConfig.{flag}" for flag in _FLAGS), "TrainingArguments.output_dir"})


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What a training config says: by section, each right value in its type; everything wrong; what has no effect."""

    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    notices: tuple[str, ...] = ()

    def section(self, name: str) -> Mapping[str, Any]:
        """The right values of a section; empty when it is absent."""
        return self.sections.get(name, {})


def read_config(text: str, method: str = "", objective: str = Objective.SFT) -> TrainingConfig:
    """The config in a text. `method` is "lora" or "qlora"; without one, what hangs on the method is not judged.

    `objective` is one of `include.contracts.methods.OBJECTIVES`: each has keys of its own.
    """
    try:
        return examine_config(documents.load_one(text), method, objective)
    except documents.BadDocument as error:
        return TrainingConfig(faults=(Fault(KEY, None, "M3", str(error)),))


def examine_config(document: object, method: str = "", objective: str = Objective.SFT) -> TrainingConfig:
    """The config in a parsed document, as `read_config`."""
    config = document.get(ROOT) if isinstance(document, Mapping) else None
    if not isinstance(config, Mapping) or not isinstance(document, Mapping):
        return TrainingConfig(faults=(Fault(KEY, None, "M3", f"must hold a mapping named {ROOT}"),))
    examiner = _Examiner(objective if objective in OBJECTIVES else Objective.SFT)
    for key in document:
        if key != ROOT:
            hint = f"sections belong below {ROOT}"
            examiner.faults.append(Fault(str(key), None, "M3", f"stands beside {ROOT}", hint))
    for name, content in config.items():
        examiner.section(str(name), content)
    examiner.faults += [*_quantization(config, method), *_output_dir(config)]
    examiner.together()
    lora = examiner.sections.get("LoraConfig", {})
    if lora.get("use_dora"):
        examiner.notices.append(f"LoraConfig.use_dora: {NOT_ON_VLLM} where the adapter is served.")
    wanted = lora.get("target_modules") or ()
    for one in (wanted,) if isinstance(wanted, str) else wanted:
        if str(one).rpartition(".")[2] in ENDS:
            examiner.notices.append(f"LoraConfig.target_modules: {one!r}: {NOT_ON_EVERY_VLLM}.")
    in_8_bits = bool(examiner.sections.get("QuantizationConfig", {}).get("load_in_8bit"))
    examiner.faults += weight_init.faults(lora, method, objective, in_8_bits=in_8_bits)
    return TrainingConfig(examiner.sections, tuple(examiner.faults), tuple(examiner.notices))


class _Examiner:
    """Collects while it goes through the sections."""

    def __init__(self, objective: str) -> None:
        self._objective = objective
        self.sections: dict[str, dict[str, Any]] = {}
        self.faults: list[Fault] = []
        self.notices: list[str] = []
        self._hints = Hints()

    def section(self, name: str, content: object) -> None:
        """M4: the section exists; then each of its keys."""
        path = f"{ROOT}.{name}"
        if name not in SECTIONS:
            hint = self._hints.did_you_mean(name, SECTIONS)
            self.faults.append(Fault(path, None, "M4", "is not a section of a training config", hint))
        elif content is not None and not isinstance(content, Mapping):
            self.faults.append(Fault(path, content, "M3", "must be a mapping"))
        elif content is not None:
            for key, value in content.items():
                if value is not None:
                    self._key(name, str(key), value, content)

    def _key(self, section: str, written: str, value: object, beside: Mapping[Any, Any]) -> None:
        """F11: the key is one that the trainer takes; F12: the value is one that it can use."""
        renamed = keys.RENAMED.get(f"{section}.{written}")
        key = renamed if renamed and renamed not in beside else written
        name, path = f"{section}.{key}", f"{ROOT}.{section}.{written}"
        if key != written:
            self.notices.append(f"{section}.{written} is called {key} today; it is read as that.")
        if why := keys.refused(name, self._objective):
            if not is_neutral(value):
                shown = None if "token" in key else value
                self.faults.append(Fault(path, shown, "F11", "is not possible here", why))
        elif instead := keys.ignored(name, self._objective):
            self.notices.append(f"{section}.{written} has no effect: {instead}.")
        elif key not in keys.accepted(section, self._objective):
            told = "is not a key that the trainer takes"
            self.faults.append(Fault(path, None, "F11", told, self._nearest(section, key)))
        elif name in _OWN_RULES:
            if isinstance(value, bool):
                self.sections.setdefault(section, {})[key] = value
        else:
            self._value(section, key, value, path)

    def _nearest(self, section: str, key: str) -> str:
        others = keys.objectives_with(key) if section == "TrainingArguments" else ()
        if others:
            return f"it belongs to the annotation kaito.sh/tuning-objective: {' or '.join(others)}"
        close = self._hints.nearest(key, keys.writable(section, self._objective))
        return f"did you mean {close}?" if close else f"see {section} of the trainer's library"

    def _value(self, section: str, key: str, raw: object, path: str) -> None:
        name, kind = f"{section}.{key}", keys.accepted(section, self._objective)[key]
        if name == "LoraConfig.target_modules" and isinstance(raw, str) and raw.strip().isidentifier():
            raw = [raw.strip()]  # peft takes a text for a pattern of the whole name, which one word never is
        choices = keys.choices(name, self._objective)
        if choices and kind == "list[str]" and isinstance(raw, str):
            raw = [part.strip() for part in raw.split(",")]
        if raw is False and choices and "no" in choices:
            raw = "no"  # an unquoted `no` is false to YAML
        try:
            value = _converted(raw, kind)
        except ValidationError:
            words = " or ".join(_WORDS[word] for word in kind.split("|") if word in _WORDS)
            self.faults.append(Fault(path, raw, "F12", f"must be {words}"))
            return
        given = value if isinstance(value, list) else [value]
        odd = [one for one in given if choices and one is not None and _word(one) not in choices]
        if choices and odd:
            close = nearest(str(odd[0]), frozenset(choices))
            hint = f"did you mean {close}?" if close else f"use one of {', '.join(choices)}"
            self.faults.append(Fault(path, raw, "F12", "is not a value it can have", hint))
        elif isinstance(value, float) and not math.isfinite(value):
            self.faults.append(Fault(path, raw, "F12", "must be a finite number"))
        elif name in keys.LIMITS and not keys.LIMITS[name].holds(value):
            self.faults.append(Fault(path, raw, "F12", keys.LIMITS[name].words))
        else:
            self.sections.setdefault(section, {})[key] = value

    def together(self) -> None:
        """F12: values that each are right and exclude each other."""
        training = self.sections.get("TrainingArguments", {})
        for one, other in (("bf16", "fp16"), ("bf16_full_eval", "fp16_full_eval")):
            if training.get(one) and training.get(other):
                path = f"{ROOT}.TrainingArguments.{other}"
                self.faults.append(Fault(path, True, "F12", f"{one} and {other} cannot both be true"))
        if training.get("padding_free") and training.get("packing") is False:
            path = f"{ROOT}.TrainingArguments.padding_free"
            self.faults.append(Fault(path, True, "F12", "needs packing, which is false"))
        self._schedule(training)
        self._best(training, self.sections.get("DatasetConfig", {}))
        self._columns(self.sections.get("DatasetConfig", {}))
        self.faults += optimizers.faults(training)
        self._lora(self.sections.get("LoraConfig", {}))
        self._preference(training)
        template = self.sections.get("ModelConfig", {}).get("chat_template")
        if template and not any(mark in template for mark in "{}\n"):
            path, told = (
                f"{ROOT}.ModelConfig.chat_template",
                "must be a template's text, not the name of a file",
            )
            self.faults.append(Fault(path, template, "F12", told))

    def _preference(self, training: Mapping[str, Any]) -> None:
        if self._objective == Objective.SFT:
            return
        lora, dataset = self.sections.get("LoraConfig", {}), self.sections.get("DatasetConfig", {})
        self.faults += preference_keys.faults(self._objective, training, lora, dataset)
        if lora.get("lora_dropout") and training.get("disable_dropout", True):
            told = f"disable_dropout is true with {self._objective} unless the config says otherwise"
            self.notices.append(f"LoraConfig.lora_dropout has no effect: {told}.")

    def _lora(self, lora: Mapping[str, Any]) -> None:
        for key, needed in (
            ("layers_pattern", "layers_to_transform"),
            ("layers_to_transform", "target_modules"),
        ):
            if lora.get(key) and not lora.get(needed):
                told = f"needs {needed} beside it"
                self.faults.append(Fault(f"{ROOT}.LoraConfig.{key}", lora[key], "F12", told))
        if lora.get("layers_to_transform") and isinstance(lora.get("target_modules"), str):
            path, told = (
                f"{ROOT}.LoraConfig.target_modules",
                "must be a list of names beside layers_to_transform",
            )
            self.faults.append(Fault(path, lora["target_modules"], "F12", told))
        for key in ("target_modules", "exclude_modules"):
            if isinstance(lora.get(key), str) and (why := _no_pattern(lora[key])):
                told = f"is neither a list of names nor a pattern ({why})"
                self.faults.append(Fault(f"{ROOT}.LoraConfig.{key}", lora[key], "F12", told))
        pattern = lora.get("rank_pattern") or {}
        for layer, rank in pattern.items():
            if type(rank) is not int or not 1 <= rank <= MAX_RANK:
                path = f"{ROOT}.LoraConfig.rank_pattern"
                told = f"the rank of {layer} must be a whole number from 1 to {MAX_RANK}"
                self.faults.append(Fault(path, rank, "F12", told))

    def _best(self, training: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
        """F12: whoever chooses by the loss on held-out rows holds some out, and evaluates."""
        for key in (EARLY_STOPPING_PATIENCE, "load_best_model_at_end"):
            if not training.get(key):
                continue
            path = f"{ROOT}.TrainingArguments.{key}"
            if dataset.get("train_test_split", 1.0) >= 1:
                told, hint = "needs held-out rows", "set DatasetConfig.train_test_split below 1, such as 0.9"
                self.faults.append(Fault(path, training[key], "F12", told, hint))
            if training.get("eval_strategy") == "no":
                told, hint = "needs an evaluation", "leave eval_strategy out, or set it to epoch or steps"
                self.faults.append(Fault(path, training[key], "F12", told, hint))
        if EARLY_STOPPING_THRESHOLD in training and EARLY_STOPPING_PATIENCE not in training:
            path, told = (
                f"{ROOT}.TrainingArguments.{EARLY_STOPPING_THRESHOLD}",
                "needs early_stopping_patience beside it",
            )
            self.faults.append(Fault(path, training[EARLY_STOPPING_THRESHOLD], "F12", told))

    def _columns(self, dataset: Mapping[str, Any]) -> None:
        """F12: the columns that are named make one layout."""
        path = f"{ROOT}.DatasetConfig"
        context, response = dataset.get("context_column"), dataset.get("response_column")
        if context and not response:
            told, hint = "needs response_column beside it", "name the column with the answers"
            self.faults.append(Fault(f"{path}.context_column", context, "F12", told, hint))
        messages = dataset.get("messages_column")
        if messages and (context or (response and response.strip().lower() != "text")):
            told, hint = "cannot stand beside the others", "a row is a chat, or a question and its answer"
            self.faults.append(Fault(f"{path}.messages_column", messages, "F12", told, hint))
        if context and response and context.strip().lower() == response.strip().lower():
            told = "is the same column as response_column"
            self.faults.append(Fault(f"{path}.context_column", context, "F12", told))

    def _schedule(self, training: Mapping[str, Any]) -> None:
        schedule = training.get("lr_scheduler_type", TRAINING_DEFAULTS["lr_scheduler_type"])
        given, known = training.get("lr_scheduler_kwargs") or {}, keys.SCHEDULERS[schedule]
        path = f"{ROOT}.TrainingArguments.lr_scheduler_kwargs"
        for key in sorted(set(given) - known.takes):
            hint = f"it takes {', '.join(sorted(known.takes))}" if known.takes else "leave it out"
            self.faults.append(Fault(f"{path}.{key}", None, "F12", f"is no setting of {schedule}", hint))
        for key in sorted(set(given) & known.takes - _SCHEDULE_WORDS):
            if isinstance(given[key], bool) or not isinstance(given[key], int | float):
                self.faults.append(Fault(f"{path}.{key}", given[key], "F12", "must be a number"))
        if known.needs and not known.needs & set(given):
            told = f"{schedule} needs {' or '.join(sorted(known.needs))} in it"
            self.faults.append(Fault(path, None, "F12", told))


def _no_pattern(text: str) -> str:
    """Why a text is no regular expression, "" where it is one."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error) or type(error).__name__
    return ""


def _quantization(config: Mapping[str, Any], method: str) -> Iterator[Fault]:
    """M5, M6, M7, M8."""
    section = config.get("QuantizationConfig")
    section = section if isinstance(section, Mapping) else {}
    flags = {key: section.get(key) for key in _FLAGS}
    for key, value in flags.items():
        if value is not None and not isinstance(value, bool):
            yield Fault(f"{QUANTIZATION}.{key}", value, "M5", "must be true or false")
    on = [key for key, value in flags.items() if value is True]
    if len(on) > 1:
        yield Fault(QUANTIZATION, None, "M6", "load_in_4bit and load_in_8bit cannot both be true")
    elif method == TuningMethod.LORA and on:
        hint = "remove it, or use method: qlora"
        yield Fault(f"{QUANTIZATION}.{on[0]}", True, "M7", "lora tunes an unquantised model", hint)
    elif method == TuningMethod.QLORA and not on:
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


def _converted(raw: object, kind: str) -> Any:
    """A YAML value in its type. KAITO turns all into text, so "16", "1e-4" and "true" count as values.

    A comma list in one text becomes a list where the key takes a list of names.
    """
    words = kind.split("|")
    if isinstance(raw, str):
        raw = raw.strip()
        if "," in raw and any(word.startswith("list") for word in words):
            raw = [part.strip() for part in raw.split(",") if part.strip()]
        elif raw.lower() in ("none", "null") and "null" in words:
            return None
        elif "bool" in words and raw.lower() in ("true", "false"):
            return raw.lower() == "true"  # else a key that takes words too would keep the word
        elif (
            "dict" in words
        ):  # the libraries read such a text as JSON, or as the name of a file that is not there
            raw = _json(raw)
    return _adapter(kind).validate_python(raw)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _word(value: object) -> str:
    """A value as choices are written: true, not True."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    hint: Any = None
    for index, word in enumerate(kind.split("|")):
        hint = _TYPES[word] if index == 0 else hint | _TYPES[word]
    return TypeAdapter(hint)
