"""What a LoRA adapter may be so that it can be served: one table for check, trainer, push, pull and serving.

Whatever stands here as refused is refused before a training is paid for, and again when an adapter comes from
elsewhere. Sources: `peft.LoraConfig.to_dict` of PEFT 0.11 to 0.21, and what vLLM's `PEFTHelper._validate_features` and
`validate_legal` take.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: The folder with the adapter in what a tuning leaves.
ADAPTER_FOLDER = "adapter"
#: vLLM's kernels are built for ranks up to this one.
MAX_RANK = 512

_VLLM = "vLLM does not serve such an adapter"
_REPLACES = "it would replace or add whole modules of the model, which an adapter must not bring along"

#: Keys of adapter_config.json, which are keys of LoraConfig, that must be empty, false or "none", and why.
MUST_BE_NEUTRAL: Mapping[str, str] = {
    "alora_invocation_tokens": _VLLM,
    "auto_mapping": "it names classes to import",  # see `names_transformers`
    "bias": "only the low-rank matrices are served; use none",
    "layer_replication": _VLLM,
    "lora_bias": _VLLM,
    "megatron_config": "it names modules to import",
    "modules_to_save": _REPLACES,
    "runtime_config": "it belongs to the machine of the training",
    "trainable_token_indices": _REPLACES,
    "use_bdlora": _VLLM,
    "use_qalora": _VLLM,
}
#: What is said of an adapter with `use_dora`, which only the runtime transformers serves.
NOT_ON_VLLM = "vLLM serves no DoRA adapter (use_dora); set the annotation kaito.sh/runtime: transformers"
#: Layers at a model's ends, by the names that models have for them, and what is said of an adapter of one: vLLM's class
#: of the model has to name it too (`embedding_modules`): those of Llama and Qwen3 do, those of Mistral not.
ENDS = frozenset({"lm_head", "embed_out", "embed_tokens", "word_embeddings", "wte"})
NOT_ON_EVERY_VLLM = (
    "vLLM serves an adapter of this layer for some models alone; where it refuses, set the annotation "
    "kaito.sh/runtime: transformers"
)
#: Values of `init_lora_weights` after which the saved adapter fits the base model as it is; others rewrite the base.
INITS = frozenset({"true", "false", "gaussian", "orthogonal"})
#: Those that an adapter from elsewhere may have too: they only chose the first values.
SERVED_INITS = INITS | {"eva", "mica", "lora_ga"}

_DESCRIBING = """
    alpha_pattern arrow_config base_model_name_or_path corda_config ensure_weight_tying eva_config exclude_modules
    fan_in_fan_out inference_mode init_lora_weights kasa_config layers_pattern layers_to_transform loftq_config
    lora_alpha lora_dropout lora_ga_config megatron_core monteclora_config peft_type peft_version qalora_group_size
    r rank_pattern revision target_modules target_parameters task_type use_dora use_rslora velora_config
"""
#: Every key that adapter_config.json may have.
KNOWN = frozenset(_DESCRIBING.split()) | frozenset(MUST_BE_NEUTRAL)

_MODELING = re.compile(r"transformers\.models\.[a-z0-9_]+\.modeling_[a-z0-9_]+")


def is_neutral(value: object) -> bool:
    """False, nothing, or a text that says so: no wish at all."""
    return not value or str(value).strip().lower() in ("false", "none", "null", "main")


def names_transformers(mapping: object) -> bool:
    """Whether an `auto_mapping` is the one that PEFT writes for a model of transformers: a class of a model's module.

    `save_pretrained` adds it where the LoraConfig has no task_type. Nothing imports it here; any other module is
    refused, for whoever loads the same image with AutoPeftModel.
    """
    if not isinstance(mapping, Mapping) or set(mapping) != {"base_model_class", "parent_library"}:
        return False
    module, cls = str(mapping["parent_library"]), str(mapping["base_model_class"])
    return bool(_MODELING.fullmatch(module)) and cls.isidentifier()


def largest_rank(config: Mapping[str, object]) -> int:
    """The largest rank of an adapter's layers: some may have one of their own. Raises ValueError when it is none."""
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, Mapping) else [None])]
    whole = [rank for rank in ranks if type(rank) is int and rank >= 1]
    if len(whole) != len(ranks):
        raise ValueError("the rank r, and each rank of rank_pattern, must be a whole number above 0")
    return max(whole)
