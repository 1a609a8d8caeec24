"""Chooses every setting that the user left open, from the machine and the data; a pure function with its reasons.

What needs neither machine nor data is in include.contracts.training_defaults, where the plan reads it too.
A retry must come to the same recipe, so nothing here may depend on the clock or on chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from include.contracts import sharding, weight_init
from include.contracts.methods import Objective, TuningMethod
from include.contracts.preference_keys import LEARNING_RATE, LOSSES, least_batch
from include.contracts.training_defaults import (
    CHECKPOINTING_SHARE,
    EARLY_STOPPING_PATIENCE,
    LORA_DEFAULTS,
    PACKED_TOKENS,
    SEQUENCES,
    TRAINING_DEFAULTS,
    bytes_per_activation,
    default_optimizer,
)
from include.workloads.contract import UserConfigError
from include.workloads.hardware import Hardware, Precision
from include.workloads.tuning.config import TuningConfig
from include.workloads.tuning.kernels import lacks_liger

PACK_CPU = 256  # tokens a packed row holds when no single row is longer; on a GPU PACKED_TOKENS
UPDATES_PER_EPOCH = 20  # at least, where the data allows
LONGEST_CPU, LONGEST_CUDA = 1024, 4096  # longer rows are cut unless the user sets max_length


@dataclass(frozen=True)
class DataFacts:
    """What tokenising found: tokens of each training row, after no cut."""

    lengths: Sequence[int]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True)
class ModelFacts:
    """From config.json: sizes that memory depends on, and the longest context (None: not stated)."""

    layers: int
    hidden: int
    context: int | None
    weight_bytes: int


@dataclass(frozen=True)
class Recipe:
    """The arguments for SFTConfig and LoraConfig, and one sentence for each choice worth a log line."""

    training: Mapping[str, Any]
    lora: Mapping[str, Any]
    save_every_seconds: float
    reasons: list[str] = field(default_factory=list)

    @property
    def max_length(self) -> int:
        return int(self.training["max_length"])


def decide(
    config: TuningConfig,
    hardware: Hardware,
    precision: Precision,
    data: DataFacts,
    model: ModelFacts,
    target_modules: Sequence[str] = (),
    *,
    sharded: bool = False,
) -> Recipe:
    """The recipe for one run; what the user set stays as it is.

    `target_modules` comes from the preset and gives way to LoraConfig.target_modules. `sharded`: the model is split
    over the processes, which some optimizers cannot follow.
    """
    asked = dict(config.training)
    reasons = [precision.sentence]
    training = {**_defaults(config.objective), **asked}
    packed = config.objective == Objective.SFT
    choose = choose_max_length if packed else choose_compared_length
    training["max_length"] = asked.get("max_length") or choose(hardware, data, model)
    if packed:
        training.setdefault("packing", True)
    if "per_device_train_batch_size" not in asked:
        # Someone who sets the accumulation alone has a total in mind: as few sequences at a time as can be, then.
        least = least_batch(training)
        batch, accumulate = (
            (least, asked["gradient_accumulation_steps"])
            if "gradient_accumulation_steps" in asked
            else choose_batch(hardware, data, training["max_length"])
            if packed
            else choose_compared_batch(hardware, data, least)
        )
        training.update(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate)
        reasons.append(
            f"{len(data.lengths)} rows with {data.tokens} tokens: sequences of {training['max_length']} tokens, "
            f"{batch} at a time, one update every {accumulate}."
        )
        if hardware.gpus > 1:
            reasons.append(
                f"Each of {hardware.gpus} GPUs takes its share of an update: {batch * accumulate * hardware.gpus} "
                "sequences in all."
            )
    if "gradient_checkpointing" not in asked:
        dora = bool(config.lora.get("use_dora"))
        tight = needs_checkpointing(hardware, model, training, config.objective, dora=dora)
        training["gradient_checkpointing"] = tight
        if tight:
            reasons.append("Gradient checkpointing is on: the activations would not fit beside the weights.")
    # An adapter has no parameter that a step leaves out: to look for some costs a walk over the graph each step.
    training.setdefault("ddp_find_unused_parameters", False)
    _settle_optimizer(training, config.method, hardware, reasons, sharded)
    if asked.get("use_liger_kernel") and (why := lacks_liger(hardware)):
        training["use_liger_kernel"] = False
        reasons.append(
            f"TrainingArguments.use_liger_kernel is true, but {why}: PyTorch's own kernels compute the same."
        )
    training.update(_precision_flags(asked, hardware, precision, reasons))
    _settle_best(training, reasons)
    _settle_saving(training, reasons)
    lora = {**LORA_DEFAULTS, **config.lora}
    lora.setdefault("target_modules", list(target_modules) or "all-linear")
    lora["task_type"] = "CAUSAL_LM"
    if sharded:
        _check_shardable(config, lora)
        reasons.append("The model and its training are sharded over the processes (FSDP).")
    if weight_init.asked(lora):
        reasons.append(
            f"The adapter begins with values from the base model's weights ({weight_init.asked(lora)}); published is "
            f"the difference to that, a LoRA of rank {2 * lora['r']}."
        )
    return Recipe(training, lora, 60.0 if hardware.device == "cpu" else 300.0, reasons)


def unpacked(recipe: Recipe, config: TuningConfig, lengths: Sequence[int]) -> Recipe:
    """The recipe for a model that would see from one packed row into the next: each row by itself, padded.

    As many rows an update as its packed sequences would have held, and no more at a time than there were sequences,
    unless the config says how many.

    :param lengths: tokens of each row that is trained on.
    """
    training = {**recipe.training, "packing": False, "eval_packing": False, "padding_free": False}
    if not {"per_device_train_batch_size", "gradient_accumulation_steps"} & set(config.training):
        sequences = max(1, math.ceil(sum(lengths) / recipe.max_length))
        packed = int(training["gradient_accumulation_steps"])
        training["gradient_accumulation_steps"] = max(1, round(packed * len(lengths) / sequences))
    told = (
        "Rows are not packed: this model would see from one row into the next. "
        f"{training['per_device_train_batch_size']} at a time, one update every "
        f"{training.get('gradient_accumulation_steps') or 1}."
    )
    return replace(recipe, training=training, reasons=[*recipe.reasons, told])


def _defaults(objective: str) -> dict[str, Any]:
    if objective == Objective.SFT:
        return {**TRAINING_DEFAULTS}
    return {**TRAINING_DEFAULTS, "learning_rate": LEARNING_RATE, "loss_type": LOSSES[objective]}


def choose_compared_length(hardware: Hardware, data: DataFacts, model: ModelFacts) -> int:
    """As long as the longest prompt with its answer, up to what the plan reckons with: nothing is packed."""
    longest = min(max(data.lengths, default=0), LONGEST_CPU if hardware.device == "cpu" else PACKED_TOKENS)
    length = max(64, math.ceil(longest / 64) * 64)
    return min(length, model.context) if model.context else length


def choose_compared_batch(hardware: Hardware, data: DataFacts, least: int) -> tuple[int, int]:
    """(rows at a time, accumulation) of each process: some 20 updates an epoch, of at most 8 rows."""
    total = max(1, min(8, len(data.lengths) // UPDATES_PER_EPOCH))
    each = max(1, total // max(1, hardware.gpus))
    return least, max(1, each // least)


def choose_max_length(hardware: Hardware, data: DataFacts, model: ModelFacts) -> int:
    """As long as the longest row, up to a cap; longer where packing still leaves some 20 updates an epoch.

    Never beyond the model's context. A few rows need many updates more than they need long sequences: 30 rows about
    machine types were learnt in 135 updates of one row, and not in 50 of three (SmolLM2-135M, same tokens in all).
    """
    cpu = hardware.device == "cpu"
    longest = min(max(data.lengths, default=0), LONGEST_CPU if cpu else LONGEST_CUDA)
    pack = min(PACK_CPU if cpu else PACKED_TOKENS, data.tokens / UPDATES_PER_EPOCH)
    length = math.ceil(max(longest, pack) / 64) * 64
    return min(length, model.context) if model.context else length


def choose_batch(hardware: Hardware, data: DataFacts, max_length: int) -> tuple[int, int]:
    """(sequences at a time, accumulation) of each process: some 20 updates an epoch, of at most 8 sequences.

    Those of an update are shared by the GPUs, so that the adapter does not hang on their number. Packed sequences of a
    batch are laid end to end, so more at a time helps a GPU only; a CPU is busy with one.
    """
    total = max(1, min(8, math.ceil(data.tokens / max_length) // UPDATES_PER_EPOCH))
    each = max(1, total // max(1, hardware.gpus))
    if hardware.device == "cpu":
        return 1, each
    batch = min(each, SEQUENCES)
    return batch, max(1, each // batch)


def needs_checkpointing(
    hardware: Hardware,
    model: ModelFacts,
    training: Mapping[str, Any],
    objective: str = Objective.SFT,
    *,
    dora: bool = False,
) -> bool:
    """Whether weights and activations together pass a share of the GPU's memory. Never on a CPU: time is scarcer."""
    if hardware.device == "cpu":
        return False
    sequences = int(training["per_device_train_batch_size"]) * (2 if objective == Objective.DPO else 1)
    tokens = sequences * int(training["max_length"])
    activations = tokens * model.layers * model.hidden * bytes_per_activation(dora=dora)
    return model.weight_bytes + activations > CHECKPOINTING_SHARE * hardware.memory_bytes


def _check_shardable(config: TuningConfig, lora: Mapping[str, Any]) -> None:
    """The plan shards no such training; one that was made for another config would train something else."""
    whole = weight_init.needs_whole_weights(lora)
    for key, asked in (
        ("QuantizationConfig.load_in_8bit", config.quantization.get("load_in_8bit")),
        (f"LoraConfig.{whole}", whole),
    ):
        if asked:
            raise UserConfigError(f"{key} keeps the model from being sharded over the GPUs: leave it out.")


def _settle_optimizer(
    training: dict[str, Any], method: str, hardware: Hardware, reasons: list[str], sharded: bool
) -> None:
    cpu = hardware.device == "cpu"
    if not sharded:
        training.setdefault("optim", default_optimizer(method, cpu=cpu))
        return
    asked = training.get("optim") or ""
    training["optim"] = sharding.optimizer(asked, cpu=cpu)
    if asked and asked != training["optim"]:
        reasons.append(sharding.replaced(asked, training["optim"]))


def _precision_flags(
    asked: Mapping[str, Any], hardware: Hardware, precision: Precision, reasons: list[str]
) -> dict[str, bool]:
    flags = {"bf16": precision.dtype == "bfloat16", "fp16": precision.dtype == "float16"}
    for key in ("bf16", "fp16"):
        if asked.get(key) and not flags[key]:
            reasons.append(f"TrainingArguments.{key} is true, but this run computes in {precision.dtype}.")
    if asked.get("tf32") and not hardware.tf32:
        reasons.append(f"TrainingArguments.tf32 is true, but {hardware.name} has no TF32 units.")
        flags["tf32"] = False
    return flags


def _settle_saving(training: dict[str, Any], reasons: list[str]) -> None:
    """Checkpoints by time always: without one, a lost node costs the whole run. Two are kept, one may be torn."""
    if training.get("save_strategy") == "no":
        reasons.append(
            "save_strategy is no: checkpoints are still written by time, so that a retry resumes; none is published."
        )
    training.setdefault("save_strategy", "no")
    training["save_total_limit"] = max(2, training.get("save_total_limit") or 2)


def _settle_best(training: dict[str, Any], reasons: list[str]) -> None:
    """The best checkpoint is one that was evaluated, so each evaluation saves one; stopping early keeps the best."""
    if training.get(EARLY_STOPPING_PATIENCE):
        training.setdefault("load_best_model_at_end", True)
    if not training.get("load_best_model_at_end"):
        return
    when = training.setdefault("eval_strategy", "epoch")
    if training.get("save_strategy", when) != when:
        reasons.append(f"save_strategy is read as {when}: the best adapter is chosen among those evaluated.")
    training["save_strategy"] = when
    if when == "steps":
        training["save_steps"] = training.setdefault("eval_steps", training.get("logging_steps") or 1)
    training |= {"metric_for_best_model": "eval_loss", "greater_is_better": False}
    training["save_total_limit"] = max(3, training.get("save_total_limit") or 3)


def memory_advice(training: Mapping[str, Any], method: str) -> str:
    """What to change first when memory ran out: the largest lever that is still free."""
    batch, least = int(training["per_device_train_batch_size"]), least_batch(training)
    if batch > least:
        lever = f"set TrainingArguments.per_device_train_batch_size to {least} (it is {batch})"
    elif int(training["max_length"]) > 512:
        lever = f"set TrainingArguments.max_length lower (it is {training['max_length']})"
    elif not training.get("gradient_checkpointing"):
        lever = "set TrainingArguments.gradient_checkpointing to true"
    elif method == TuningMethod.LORA:
        lever = "use method qlora, which holds the base model in 4 bits"
    else:
        lever = "use a machine with more memory (resource.instanceType)"
    return f"Training ran out of memory; {lever}."


def loading_advice(model: str, method: str) -> str:
    """What to change when the base model alone does not fit."""
    lever = "use a machine with more memory (resource.instanceType)"
    if method == TuningMethod.LORA:
        lever = f"use method qlora, which holds it in 4 bits, or {lever}"
    return f"Memory ran out while {model or 'the base model'} was loaded; {lever}."
