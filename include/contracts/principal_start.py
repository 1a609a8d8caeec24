"""PiSSA (arXiv 2404.02948): an adapter that begins with the principal components of the weights that it adapts.

PEFT takes those components out of the base model while it trains. What is published is the difference to the beginning,
a plain LoRA of twice the rank, so that it belongs to the base model as it is and is served beside others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from include.contracts.adapter_keys import MAX_RANK
from include.contracts.faults import Fault
from include.contracts.methods import Objective, TuningMethod

#: With a randomised decomposition of so many iterations: seconds for a layer, where the exact one takes minutes.
INITS = frozenset({"pissa_niter_4", "pissa_niter_16"})
_PATH = "training_config.LoraConfig"


def is_asked(lora: Mapping[str, Any]) -> bool:
    """Whether the adapter begins so."""
    return str(lora.get("init_lora_weights")).lower() in INITS


def faults(lora: Mapping[str, Any], method: str, objective: str) -> Iterator[Fault]:
    """F12: what such a beginning cannot go together with."""
    if not is_asked(lora):
        return
    given, path = lora["init_lora_weights"], f"{_PATH}.init_lora_weights"
    if method == TuningMethod.QLORA:
        told = "needs a base model that is not quantised: what is left of it would be rounded to 4 bits anew"
        yield Fault(path, given, "F12", told, "use method: lora, or leave it out")
    if objective != Objective.SFT:
        told = f"cannot be compared with the base model, which {objective} does, since that is trained without a part"
        yield Fault(path, given, "F12", told, "leave it out")
    ranks = [lora.get("r", 0), *(lora.get("rank_pattern") or {}).values()]
    if any(isinstance(rank, int) and 2 * rank > MAX_RANK for rank in ranks):
        told = f"doubles the rank of what is published, and {MAX_RANK} is the largest that can be served"
        yield Fault(path, given, "F12", told, f"set r to {MAX_RANK // 2} or less")
    if lora.get("use_rslora") and (lora.get("rank_pattern") or lora.get("alpha_pattern")):
        told = "cannot be converted with use_rslora beside rank_pattern or alpha_pattern"
        yield Fault(path, given, "F12", told, "leave out one of them")
