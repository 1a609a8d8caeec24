"""A training that goes on from an adapter begins with exactly its weights, or says why it cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest

from include.workloads.contract import UserConfigError
from include.workloads.tuning.start import Start, check, load

LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["o_proj"], "task_type": "CAUSAL_LM"}
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 16,
    "pad_token_id": 0,
}


def tuned(lora: dict[str, Any]) -> Any:
    """A tiny model with an adapter of random weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import Phi3Config, Phi3ForCausalLM

    return get_peft_model(Phi3ForCausalLM(Phi3Config(**SIZES)), LoraConfig(**lora, init_lora_weights=False))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("served")
    tuned(LORA).save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "phi"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return Start(folder, "sha256:served")


def test_the_new_adapter_begins_with_the_weights_of_the_old_one(served: Start) -> None:
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    model = tuned(LORA)
    load(served, model)
    before = load_file(served.folder / "adapter_model.safetensors")
    after = get_peft_model_state_dict(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [p.requires_grad for name, p in model.named_parameters() if "lora_" in name] == [True, True]


def test_what_would_mean_something_else_is_refused_with_every_difference(served: Start) -> None:
    check(served, "phi", LORA)
    check(served, "", LORA)
    with pytest.raises(UserConfigError) as refused:
        check(served, "llama", {**LORA, "r": 8, "lora_alpha": 32})
    for words in ("r is 8 and was 4", "lora_alpha is 32 and was 8", "llama and was phi", "sha256:served"):
        assert words in str(refused.value)


def test_other_layers_are_refused(served: Start) -> None:
    with pytest.raises(UserConfigError, match="2 of its layers differ"):
        load(served, tuned({**LORA, "target_modules": ["o_proj", "down_proj"]}))
