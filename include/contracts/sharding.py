"""What a tuning does otherwise when its model is sharded over the GPUs of its machine: for the plan and the trainer."""

from __future__ import annotations

#: Set to "true" in the tuning pod's environment where the plan shards the model.
VARIABLE = "SHARD_WEIGHTS"
#: Optimizers whose state follows the slices of the parameters: PyTorch's own. bitsandbytes' work on whole tensors, and
#: adafactor on whole rows and columns.
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")


def optimizer(name: str, *, cpu: bool = False) -> str:
    """The optimizer of a sharded training: the one asked for, else PyTorch's AdamW.

    :param name: of TrainingArguments.optim, "" where the config leaves it open.
    """
    return name if name in OPTIMIZERS else "adamw_torch" if cpu else "adamw_torch_fused"


def replaced(asked: str, taken: str) -> str:
    """The sentence about an optimizer that gives way."""
    return (
        f"TrainingArguments.optim {asked} is read as {taken}: the model is sharded over the GPUs, and an optimizer has "
        f"to follow ({', '.join(OPTIMIZERS)} do)."
    )
