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
from include.contracts import sharding, weight_init
from include.contracts.methods import OBJECTIVES, Objective
from include.contracts.training_defaults import (
    CHECKPOINTING_SHARE,
    LORA_DEFAULTS,
    PACKED_TOKENS,
    SEQUENCES,
    TRAINING_DEFAULTS,
    bytes_per_activation,
    default_optimizer,
)


@dataclass(frozen=True, slots=True)
class TrainingShape:
    """Memory-relevant settings of one tuning run.

    The defaults are the most that the trainer chooses by itself: packed sequences, several at a time.
    `gradient_checkpointing` None and `optimizer` "" leave the choice to the trainer (`settled` makes it);
    `tiled_loss` False is a trainer that keeps all logits, as with a LoRA on the head; `processes` are data-parallel,
    one a GPU, each with the whole model or, `sharded`, with a part of it. `batch_size` are rows: with the objective dpo
    each is two sequences, the better and the worse answer. `from_weights` is an adapter that begins with values from
    the weights (PiSSA, LoftQ), `dora` one with use_dora.
    """

    sequence_length: int = PACKED_TOKENS
    batch_size: int = SEQUENCES
    rank: int = LORA_DEFAULTS["r"]
    gradient_checkpointing: bool | None = None
    load_in_8bit: bool = False
    double_quant: bool = True
    optimizer: str = ""
    target_modules: tuple[str, ...] = ()
    packing: bool = True
    tiled_loss: bool = True
    epochs: float = float(TRAINING_DEFAULTS["num_train_epochs"])
    processes: int = 1
    objective: str = Objective.SFT
    sharded: bool = False
    from_weights: bool = False
    dora: bool = False

    @classmethod
    def modest(cls, objective: str = Objective.SFT) -> TrainingShape:
        """The least that a run without settings of its own is worth: what must fit before a machine is accepted."""
        return cls(
            sequence_length=1024,
            batch_size=_rows(objective, 1),
            gradient_checkpointing=True,
            packing=objective == Objective.SFT,
            objective=objective,
        )

    @classmethod
    def least(cls, objective: str = Objective.SFT) -> TrainingShape:
        """What no config can go below: one token, rank 1. For configs whose content is not known yet."""
        return replace(cls.modest(objective), sequence_length=1, batch_size=1, rank=1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], objective: str = Objective.SFT) -> TrainingShape:
        """Reads a parsed `training_config.yaml`; a missing or unusable value keeps the default."""
        objective = objective if objective in OBJECTIVES else Objective.SFT
        sections, own = _sections(config, objective) if config else {}, cls()
        training, lora = sections.get("TrainingArguments", {}), sections.get("LoraConfig", {})
        quantization = sections.get("QuantizationConfig", {})
        # The trainer's rule: who sets the accumulation alone has a total in mind and gets one sequence at a time.
        free_batch = 1 if "gradient_accumulation_steps" in training else own.batch_size
        if objective != Objective.SFT:
            free_batch = _rows(objective, 1)
        targets = _names(lora.get("target_modules"))
        return cls(
            sequence_length=training.get("max_length") or own.sequence_length,
            batch_size=training.get("per_device_train_batch_size", free_batch),
            rank=lora.get("r", own.rank),
            gradient_checkpointing=training.get("gradient_checkpointing"),
            load_in_8bit=quantization.get("load_in_8bit", False),
            double_quant=quantization.get("bnb_4bit_use_double_quant", True),
            optimizer=training.get("optim", ""),
            target_modules=targets,
            packing=training.get("packing", objective == Objective.SFT),
            tiled_loss=not (training.get("label_smoothing_factor") or "lm_head" in " ".join(targets)),
            epochs=training.get("num_train_epochs", own.epochs),
            objective=objective,
            from_weights=bool(weight_init.asked(lora)),
            dora=bool(lora.get("use_dora")),
        )

    @property
    def sequences(self) -> int:
        """Sequences in one forward pass of one process."""
        return self.batch_size * (2 if self.objective == Objective.DPO else 1)

    @property
    def shardable(self) -> bool:
        """Whether the trainer can shard the model over processes: not in 8 bits, nor where it needs weights whole."""
        return not (self.load_in_8bit or self.from_weights or self.dora)

    @property
    def tokens(self) -> int:
        """Tokens in one forward pass of one process."""
        return self.sequence_length * self.sequences

    def settled(self, model: Model, method: str, machine: Machine) -> TrainingShape:
        """The same with the trainer's choices made for this machine: sequence, checkpointing, optimizer, processes."""
        checkpointing = self.gradient_checkpointing
        length = min(self.sequence_length, model.context) if model.context else self.sequence_length
        if checkpointing is None:
            shape = model.shape
            units = shape.layers * shape.hidden if shape else 0
            activations = length * self.sequences * units * bytes_per_activation(dora=self.dora)
            checkpointing = model.weights_bytes + activations > CHECKPOINTING_SHARE * machine.gpu_memory_bytes
        optimizer = self.optimizer or default_optimizer(method)
        return replace(
            self,
            sequence_length=length,
            gradient_checkpointing=checkpointing,
            optimizer=optimizer,
            processes=machine.gpus,
        )

    def over_gpus(self) -> TrainingShape:
        """The same settled training with its model sharded over its processes, and an optimizer that follows."""
        return replace(self, sharded=True, optimizer=sharding.optimizer(self.optimizer))

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


def _sections(config: Mapping[str, Any], objective: str) -> Mapping[str, Mapping[str, Any]]:
    """The right values of a config. Its reader knows every key of four libraries: loaded for who has a config."""
    from include.contracts.training_config import examine_config

    return examine_config(config, objective=objective).sections


def _rows(objective: str, usual: int) -> int:
    """Rows of a batch: kto's loss takes two at least (`include.contracts.preference_keys.least_batch`)."""
    return max(usual, 2) if objective == Objective.KTO else usual


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
