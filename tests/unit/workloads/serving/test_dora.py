"""A DoRA adapter is served with PEFT's own numbers: packed or not, beside others, at any strength, and taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from include.workloads.adapter.check import check_adapter
from include.workloads.contract import UserConfigError
from include.workloads.serving.adapters import read_adapter
from include.workloads.serving.fused import fuse
from include.workloads.serving.lora import Adapted
from include.workloads.serving.packed import PackedLinear, PackedPart, Parts, can_be_packed, pack

SMALL: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
KINDS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
QKV = ("q_proj", "k_proj", "v_proj")
UNITS = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 units"
)


def model(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(1)
    made = KINDS[kind]()
    for name, weight in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, 1.0, 0.2)
    return made.to(dtype).eval()


def adapter(folder: Path, kind: str, seed: int, *, dora: bool) -> Path:
    """One that changes what the model says, as a training leaves it."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, use_dora=dora, target_modules="all-linear", task_type="CAUSAL_LM")
    made = get_peft_model(model(kind), config)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "magnitude" in name:
                weight *= 1 + 0.3 * torch.rand_like(weight)
            elif weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    made.save_pretrained(folder)
    check_adapter(folder, "The adapter")
    return folder


def scores(made: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return made(input_ids=ids).logits.float()


def peft(kind: str, folder: Path) -> torch.Tensor:
    return scores(PeftModel.from_pretrained(model(kind), folder))


def near(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_alone_and_in_a_batch_it_gives_what_peft_gives(kind: str, tmp_path: Path) -> None:
    folders = {
        "first": adapter(tmp_path / "first", kind, 2, dora=True),
        "second": adapter(tmp_path / "second", kind, 3, dora=True),
        "plain": adapter(tmp_path / "plain", kind, 4, dora=False),
    }
    right = {name: peft(kind, folder) for name, folder in folders.items()}
    right["base"] = scores(model(kind))
    adapted = Adapted(model(kind))
    for name, folder in folders.items():
        adapted.add(read_adapter(folder, {}, name))
    rows: list[str | None] = ["first", None, "plain", "second", "first"]
    for name in rows:
        with adapted.rows([name]):
            assert near(scores(adapted.forward), right[name or "base"]) < 1e-5
    with adapted.rows(rows):
        found = scores(adapted.forward, IDS.repeat(len(rows), 1))
    for one, name in zip(found, rows, strict=True):
        assert near(one[None], right[name or "base"]) < 1e-5, name
    adapted.remove("first")
    with adapted.rows(["second"]):
        assert near(scores(adapted.forward), right["second"]) < 1e-5
    with adapted.rows([None]):
        assert near(scores(adapted.forward), right["base"]) < 1e-5


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_a_strength_is_a_share_of_what_the_adapter_changes(strength: float, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "it", "biases", 2, dora=True)
    whole = PeftModel.from_pretrained(model("biases"), folder).merge_and_unload()
    mixed = model("biases")
    parts = dict(whole.named_parameters())
    with torch.no_grad():
        for name, weight in mixed.named_parameters():
            weight.lerp_(parts[name], strength)
    adapted = Adapted(model("biases"))
    adapted.add(read_adapter(folder, {"it": str(strength)}))
    with adapted.rows(["it"]):
        assert near(scores(adapted.forward), scores(mixed)) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_layers_in_another_layout_give_their_weights(kind: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "it", kind, 2, dora=True)
    made = model(kind)
    for block in made.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(block.mlp, name, PackedLinear(getattr(block.mlp, name)))
        plain = [getattr(block.self_attn, name) for name in QKV]
        joint = Parts(plain)
        for place, name in enumerate(QKV):
            setattr(block.self_attn, name, PackedPart(joint, place, plain[place]))
    adapted = Adapted(made)
    adapted.add(read_adapter(folder, {}))
    with adapted.rows(["it"]):
        assert near(scores(adapted.forward), peft(kind, folder)) < 1e-4


@UNITS
@pytest.mark.parametrize("kind", KINDS)
def test_so_do_those_that_the_server_packs(kind: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "it", kind, 2, dora=True)
    made = model(kind, torch.bfloat16)
    assert can_be_packed(made)
    fuse(made)
    pack(made)
    adapted = Adapted(made)
    adapted.add(read_adapter(folder, {}))
    right = peft(kind, folder)
    with adapted.rows(["it"]):
        found = scores(adapted.forward)
    assert near(found, right) < 0.03
    assert near(scores(model(kind)), right) > 0.2


def test_one_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "it", "llama", 2, dora=True)
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    gone = next(name for name in weights if "magnitude" in name)
    save_file({name: one for name, one in weights.items() if name != gone}, file)
    adapted = Adapted(model("llama"))
    good = adapter(tmp_path / "good", "llama", 3, dora=True)
    adapted.add(read_adapter(good, {}))
    with pytest.raises(UserConfigError, match="1 of its layers have no lora_magnitude_vector"):
        adapted.add(read_adapter(folder, {}))
    assert adapted.names == {"good"}
    with adapted.rows(["good"]):
        assert near(scores(adapted.forward), peft("llama", good)) < 1e-5


@pytest.mark.parametrize("dora", [True, False], ids=["DoRA", "LoRA"])
def test_a_first_one_that_does_not_fit_leaves_the_model_as_it_was(dora: bool, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "it", "llama", 2, dora=dora)
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    gone = next(name for name in weights if "magnitude" in name) if dora else next(iter(weights))
    broken = {name: one[:3].contiguous() if name == gone else one for name, one in weights.items()}
    save_file(broken, file)
    made = model("llama")
    layers = {name: type(one) for name, one in made.named_modules()}
    adapted = Adapted(made)
    with pytest.raises(UserConfigError, match="it does not fit"):
        adapted.add(read_adapter(folder, {}))
    with adapted.rows([None]):
        assert near(scores(adapted.forward), scores(model("llama"))) < 1e-6
    assert {name: type(one) for name, one in made.named_modules()} == layers
    good = adapter(tmp_path / "good", "llama", 3, dora=dora)
    adapted.add(read_adapter(good, {}, "it"))
    with adapted.rows(["it"]):
        assert near(scores(adapted.forward), peft("llama", good)) < 1e-5
