"""PiSSA: what is published belongs to the base model as it is, and says the same as the model that was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from include.contracts.training_config import read_config
from include.workloads.adapter.check import check_adapter
from include.workloads.contract import UserConfigError
from include.workloads.tuning import beginning
from include.workloads.tuning.recipe import Recipe
from include.workloads.tuning.standin import make_standin
from include.workloads.tuning.start import Start, check

PISSA = {"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa_niter_4", "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_standin(tmp_path_factory.mktemp("weights"), layers=1)


def base(weights: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(20)[None]).logits


def adapted(weights: Path, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return get_peft_model(base(weights), LoraConfig(**PISSA, task_type="CAUSAL_LM"))


def recipe(**lora: Any) -> Recipe:
    return Recipe({}, lora or PISSA, 60.0)


def test_the_published_adapter_is_the_trained_model_on_the_untouched_base(
    weights: Path, tmp_path: Path
) -> None:
    model, before = adapted(weights), logits(base(weights))
    beginning.keep(tmp_path, "me", recipe(), model)
    assert torch.allclose(logits(model), before, atol=1e-4), "untrained, it says what the base says"
    kept = (tmp_path / beginning.FOLDER / "adapter_model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn_like(parameter)
    trained = logits(model)
    assert not torch.allclose(trained, before, atol=0.05)
    # An attempt that goes on finds the beginning of the first, and leaves it.
    beginning.keep(tmp_path, "me", recipe(), model)
    assert (tmp_path / beginning.FOLDER / "adapter_model.safetensors").read_bytes() == kept
    published = tmp_path / "adapter"
    model.save_pretrained(published, save_embedding_layers=False, **beginning.conversion(tmp_path, recipe()))
    config = json.loads((published / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 16, True)
    check_adapter(published, "The adapter")
    served = PeftModel.from_pretrained(base(weights), published)
    assert torch.allclose(logits(served), trained, atol=1e-4)


def test_another_training_begins_anew_and_a_plain_adapter_keeps_nothing(
    weights: Path, tmp_path: Path
) -> None:
    beginning.keep(tmp_path, "me", recipe(), adapted(weights))
    first = (tmp_path / beginning.FOLDER / "adapter_model.safetensors").read_bytes()
    beginning.keep(tmp_path, "another", recipe(), adapted(weights, seed=1))
    assert (tmp_path / beginning.FOLDER / "adapter_model.safetensors").read_bytes() != first
    plain = recipe(r=4)
    beginning.keep(tmp_path / "plain", "me", plain, None)
    assert not (tmp_path / "plain").exists()
    assert beginning.conversion(tmp_path, plain) == {}


@pytest.mark.parametrize(
    ("method", "objective", "words"),
    [
        ("qlora", "sft", "needs a base model that is not quantised"),
        ("lora", "dpo", "cannot be compared with the base model"),
        ("lora", "sft", ""),
    ],
)
def test_what_it_cannot_go_with_is_refused_by_check(method: str, objective: str, words: str) -> None:
    sections = {"LoraConfig": {"init_lora_weights": "pissa_niter_16"}}
    if method == "qlora":
        sections["QuantizationConfig"] = {"load_in_4bit": True}  # type: ignore[dict-item]
    found = read_config(json.dumps({"training_config": sections}), method, objective).faults
    assert len(found) == bool(words)
    assert words in " ".join(map(str, found))


def test_a_training_that_goes_on_from_an_adapter_cannot_begin_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    with pytest.raises(UserConfigError, match=r"init_lora_weights is pissa_niter_4\): leave that out"):
        check(Start(tmp_path, "sha256:1"), "", PISSA)
