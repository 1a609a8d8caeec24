"""The keys of TrainingArguments when a training learns from preferences (dpo, kto), where they differ from `sft`'s.

TRL has a class of arguments for each objective; training_keys.yaml holds what they add and lack. Here is what of it
this trainer does not do, and which values exclude each other, so that nothing of it is found on a paid GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from include.contracts.faults import Fault
from include.contracts.methods import Objective

_TRAINING = "training_config.TrainingArguments"
_REFERENCE = "the reference is the base model with the adapter off: there is no second model"
_UNPACKED = "rows of preference data are never packed: each answer is compared as a whole"
_NO_TEMPLATE_END = "an answer ends where the model's chat template ends it"

#: Key -> why not. A neutral value (false, empty) is fine.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
            *("precompute_ref_log_probs", "precompute_ref_batch_size"),
        ),
        _REFERENCE,
    ),
    **dict.fromkeys(("packing", "packing_strategy", "eval_packing", "padding_free"), _UNPACKED),
    "eos_token": _NO_TEMPLATE_END,
}
#: Key -> what is done instead; the value has no effect.
IGNORED: Mapping[str, str] = {
    "assistant_only_loss": "only answers are compared",
    "label_smoothing_factor": "it smooths the loss of sft; with dpo there is label_smoothing",
    "truncation_mode": "rows that are too long are cut at their end",
    "pad_token": "padding is never learnt from",
}
#: Losses that need nothing beyond the rows of one batch.
_DPO_LOSSES = (
    *("apo_down", "apo_zero", "discopop", "hinge", "ipo", "nca_pair", "robust"),
    *("sft", "sigmoid", "sigmoid_norm", "sppo_hard"),
)
#: Those that may have another divergence than the usual one (TRL's DPOTrainer).
_ANY_DIVERGENCE = frozenset({"sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "discopop", "sft"})
_CHOICES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    Objective.DPO: {
        "loss_type": _DPO_LOSSES,
        "f_divergence_type": ("alpha_divergence", "forward_kl", "js_divergence", "reverse_kl"),
        "train_sampling_strategy": ("random", "sequential"),
    },
    # The answers that estimate the divergence are those of a row's neighbours, so the order is fixed.
    Objective.KTO: {"loss_type": ("apo_zero_unpaired", "kto"), "train_sampling_strategy": ("sequential",)},
}
#: The loss of an objective where the config leaves it open.
LOSSES: Mapping[str, str | list[str]] = {Objective.DPO: ["sigmoid"], Objective.KTO: "kto"}
#: Ten times TRL's own (1e-6), which is for training all weights: an adapter takes some ten times more.
LEARNING_RATE = 1e-5


def choices(objective: str, key: str) -> tuple[str, ...] | None:
    """The words that a key can be with this objective, None where the objective changes nothing about it."""
    return _CHOICES.get(objective, {}).get(key)


def least_batch(training: Mapping[str, Any]) -> int:
    """Rows that a batch needs at least: kto's loss compares each answer with that of another row of its batch."""
    return 2 if training.get("loss_type") == "kto" else 1


def faults(
    objective: str,
    training: Mapping[str, Any],
    lora: Mapping[str, Any],
    dataset: Mapping[str, Any],
) -> Iterator[Fault]:
    """F12: values that each are right and cannot stand with this objective, or beside each other."""
    targets = lora.get("target_modules")
    if isinstance(targets, list) and any(name.rpartition(".")[2] == "lm_head" for name in targets):
        told = (
            f"cannot hold lm_head with {objective}, which compares answers by the output head's own weights"
        )
        yield Fault("training_config.LoraConfig.target_modules", None, "F12", told, "leave it out")
    if dataset.get("preference_data") == "chosen":
        told = f"cannot be chosen with {objective}, which learns from the other answers too"
        yield Fault("training_config.DatasetConfig.preference_data", "chosen", "F12", told, "leave it out")
    for key in ("context_column", "response_column", "messages_column"):
        if dataset.get(key):
            told = f"names one answer of a row, and {objective} needs preference data"
            hint = (
                "rename the dataset's columns: prompt, chosen and rejected, or prompt, completion and label"
            )
            yield Fault(f"training_config.DatasetConfig.{key}", dataset[key], "F12", told, hint)
    batch = training.get("per_device_train_batch_size")
    least = least_batch({"loss_type": LOSSES.get(objective), **training})
    if batch is not None and batch < least:
        told = f"must be {least} or more: kto compares each answer with that of another row of its batch"
        yield Fault(f"{_TRAINING}.per_device_train_batch_size", batch, "F12", told)
    if objective == Objective.DPO:
        yield from _of_pairs(training)


def _of_pairs(training: Mapping[str, Any]) -> Iterator[Fault]:
    losses = training.get("loss_type") or LOSSES[Objective.DPO]
    weights = training.get("loss_weights")
    if weights and len(weights) != len(losses):
        told = f"must have a weight for each loss: {len(losses)} in loss_type"
        yield Fault(f"{_TRAINING}.loss_weights", weights, "F12", told)
    divergence = training.get("f_divergence_type", "reverse_kl")
    odd = sorted(set(losses) - _ANY_DIVERGENCE)
    if divergence != "reverse_kl" and odd:
        told = f"cannot be used with loss_type {', '.join(odd)}"
        yield Fault(f"{_TRAINING}.f_divergence_type", divergence, "F12", told, "use reverse_kl")
