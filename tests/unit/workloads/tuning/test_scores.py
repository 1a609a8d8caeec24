"""TRL's losses see the scores that a model makes, whatever its head does with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)
from trl.trainer.utils import add_fused_lm_head

from include.workloads.tuning import scores

pytestmark = pytest.mark.weights

WORDS = 61
SMALL: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
MODELS: dict[str, Callable[[], Any]] = {
    "plain": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "capped": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=2.0)),
    "divided": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=3.0)),
    "multiplied": lambda: Cohere2ForCausalLM(Cohere2Config(**SMALL, logit_scale=0.25)),
    "its body is called another way": lambda: OPTForCausalLM(
        OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, dropout=0.0)
    ),
    "a cap that TRL does not know": lambda: RecurrentGemmaForCausalLM(
        RecurrentGemmaConfig(**{**SMALL, "num_hidden_layers": 3}, lru_width=32, logits_soft_cap=2.0)
    ),
    "a body that TRL does not find": lambda: Llama4ForCausalLM(
        Llama4TextConfig(**SMALL, intermediate_size_mlp=48, num_local_experts=2)
    ),
}
OWN = {"a cap that TRL does not know"}
FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [3, 9, 12, 40, 5, 5, 1]])
LABELS = torch.where(torch.arange(7) > 2, IDS, -100)


def tuned(kind: str, dtype: torch.dtype = torch.float32, **lora: Any) -> Any:
    """A model with an adapter that does something, as TRL's trainers leave it."""
    torch.manual_seed(1)
    layers = r".*(q_proj|down_proj|fc2)"
    options = {"r": 4, "target_modules": layers, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    made = MODELS[kind]().to(dtype)
    for weight in made.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model = get_peft_model(made, LoraConfig(**{**options, **lora})).train()
    add_fused_lm_head(model.get_base_model(), outputs=FIELDS)
    return model


def learnt(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: one.grad for name, one in model.named_parameters() if one.requires_grad}


def require_own_loss(model: Any) -> None:
    """TRL's loss and its gradients are those of all scores that the model makes."""
    found = model(input_ids=IDS, labels=LABELS, fused_lm_head=True)
    logits = model(input_ids=IDS, use_cache=False).logits[:, :-1]
    right = cross_entropy(logits.reshape(-1, WORDS), LABELS[:, 1:].reshape(-1))
    torch.testing.assert_close(found.loss, right)
    mine, theirs = learnt(model, found.loss), learnt(model, right)
    assert all(one is not None for one in mine.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_is_taught_by_the_scores_that_it_makes(kind: str) -> None:
    model = tuned(kind)
    assert scores.settle(model) is (kind in OWN)
    assert model.training
    require_own_loss(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_a_head_is_known_in_a_short_number_format(kind: str, dtype: torch.dtype) -> None:
    assert scores.settle(tuned(kind, dtype)) is (kind in OWN)


def test_an_adapter_of_the_head_learns_although_it_does_nothing_yet() -> None:
    model = tuned("plain", target_modules=["q_proj", "lm_head"], init_lora_weights=True)
    assert scores.settle(model)
    found = learnt(model, model(input_ids=IDS, labels=LABELS, fused_lm_head=True).loss)
    assert any("lm_head.lora_B" in name and float(one.abs().sum()) > 0 for name, one in found.items())
    model = tuned("plain", target_modules=["q_proj", "lm_head"])
    scores.settle(model)
    require_own_loss(model)


def test_a_head_that_is_trained_whole_keeps_the_short_way() -> None:
    model = tuned("plain", modules_to_save=["lm_head"])
    assert not scores.settle(model)
    require_own_loss(model)


@pytest.mark.parametrize("shifted", [False, True])
def test_all_that_trl_reads_is_what_its_own_head_gives(shifted: bool) -> None:
    """Of a model whose head TRL knows both ways come to the same."""
    model = tuned("plain")
    labels = {"shift_labels": LABELS} if shifted else {"labels": LABELS}
    theirs = model(input_ids=IDS, **labels, fused_lm_head=True, num_items_in_batch=torch.tensor(5))
    base = model.get_base_model()
    base.forward = scores._own(base.forward).__get__(base)
    mine = model(input_ids=IDS, **labels, fused_lm_head=True, num_items_in_batch=torch.tensor(5))
    for name in ("loss", "label_mask", *FIELDS):
        torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), msg=name)


def test_a_pass_without_labels_to_learn_is_a_loss_of_nothing() -> None:
    model = tuned("a cap that TRL does not know")
    scores.settle(model)
    found = model(input_ids=IDS, labels=torch.full_like(IDS, -100), fused_lm_head=True)
    found.loss.backward()
    assert float(found.loss.detach()) == 0


def test_scores_are_still_made_for_who_asks_for_them() -> None:
    model = tuned("a cap that TRL does not know")
    before = model(input_ids=IDS, labels=LABELS)
    scores.settle(model)
    after = model(input_ids=IDS, labels=LABELS)
    torch.testing.assert_close((after.logits, after.loss), (before.logits, before.loss))
