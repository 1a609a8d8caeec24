"""Whether a config's LoRA finds its layers in the model, asked without weights and without a GPU.

The model is built from its config.json on PyTorch's meta device, which holds shapes and no numbers, and the library
that will train puts its adapter on: what it refuses there it would refuse on a rented machine.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from include.contracts import weight_init
from include.contracts.training_defaults import LORA_DEFAULTS
from include.workloads.contract import UserConfigError

log = logging.getLogger("dataset")

#: Without one of these the adapter goes to the layers of the preset, which are right.
CHOOSING = ("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern")
#: Model types that PEFT adapts but for this layer, whose weight their kernels take past it (peft.tuners.tuners_utils).
MAMBA, PAST_ITS_LAYER = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}), "out_proj"
_ALL_LINEAR = "all-linear"
_PREFIX = "base_model.model."


def check_targets(model: Path, lora: Mapping[str, Any], default: str = _ALL_LINEAR) -> None:
    """UserConfigError when LoraConfig names layers that the model lacks; nothing where it names none.

    :param model: the folder with the model's config.json; without one nothing is judged.
    :param lora: the LoraConfig of the training config.
    :param default: what is adapted where the config does not say it.
    """
    if not any(lora.get(key) for key in CHOOSING) or not (model / "config.json").is_file():
        return
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    asked = {"target_modules": default, **LORA_DEFAULTS, **lora, "task_type": "CAUSAL_LM"}
    try:
        config = AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(config)
    except (ValueError, OSError, KeyError, ImportError) as error:
        log.info("the model's layers are not known here, so the training judges LoraConfig: %s", error)
        return
    layers = {name for name, _ in base.named_modules()}
    linear = ", ".join(_linear(base))  # before PEFT puts layers of its own there
    wanted = asked["target_modules"]
    names = wanted if isinstance(wanted, list) else []
    lacking = [one for one in names if not any(f".{layer}".endswith(f".{one}") for layer in layers)]
    if lacking:
        told = f"the model has no layer {', '.join(map(repr, lacking))}; its linear layers are {linear}"
        if len(lacking) == len(names):
            raise UserConfigError(f"LoraConfig.target_modules: {told}.")
        log.info("LoraConfig.target_modules: %s. The others are adapted.", told)
    asked["target_modules"] = adaptable(base, wanted)
    try:
        with torch.device("meta"):
            made = get_peft_model(base, LoraConfig(**weight_init.plain(asked)))
    except (ValueError, TypeError, RuntimeError, re.error) as error:
        told = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise UserConfigError(
            f"LoraConfig does not fit the model ({told}); its linear layers are {linear}."
        ) from None
    adapted_layers(made, lora)


def adapted_layers(model: Any, lora: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The layers of a PeftModel that have the adapter, by the base model's names of them.

    :raises UserConfigError: one is no linear layer, which PiSSA, LoftQ and DoRA are computed for alone.
    """
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    found = [
        (name.removeprefix(_PREFIX), layer)
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    ]
    key = weight_init.needs_whole_weights(lora)
    for name, layer in found if key else ():
        weight = getattr(layer.get_base_layer(), "weight", None)
        if isinstance(layer, ParamWrapper) or not layer.lora_A or getattr(weight, "ndim", 0) != 2:
            raise UserConfigError(
                f"LoraConfig.{key} is {lora[key]}, which is for linear layers only, and {name} is none: leave it "
                "out of target_modules."
            )
    return found


def adaptable(model: Any, wanted: Any) -> Any:
    """The layers to adapt; `all-linear` spelt out for a model that has linear layers which cannot be adapted.

    Routers of Llama 4 and Phi-3.5-MoE are of a class derived from `nn.Linear` and give more than a product; an adapter
    leaves routers as they are. Kernels of Mamba's read a layer's weight past the layer, so PEFT refuses them.

    :param wanted: LoraConfig.target_modules.
    """
    import torch

    linear = {name: one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    kept = {name.rpartition(".")[2] for name, one in linear.items() if "router" in type(one).__name__.lower()}
    if model.config.model_type in MAMBA:
        kept.add(PAST_ITS_LAYER)
    head = model.get_output_embeddings()
    leaves = {name.rpartition(".")[2] for name, one in linear.items() if one is not head}
    return sorted(leaves - kept) if wanted == _ALL_LINEAR and leaves & kept else wanted


def _linear(base: Any) -> list[str]:
    import torch

    return sorted({n.rpartition(".")[2] for n, m in base.named_modules() if isinstance(m, torch.nn.Linear)})
