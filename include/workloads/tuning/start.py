"""A training that goes on from an adapter: the new one begins with its weights instead of with none.

Both must be of one shape. What differs and would still load (another alpha, another model's layers) would train
something that nobody asked for, so it is refused with every difference.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.contracts import weight_init
from include.workloads.contract import UserConfigError

log = logging.getLogger("workload")

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
#: What both adapters must agree on; each changes what the same weights mean.
SHAPE = ("r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")
WAY_OUT = "make LoraConfig what that adapter was trained with, or write from: scratch into the policy"


@dataclass(frozen=True)
class Start:
    """The adapter to go on from.

    :ivar folder: with its adapter_config.json and weights.
    :ivar digest: of its image, as it was pulled.
    """

    folder: Path
    digest: str


def check(start: Start, model_id: str, lora: Mapping[str, Any]) -> None:
    """Refuse an adapter that the training cannot go on from, before the model is loaded.

    :param model_id: of the base model, "" where it is not known.
    :param lora: the arguments of the LoraConfig that will be trained.
    :raises UserConfigError: with every difference.
    """
    from peft import LoraConfig

    try:
        before = json.loads((start.folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise UserConfigError(f"The adapter to go on from cannot be read: {error}") from error
    if weight_init.asked(lora):
        raise UserConfigError(
            f"The training cannot go on from adapter {start.digest or start.folder}: it would begin with "
            f"values of its own (LoraConfig.init_lora_weights is {lora['init_lora_weights']}): leave that out, or "
            "write from: scratch into the policy."
        )
    wanted = LoraConfig(**dict(lora)).to_dict()
    told = [
        f"LoraConfig.{key} is {wanted.get(key)!r} and was {before[key]!r}"
        for key in SHAPE
        if key in before and (wanted.get(key) or None) != (before[key] or None)
    ]
    base = before.get("base_model_name_or_path")
    if model_id and base and base != model_id:
        told.append(f"the base model is {model_id} and was {base}")
    if told:
        raise UserConfigError(
            f"The training cannot go on from adapter {start.digest or start.folder}: {'; '.join(told)}: {WAY_OUT}."
        )


def load(start: Start, model: Any) -> None:
    """Give the adapter of a model these weights.

    :param model: the PeftModel that is about to be trained.
    :raises UserConfigError: its layers are others.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(start.folder / WEIGHTS)
    mine = get_peft_model_state_dict(model, save_embedding_layers=False)
    other = {name: tuple(one.shape) for name, one in weights.items()}
    own = {name: tuple(one.shape) for name, one in mine.items()}
    if other != own:
        differ = sorted({name for name, _ in other.items() ^ own.items()})
        raise UserConfigError(
            f"The training cannot go on from adapter {start.digest or start.folder}: {len(differ)} of its layers "
            f"differ from those of LoraConfig, such as {differ[0]}: {WAY_OUT}."
        )
    set_peft_model_state_dict(model, weights)
    log.info("The training goes on from adapter %s.", start.digest or start.folder)
