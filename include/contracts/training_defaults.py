"""What the trainer chooses where a training config leaves it open: the plan reckons with the same numbers.

The defaults are meant to be better than upstream's (rank 8, batch 1, no packing, no checkpoint): rank 16 on all linear
layers, packed rows, cosine schedule with warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.contracts.methods import TuningMethod

LORA_DEFAULTS: Mapping[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}
TRAINING_DEFAULTS: Mapping[str, Any] = {
    "learning_rate": 2e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,  # below 1: a share of all steps
    "num_train_epochs": 3,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "seed": 42,
}
#: Keys of TrainingArguments that SFTConfig does not have: this trainer's own, under the names of transformers'
#: EarlyStoppingCallback. KAITO's trainer would not start with them.
EARLY_STOPPING_PATIENCE, EARLY_STOPPING_THRESHOLD = "early_stopping_patience", "early_stopping_threshold"
#: On a GPU: tokens that a packed row holds when no single row is longer, and the most sequences at a time.
PACKED_TOKENS, SEQUENCES = 2048, 2
#: Above this share of a GPU's memory for weights and activations, activations are recomputed.
CHECKPOINTING_SHARE = 0.7
#: Bytes a token leaves per layer and hidden unit, adapters on all linear layers: 45 (Phi-2's kind) to 73 (Qwen2.5's),
#: by tests/bench/plan_memory.py. The 34 of Korthikanti et al. 2022 are for full training of a square block.
BYTES_PER_ACTIVATION = 72
#: With DoRA so many times that: it keeps the outputs of base layer and adapter beside their inputs (tests/bench).
DORA_ACTIVATIONS = 2


def bytes_per_activation(*, dora: bool) -> int:
    """What a token leaves per layer and hidden unit between the passes, in bytes."""
    return BYTES_PER_ACTIVATION * (DORA_ACTIVATIONS if dora else 1)


def default_optimizer(method: str, *, cpu: bool = False) -> str:
    """8-bit paged AdamW where memory is what QLoRA saves; else torch's own, fused on a GPU."""
    if cpu:
        return "adamw_torch"
    return "paged_adamw_8bit" if method == TuningMethod.QLORA else "adamw_torch_fused"
