"""Models of many families go through a tuning as a pod runs it: what one of them cannot do costs a rented machine.

Each is built small, from its own configuration class, with random weights, and tuned for two steps in a process of its
own, forked from one that has imported the libraries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from include.workloads.tuning.standin import make_standin
from tests.support import tuning_children

pytestmark = [pytest.mark.weights, pytest.mark.timeout(180)]

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
LINEAR = {f"linear_{name}": 2 for name in ("num_key_heads", "num_value_heads")}
LINEAR |= {f"linear_{name}": 8 for name in ("key_head_dim", "value_head_dim")}
#: By model type: the settings of a small one.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "cohere": {**SMALL, "logit_scale": 0.5},
    "deepseek_v3": {
        **{**SMALL, "num_key_value_heads": 4, "head_dim": None},
        **EXPERTS,
        **LATENT,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
    },
    "falcon": FALCON,
    "falcon_h1": {**SMALL, **MAMBA},
    "gemma2": SMALL,
    "gemma3_text": SMALL,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_oss": {
        **SMALL,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "granite": {**SMALL, "logits_scaling": 4.0},
    "granitemoe": {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2},
    "llama4_text": {**SMALL, "intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 64},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "mistral": {**SMALL, "sliding_window": 16},
    "mixtral": {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256},
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
    },
    "phi3": SMALL,
    "phimoe": {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": SMALL,
    "qwen3": SMALL,
    "qwen3_5_text": {**SMALL, **LINEAR, "num_hidden_layers": 4},
    "qwen3_moe": {**SMALL, **EXPERTS, "num_experts": 4, "decoder_sparse_step": 1},
    "qwen3_next": {
        **SMALL,
        **EXPERTS,
        **LINEAR,
        "num_hidden_layers": 4,
        "num_experts": 4,
        "shared_expert_intermediate_size": 16,
    },
    "recurrent_gemma": {**SMALL, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16},
}
CONFIG = {
    "QuantizationConfig": {"load_in_4bit": True},
    "LoraConfig": {"r": 2},
    "TrainingArguments": {"max_steps": 2, "max_length": 64},
    "DatasetConfig": {"train_test_split": 0.8},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, a training config, and a model whose tokenizer all others take."""
    root = tmp_path_factory.mktemp("families")
    make_standin(root / "weights", layers=1)
    turns = [
        [{"role": "user", "content": f"How many, {n}?"}, {"role": "assistant", "content": "eight"}]
        for n in range(24)
    ]
    (root / "data").mkdir()
    pq.write_table(
        pa.Table.from_pylist([{"messages": one} for one in turns]), root / "data" / "train.parquet"
    )
    (root / "training_config.yaml").write_text(json.dumps({"training_config": CONFIG}))
    return root


@pytest.fixture(scope="module")
def processes() -> Any:
    return tuning_children.context()


def tune(folder: Path, inputs: Path, family: str) -> None:
    """Build a model and tune it; leaves what the pod told."""
    tuning_children.end_with(folder, partial(_tune, inputs, folder, family))


def _tune(inputs: Path, folder: Path, family: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from include.workloads.tuning import run

    torch.manual_seed(0)
    weights, config = folder / "weights", inputs / "training_config.yaml"
    tokenizer = AutoTokenizer.from_pretrained(inputs / "weights")
    shape = CONFIG_MAPPING[family](vocab_size=len(tokenizer), **FAMILIES[family])
    AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16).save_pretrained(weights)
    tokenizer.save_pretrained(weights)
    os.environ.update(
        tuning_children.environment(weights, inputs / "data", config, folder / "results", "qlora")
    )
    (folder / "told").write_text(json.dumps(run.main()))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_tuned_and_evaluated(inputs: Path, processes: Any, tmp_path: Path, family: str) -> None:
    tuning_children.run(processes, tune, tmp_path, inputs, family)
    told = json.loads((tmp_path / "told").read_text())
    assert told["steps"] == 2
    assert 0 < told["loss_last"] < 20
    assert 0 < told["loss_evaluation"] < 20
    assert told["adapter"]["bytes"]
