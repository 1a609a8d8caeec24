"""The tuning methods, as Workspaces name them in `tuning.method` (in any letter case)."""

from __future__ import annotations

from enum import StrEnum


class TuningMethod(StrEnum):
    """How a model is tuned: `lora` leaves the base model as it is, `qlora` holds it in 4 or 8 bits meanwhile."""

    LORA = "lora"
    QLORA = "qlora"


METHODS: tuple[str, ...] = tuple(method.value for method in TuningMethod)
