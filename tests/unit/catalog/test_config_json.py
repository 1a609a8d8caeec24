"""Figures out of a config.json: known models, their dialects, and documents of strangers."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.catalog import load_catalog
from include.catalog.config_json import Unreadable, read_config
from include.catalog.loading import PRESETS
from tests.support.hub_server import CONFIG

CATALOG = load_catalog(PRESETS)

# The parts of published config.json files that count.
PHI_3 = {
    "architectures": ["Phi3ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "torch_dtype": "bfloat16",
    "vocab_size": 32064,
}
FALCON_7B = {
    "architectures": ["FalconForCausalLM"],
    "hidden_size": 4544,
    "max_position_embeddings": 2048,
    "model_type": "falcon",
    "multi_query": True,
    "new_decoder_architecture": False,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "num_kv_heads": 71,
    "torch_dtype": "bfloat16",
    "vocab_size": 65024,
}
FALCON_40B = FALCON_7B | {
    "hidden_size": 8192,
    "new_decoder_architecture": True,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_kv_heads": 8,
}
PHI_2 = {
    "architectures": ["PhiForCausalLM"],
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "max_position_embeddings": 2048,
    "model_type": "phi",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": None,
    "torch_dtype": "float16",
    "vocab_size": 51200,
}
DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "n_routed_experts": 256,
    "num_attention_heads": 128,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {"fmt": "e4m3", "quant_method": "fp8"},
    "torch_dtype": "bfloat16",
    "vocab_size": 129280,
}
GEMMA_3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "torch_dtype": "bfloat16",
    "text_config": {
        "head_dim": 256,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "max_position_embeddings": 131072,
        "model_type": "gemma3_text",
        "num_attention_heads": 8,
        "num_hidden_layers": 34,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
    },
}


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        ("phi-3-mini-128k-instruct", PHI_3),
        ("falcon-7b", FALCON_7B),
        ("falcon-40b", FALCON_40B),
        ("phi-2", PHI_2),
        ("deepseek-v3-0324", DEEPSEEK_V3),
        ("gemma-3-4b-instruct", GEMMA_3_4B),
    ],
)
def test_published_configs_give_the_catalogues_figures(preset: str, config: dict[str, Any]) -> None:
    model, facts = CATALOG.model(preset), read_config(config)
    for name in ("architecture", "context", "attention", "kv_bytes_per_token", "dtype", "quantization"):
        assert getattr(facts, name) == getattr(model, name), name
    if model.shape is not None:
        assert facts.shape == model.shape


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"max_position_embeddings": None, "n_ctx": 1024}, "context", 1024),
        ({"max_position_embeddings": None}, "context", 2048),
        ({"torch_dtype": "float16"}, "dtype", "float16"),
        ({"torch_dtype": "torch.float16"}, "dtype", "float16"),
        ({"torch_dtype": "float32"}, "dtype", "bfloat16"),
        ({"torch_dtype": None}, "dtype", "bfloat16"),
        ({"dtype": "float16"}, "dtype", "float16"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization", "gptq"),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}},
            "quantization",
            "pack-quantized",
        ),
        (
            {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}},
            "quantization",
            "NVFP4",
        ),
        ({"num_key_value_heads": 32}, "attention", "MHA"),
        ({"num_key_value_heads": 1}, "attention", "MQA"),
        ({"num_experts": 64}, "shape", None),
        ({"num_experts": 1}, "kv_bytes_per_token", 32768),
        ({"auto_map": {"AutoModel": "x.Y"}}, "brings_code", True),
        ({"hidden_size": 2048.0}, "kv_bytes_per_token", 32768),
    ],
)
def test_dialects(changes: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(read_config(CONFIG | changes), name) == value


@pytest.mark.parametrize("value", [0, -1, 10**9, 1.5, "32", True, [], math.nan, math.inf])
@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"]
)
def test_an_impossible_number_is_named(key: str, value: Any) -> None:
    with pytest.raises(Unreadable, match=key):
        read_config(CONFIG | {key: value})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*CONFIG, "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from([*CONFIG, "text_config", "quantization_config", "kv_lora_rank", "auto_map"]), JSON
    )
)
def test_any_document_gives_figures_or_a_sentence(changes: dict[str, Any]) -> None:
    document = json.loads(json.dumps(CONFIG | changes))
    with suppress(Unreadable):
        facts = read_config(document)
        assert facts.kv_bytes_per_token > 0
        assert facts.context > 0
