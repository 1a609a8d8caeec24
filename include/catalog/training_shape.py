"""The settings of a `training_config.yaml` that decide memory and time, read from the parsed file.

A value that the config leaves free is what the trainer (include/workloads/tuning/recipe.py) chooses by itself on a
GPU. It must never judge a config: a missing or unusable value keeps the default, and the rules say what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from include.catalog.machines import Machine
from include.catalog.models import Model

CHECKPOINTING_SHARE = 0.7  # the trainer's rule: above this share of a GPU it recomputes activations
CHECKPOINTING_ACTIVATIONS = 72  # bytes a token, layer and hidden unit in that rule
EMBEDDINGS = ("lm_head", "embed")  # names in modules_to_save that mean a whole vocabulary matrix


@dataclass(frozen=True, slots=True)
class TrainingShape:
    """Memory-relevant settings of one tuning run.

    The defaults are the most that the trainer chooses by itself: packed sequences of 2048 tokens, two at a time.
    `gradient_checkpointing` None and `optimizer` "" leave the choice to the trainer (`settled` makes it);
    `tiled_loss` False is a trainer that keeps all logits; `processes` are data-parallel, one a GPU.
    """

    sequence_length: int = 2048
    batch_size: int = 2
    rank: int = 16
    gradient_checkpointing: bool | None = None
    load_in_8bit: bool = False
    double_quant: bool = True
    optimizer: str = ""
    target_modules: tuple[str, ...] = ()
    vocabulary_copies: int = 0
    packing: bool = True
    tiled_loss: bool = True
    epochs: float = 3.0
    processes: int = 1

    @classmethod
    def modest(cls) -> TrainingShape:
        """The least that a run without settings of its own is worth: what must fit before a machine is accepted."""
        return cls(sequence_length=1024, batch_size=1, gradient_checkpointing=True)

    @classmethod
    def least(cls) -> TrainingShape:
        """What no config can go below: one token, rank 1. For configs whose content is not known yet."""
        return cls(sequence_length=1, batch_size=1, rank=1, gradient_checkpointing=True)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrainingShape:
        """Reads a parsed `training_config.yaml`; a missing or unusable value keeps the default."""
        sections = _mapping(config.get("training_config"))
        training, lora, quantization = (
            _mapping(sections.get(name)) for name in ("TrainingArguments", "LoraConfig", "QuantizationConfig")
        )
        length = training.get("max_length", training.get("max_seq_length"))
        # The trainer's rule: who sets the accumulation alone has a total in mind and gets one sequence at a time.
        free_batch = 1 if _positive(training.get("gradient_accumulation_steps"), 0) else cls().batch_size
        checkpointing = training.get("gradient_checkpointing")
        return cls(
            sequence_length=_positive(length, cls().sequence_length),
            batch_size=_positive(training.get("per_device_train_batch_size"), free_batch),
            rank=_positive(lora.get("r"), cls().rank),
            gradient_checkpointing=checkpointing if isinstance(checkpointing, bool) else None,
            load_in_8bit=quantization.get("load_in_8bit") is True,
            double_quant=quantization.get("bnb_4bit_use_double_quant") is not False,
            optimizer=str(training.get("optim") or ""),
            target_modules=_names(lora.get("target_modules")),
            vocabulary_copies=sum(
                any(mark in name for mark in EMBEDDINGS) for name in _names(lora.get("modules_to_save"))
            ),
            packing=training.get("packing") is not False,
            tiled_loss=training.get("loss_type") != "dft" and not training.get("label_smoothing_factor"),
            epochs=_epochs(training.get("num_train_epochs")),
        )

    @property
    def tokens(self) -> int:
        """Tokens in one forward pass of one process."""
        return self.sequence_length * self.batch_size

    def settled(self, model: Model, method: str, machine: Machine) -> TrainingShape:
        """The same with the trainer's choices made for this machine: sequence, checkpointing, optimizer, processes."""
        checkpointing = self.gradient_checkpointing
        length = min(self.sequence_length, model.context) if model.context else self.sequence_length
        if checkpointing is None:
            shape = model.shape
            units = shape.layers * shape.hidden if shape else 0
            activations = length * self.batch_size * units * CHECKPOINTING_ACTIVATIONS
            checkpointing = model.weights_bytes + activations > CHECKPOINTING_SHARE * machine.gpu_memory_bytes
        optimizer = self.optimizer or ("paged_adamw_8bit" if method == "qlora" else "adamw_torch_fused")
        return replace(
            self,
            sequence_length=length,
            gradient_checkpointing=checkpointing,
            optimizer=optimizer,
            processes=machine.gpus,
        )

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, for JSON."""
        plain, default = asdict(self), asdict(TrainingShape())
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in plain.items()
            if value != default[key]
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingShape:
        """The shape of a dict that `to_dict` made; keys of another version are passed over."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**{key: value for key, value in values.items() if key in known})


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    """A number as the trainer reads it: text such as "1e3" counts, true and false do not."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if abs(found) < 1e9 else None  # drops inf and nan too: no comparison with them holds


def _positive(value: Any, default: int) -> int:
    found = _number(value)
    return int(found) if found is not None and found >= 1 and found == int(found) else default


def _epochs(value: Any) -> float:
    found = _number(value)
    return found if found is not None and found > 0 else TrainingShape().epochs


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
