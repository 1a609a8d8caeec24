"""The tuning methods, as Workspaces name them in `tuning.method` (in any letter case)."""

from __future__ import annotations

from enum import StrEnum


class TuningMethod(StrEnum):
    """How a model is tuned: `lora` leaves the base model as it is, `qlora` holds it in 4 or 8 bits meanwhile."""

    LORA = "lora"
    QLORA = "qlora"


class Objective(StrEnum):
    """What a training learns from: answers (`sft`), pairs of a better and a worse one (`dpo`), or answers that are each
    marked good or bad (`kto`).
    """

    SFT = "sft"
    DPO = "dpo"
    KTO = "kto"


OBJECTIVES: tuple[str, ...] = tuple(objective.value for objective in Objective)
METHODS: tuple[str, ...] = tuple(method.value for method in TuningMethod)
