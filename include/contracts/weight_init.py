"""Adapters whose first values are computed from the base model's weights: PiSSA and LoftQ.

PiSSA (arXiv 2404.02948) takes the principal components of each weight into the adapter and trains them. LoftQ (arXiv
2310.08659) begins with what the rounding to 4 bits took away. Published is the difference to the beginning, a plain
LoRA of twice the rank, so that it belongs to the base model as it is and is served beside others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from include.contracts.adapter_keys import MAX_RANK
from include.contracts.faults import Fault
from include.contracts.methods import Objective, TuningMethod

LOFTQ = "loftq"
#: With an exact decomposition, or a randomised one of so many iterations: seconds for a layer in place of minutes.
PISSA = frozenset({"pissa", "pissa_niter_4", "pissa_niter_16"})
INITS = PISSA | {LOFTQ}
#: What `loftq_config` may say: one rounding and one decomposition, of a base model in 4 bits.
LOFTQ_SETTINGS: Mapping[str, int] = {"loftq_bits": 4, "loftq_iter": 1}
_PATH = "training_config.LoraConfig"


def asked(lora: Mapping[str, Any]) -> str:
    """Which of INITS an adapter begins with; "" for any other beginning."""
    init = str(lora.get("init_lora_weights")).lower()
    return init if init in INITS else ""


def needs_whole_weights(lora: Mapping[str, Any]) -> str:
    """The key of LoraConfig for which a layer's weight must not be split over GPUs; "" where none is set."""
    return "init_lora_weights" if asked(lora) else "use_dora" if lora.get("use_dora") else ""


def plain(lora: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the LoraConfig without what begins the adapter: PEFT makes it, and it is begun afterwards."""
    if not asked(lora):
        return dict(lora)
    return {key: value for key, value in lora.items() if key not in ("init_lora_weights", "loftq_config")}


def faults(
    lora: Mapping[str, Any], method: str, objective: str, *, in_8_bits: bool = False
) -> Iterator[Fault]:
    """F12: what such a beginning cannot go together with.

    :param method: "" where it is not known yet.
    :param in_8_bits: the base model is asked for in 8 bits.
    """
    init = asked(lora)
    yield from _loftq_faults(lora, init)
    if not init:
        return
    given, path = lora["init_lora_weights"], f"{_PATH}.init_lora_weights"
    if init == LOFTQ and method == TuningMethod.LORA:
        told = "begins with what the rounding to 4 bits took away, and method lora rounds nothing"
        yield Fault(path, given, "F12", told, "use method: qlora, or leave it out")
    if method == TuningMethod.QLORA and in_8_bits:
        told = "needs a base model in 4 bits or in 16, and load_in_8bit is true"
        yield Fault(path, given, "F12", told, "leave out one of them")
    if objective != Objective.SFT:
        told = f"cannot be compared with the base model, which {objective} does: it does not begin as that"
        yield Fault(path, given, "F12", told, "leave it out")
    if lora.get("use_dora"):
        told = "cannot go with use_dora, whose magnitudes are no part of the difference that is published"
        yield Fault(path, given, "F12", told, "leave out one of them")
    ranks = [lora.get("r", 0), *(lora.get("rank_pattern") or {}).values()]
    if any(isinstance(rank, int) and 2 * rank > MAX_RANK for rank in ranks):
        told = f"doubles the rank of what is published, and {MAX_RANK} is the largest that can be served"
        yield Fault(path, given, "F12", told, f"set r to {MAX_RANK // 2} or less")


def _loftq_faults(lora: Mapping[str, Any], init: str) -> Iterator[Fault]:
    settings, path = lora.get("loftq_config"), f"{_PATH}.loftq_config"
    if not settings:
        return
    if init != LOFTQ:
        yield Fault(
            path, dict(settings), "F12", "has an effect with init_lora_weights: loftq only", "add that"
        )
    for key, value in settings.items():
        if key not in LOFTQ_SETTINGS:
            known = ", ".join(LOFTQ_SETTINGS)
            yield Fault(f"{path}.{key}", value, "F12", "is no setting of LoftQ", f"there are {known}")
        elif value != LOFTQ_SETTINGS[key]:
            yield Fault(f"{path}.{key}", value, "F12", f"must be {LOFTQ_SETTINGS[key]}")
