"""Layers that a config names and the model lacks are found without weights and without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.catalog import architectures
from include.workloads.contract import UserConfigError
from include.workloads.dataset.options import read_options
from include.workloads.tuning.targets import MAMBA, PAST_ITS_LAYER, check_targets

CONFIG = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "vocab_size": 64,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as the dataset step has it: no weights."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"r": 4},
        {"target_modules": ["qkv_proj", "o_proj"]},
        {"target_modules": ["self_attn.o_proj"]},
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},  # KAITO's own list for Phi-3
        {"target_modules": ["lm_head"]},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.1\.self_attn\.o_proj"},
        {"target_modules": ["o_proj"], "layers_to_transform": [0]},
        {"exclude_modules": ["o_proj"]},
    ],
)
def test_layers_that_are_there(model: Path, lora: dict[str, Any]) -> None:
    check_targets(model, lora)


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (
            {"target_modules": ["q_proj", "v_proj"]},
            "no layer 'q_proj', 'v_proj'; its linear layers are down_proj, gate_up_proj",
        ),
        ({"target_modules": ["proj"]}, "no layer 'proj'"),
        ({"target_modules": r".*\.q_proj"}, "does not fit the model"),
        ({"target_modules": "("}, "does not fit the model"),
        ({"target_modules": ["input_layernorm"]}, "does not fit the model"),
        ({"target_modules": ["o_proj"], "layers_to_transform": [7]}, "does not fit the model"),
    ],
)
def test_layers_that_are_not_there_are_named(model: Path, lora: dict[str, Any], words: str) -> None:
    with pytest.raises(UserConfigError) as told:
        check_targets(model, lora)
    assert words in str(told.value)


def test_the_dataset_step_asks_before_anything_is_fetched(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "training_config.yaml"
    config.write_text(json.dumps({"training_config": {"LoraConfig": {"target_modules": ["q_proj"]}}}))
    monkeypatch.setenv("YAML_FILE_PATH", str(config))
    monkeypatch.setenv("TOKENIZER_PATH", str(model))
    with pytest.raises(UserConfigError, match="no layer 'q_proj'"):
        read_options()
    monkeypatch.setenv("TOKENIZER_PATH", str(tmp_path / "empty"))
    assert read_options().preference.value == "refuse"


@pytest.mark.parametrize(
    ("lora", "told"),
    [
        (
            {"init_lora_weights": "pissa"},
            "LoraConfig.init_lora_weights is pissa, which is for linear layers only",
        ),
        (
            {"use_dora": True},
            "LoraConfig does not fit the model (lora.ParamWrapper does not work with use_dora=True",
        ),
    ],
)
def test_experts_held_in_one_parameter_are_no_linear_layers(
    tmp_path: Path, lora: dict[str, Any], told: str
) -> None:
    config = {
        **CONFIG,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "decoder_sparse_step": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    chosen = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}
    check_targets(tmp_path, chosen)
    with pytest.raises(UserConfigError) as fault:
        check_targets(tmp_path, {**chosen, **lora})
    assert told in str(fault.value)
    assert "base_layer" not in str(fault.value), "PEFT's own layers are none of the model's"


def test_peft_adapts_that_layer_of_all_models_but_mamba_s() -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba as check
    from torch import nn

    refused = set()
    for kind in architectures.loadable():
        model = nn.Module()
        model.config = SimpleNamespace(model_type=kind)
        try:
            check(LoraConfig(), model, PAST_ITS_LAYER)
        except ValueError:
            refused.add(kind)
    assert refused == MAMBA


def test_layers_of_mamba_beside_the_one_that_cannot_be_adapted(tmp_path: Path) -> None:
    shape = {
        "model_type": "mamba",
        "hidden_size": 32,
        "state_size": 8,
        "num_hidden_layers": 2,
        "vocab_size": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"], **shape}))
    check_targets(tmp_path, {"layers_to_transform": [0], "layers_pattern": "layers"})
    with pytest.raises(UserConfigError, match="out_proj"):
        check_targets(tmp_path, {"target_modules": ["in_proj", "out_proj"]})
