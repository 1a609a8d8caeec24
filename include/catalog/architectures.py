"""Which model architectures the workloads image can load, and which of them it can tune.

A list rather than a question to transformers, because Airflow's image has no transformers and must judge a model
without it; a test holds the list against the installed one. It must never be longer than what was checked there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from include.catalog import records

_SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# The linear layers of a block by their names in transformers: what LoRA reaches when a config names no layers.
TARGET_MODULES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "Gemma2ForCausalLM",
            "Gemma3ForCausalLM",
            "GemmaForCausalLM",
            "GraniteForCausalLM",
            "HeliumForCausalLM",
            "LlamaForCausalLM",
            "Ministral3ForCausalLM",
            "MinistralForCausalLM",
            "MistralForCausalLM",
            "Olmo2ForCausalLM",
            "Olmo3ForCausalLM",
            "OlmoForCausalLM",
            "Qwen2ForCausalLM",
            "Qwen3ForCausalLM",
            "SeedOssForCausalLM",
            "SmolLM3ForCausalLM",
        ),
        _SPLIT,
    ),
    "Phi3ForCausalLM": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "PhiForCausalLM": ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
    "FalconForCausalLM": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}


@cache
def loadable() -> Mapping[str, str]:
    """Model types (`model_type` of a config.json) that the workloads image loads, with their architecture's name."""
    found = records.read(records.PRESETS / "architectures.yaml")["architectures"]
    return {str(model_type): str(architecture) for model_type, architecture in found.items()}
