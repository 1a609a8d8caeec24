"""Layers made in fewer steps give what the model's own give, and stand for nothing that they do not equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from include.workloads.serving.fused import FusedAttention, FusedNorm, fuse
from include.workloads.serving.packed import PackedPart, put_back

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 units"
)
SMALL: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
KINDS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "grouped by one": lambda: LlamaForCausalLM(LlamaConfig(**{**SMALL, "num_key_value_heads": 4})),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL)),
    "biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [20, 21, 22, 23, 24, 25, 26]])


def model(kind: Callable[[], Any]) -> Any:
    torch.manual_seed(1)
    made = kind()
    for name, weight in made.named_parameters():
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(weight, 1.0, 0.2)
    return made.to(torch.bfloat16).eval()


def scores(made: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    """With a mask that says all that there is to say, as the server gives it."""
    seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    mask = torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill(~seen, -torch.inf)
    with torch.inference_mode():
        return made(
            input_ids=ids, attention_mask=mask.expand(len(ids), 1, -1, -1), use_cache=False
        ).logits.float()


def count(made: Any, kind: type) -> int:
    return sum(isinstance(one, kind) for one in made.modules())


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(torch.nn.functional.cosine_similarity(one, other, dim=-1).min() > 0.9999)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_model_gives_its_own_scores(kind: str) -> None:
    made = model(KINDS[kind])
    right = scores(made)
    before = fuse(made)
    assert (count(made, FusedAttention), count(made, FusedNorm)) == (3, 7)
    assert close(scores(made), right)
    assert scores(made).argmax(-1).tolist() == right.argmax(-1).tolist()
    put_back(before)
    assert torch.equal(scores(made), right)


def test_heads_that_turn_in_another_way_stay_as_they_are() -> None:
    """Cohere's attention has the same children and turns neighbours, not halves."""
    made = model(lambda: CohereForCausalLM(CohereConfig(**SMALL, pad_token_id=0)))
    right = scores(made)
    fuse(made)
    assert count(made, FusedAttention) == 0
    assert torch.equal(scores(made), right)


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"], ["k_proj"]]
)
def test_adapters_find_their_layers_in_a_fused_model(targets: list[str]) -> None:
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=targets, init_lora_weights=False)
    plain, fused = model(KINDS["llama"]), model(KINDS["llama"])
    fuse(fused)
    found = []
    for made in (plain, fused):
        torch.manual_seed(2)
        found.append(scores(get_peft_model(made, lora, autocast_adapter_dtype=False)))
    assert close(*found)
    assert not close(found[0], scores(model(KINDS["llama"]))), "the adapter does something"


def test_a_joint_product_is_made_once_for_all_who_ask_with_the_same_input() -> None:
    made = model(KINDS["biases"])
    fuse(made)
    attention = next(one for one in made.modules() if isinstance(one, FusedAttention))
    parts = [one for one in attention.modules() if isinstance(one, PackedPart)]
    joint, calls = parts[0]._parts, 0
    whole = joint.whole

    def counted(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return whole(x)

    joint.whole = counted  # type: ignore[assignment]
    one, other = torch.ones(1, 64).bfloat16(), torch.zeros(1, 64).bfloat16()
    with torch.inference_mode():
        right = whole(other).split([part.out_features for part in parts], -1)
        assert len([part(one) for part in parts]) == 3
        assert calls == 1
        parts[0](one)  # and the others are not asked
        found = [part(other) for part in parts]
    assert calls == 3
    assert all(torch.equal(left, mine) for left, mine in zip(found, right, strict=True))
