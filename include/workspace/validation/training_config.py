"""The content of a tuning ConfigMap, key `training_config.yaml`, as faults and notices for whoever has read it.

The rules are the trainer's own (include.contracts.training_config).
"""

from __future__ import annotations

from include.contracts.faults import Fault
from include.contracts.training_config import KEY, read_config

__all__ = ["KEY", "config_faults", "config_notices"]


def config_faults(text: str, method: str) -> list[Fault]:
    """Everything wrong with a `training_config.yaml` for this method ("lora" or "qlora"): M3 to M9, F11, F12."""
    return list(read_config(text, method).faults)


def config_notices(text: str) -> list[str]:
    """Sentences about keys of a training config that the trainer takes and does not need."""
    return list(read_config(text).notices)
