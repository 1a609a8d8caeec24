"""A training step's fused parts give the losses and gradients of what they stand for, and stand for nothing else."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from include.workloads.tuning import packed_attention
from include.workloads.tuning.fused import adapters, attention, cross_entropy, norms
from include.workloads.tuning.fused.install import install, keep_freed_memory, plain_head

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "norms of heads": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL)),
    "joint layers": lambda: Phi3ForCausalLM(Phi3Config(**SMALL)),
    "norms of another kind": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL)),
    "scaled scores": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=3.0)),
}
#: LoRA layers and norms of each that are fused.
FUSED = {
    "llama": (14, 5),
    "biases": (14, 5),
    "norms of heads": (14, 9),
    "joint layers": (8, 5),
    "norms of another kind": (14, 0),
    "scaled scores": (14, 5),
}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 3, 9]])
BOUNDS = torch.tensor([0, 4, 9], dtype=torch.int32)
BATCH = {
    "input_ids": IDS,
    "position_ids": torch.cat([torch.arange(4), torch.arange(5)])[None],
    "cu_seq_lens_q": BOUNDS,
}


def tuned(kind: str, dtype: torch.dtype = torch.float32, **lora: Any) -> Any:
    """A model with an adapter that does something, ready to train."""
    torch.manual_seed(1)
    made = MODELS[kind]()
    for name, weight in made.named_parameters():
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(weight, 1.0, 0.2)
    made = made.to(dtype)
    packed_attention.use(made)
    options = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False}
    return get_peft_model(made, LoraConfig(**{**options, **lora}, task_type="CAUSAL_LM")).train()


def learnt(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Scores, and the gradients of the adapter."""
    model.zero_grad()
    scores = model(**BATCH, use_cache=False).logits.float()
    (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum().backward()
    return scores.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def counts(model: Any) -> tuple[int, int]:
    """LoRA layers and norms whose forward pass is fused."""
    own = [one for one in model.modules() if "forward" in vars(one)]
    return sum(hasattr(one, "lora_A") for one in own), sum("Norm" in type(one).__name__ for one in own)


@pytest.mark.parametrize(
    "lora", [{}, {"use_rslora": True}, {"alpha_pattern": {"k_proj": 2}, "rank_pattern": {"v_proj": 2}}]
)
@pytest.mark.parametrize("kind", MODELS)
def test_scores_and_gradients_are_those_of_the_plain_model(kind: str, lora: dict[str, Any]) -> None:
    model = tuned(kind, **lora)
    scores, gradients = learnt(model)
    install(model)
    assert counts(model) == FUSED[kind]
    for _ in range(2):  # nothing is left over from the first
        again, fused = learnt(model)
        torch.testing.assert_close(again, scores, rtol=1e-4, atol=1e-5)
        assert fused.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(fused[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 units"
)
@pytest.mark.parametrize("kind", ["llama", "biases", "norms of heads"])
def test_in_bfloat16_they_differ_no_more_than_rounding(kind: str) -> None:
    """From float32, by no more than twice what PEFT's under autocast do."""
    exact = learnt(tuned(kind))[1]
    model = tuned(kind, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        plain = learnt(model)[1]
        install(model)
        fused = learnt(model)[1]

    def error(found: dict[str, torch.Tensor]) -> float:
        return sum(float((found[name] - exact[name]).norm() / exact[name].norm()) for name in exact)

    assert all(one.dtype == torch.float32 for one in fused.values())
    assert error(fused) < 2 * error(plain)


def test_computed_again_from_checkpoints_the_gradients_are_the_same() -> None:
    model = tuned("llama")
    gradients = learnt(model)[1]
    install(model)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for name, gradient in learnt(model)[1].items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-3, atol=1e-4, msg=name)


def test_dropout_is_of_the_adapter_s_input_and_another_for_each_layer() -> None:
    layer = tuned("llama", lora_dropout=0.4).base_model.model.model.layers[0].self_attn
    names = ("q_proj", "k_proj", "v_proj")
    x = torch.randn(1, 50, 32, requires_grad=True)
    together = adapters.Together([getattr(layer, name) for name in names])
    torch.manual_seed(3)
    found = [together.part(place, x) for place in range(3)]
    torch.manual_seed(3)
    masks = [torch.rand(50, 32) >= 0.4 for _ in names]
    assert not torch.equal(masks[0], masks[1])
    given = torch.autograd.grad(sum((one**2).sum() for one in found), [x, *adapter_of(layer, names)])
    right = []
    for name, mask in zip(names, masks, strict=True):
        one = getattr(layer, name)
        inner = one.lora_A["default"](x * mask / 0.6)
        right.append(one.get_base_layer()(x) + one.lora_B["default"](inner) * one.scaling["default"])
    wanted = torch.autograd.grad(sum((one**2).sum() for one in right), [x, *adapter_of(layer, names)])
    for mine, theirs in zip([*found, *given], [*right, *wanted], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    layer.eval()
    torch.testing.assert_close(together.part(0, x), type(layer.q_proj).forward(layer.q_proj, x))


def adapter_of(layer: Any, names: tuple[str, ...]) -> list[torch.Tensor]:
    pairs = ((getattr(layer, name).lora_A, getattr(layer, name).lora_B) for name in names)
    return [one["default"].weight for pair in pairs for one in pair]


STEP = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=6)


@given(steps=st.lists(STEP, max_size=3))
@settings(deadline=None, max_examples=40)
def test_layers_asked_in_any_order_give_what_they_would_alone(steps: list[list[tuple[int, int]]]) -> None:
    """Whatever is asked twice, left out, or asked with another input in between; weights change from step to step."""
    layer = tuned("llama").base_model.model.model.layers[0].self_attn
    layers = [layer.q_proj, layer.k_proj, layer.v_proj]
    together = adapters.Together(layers)
    for step in steps:
        inputs = [torch.randn(1, 3, 32), torch.randn(1, 2, 32)]
        for place, which in step:
            found = together.part(place, inputs[which])
            torch.testing.assert_close(found, type(layers[place]).forward(layers[place], inputs[which]))
        for one in layers:
            one.lora_B["default"].weight.data += 0.1


def test_an_input_that_comes_again_is_computed_with_the_weights_of_now() -> None:
    layer = tuned("llama").base_model.model.model.layers[0].self_attn.o_proj
    together, x = adapters.Together([layer]), torch.randn(1, 3, 32)
    before = together.part(0, x)
    layer.lora_B["default"].weight.data += 0.1
    assert not torch.allclose(together.part(0, x), before)


def test_what_a_layer_gives_may_be_changed_in_place() -> None:
    """Llama 4 does it to its queries: parts of one joint product would be views, which autograd refuses."""
    layer = tuned("llama").base_model.model.model.layers[0].self_attn
    layers = [layer.q_proj, layer.k_proj, layer.v_proj]
    together, x = adapters.Together(layers), torch.randn(1, 3, 32, requires_grad=True)
    mine = sum(together.part(place, x).mul_(place + 1).sum() for place in range(3))
    plain = sum((type(one).forward(one, x) * (place + 1)).sum() for place, one in enumerate(layers))
    torch.testing.assert_close(*(torch.autograd.grad(one, x)[0] for one in (mine, plain)))


def test_an_input_of_no_tokens_gives_none() -> None:
    """As an expert is given that no token was sent to."""
    layer = tuned("llama").base_model.model.model.layers[0].self_attn.o_proj
    x = torch.zeros(0, 32, requires_grad=True)
    found = adapters.Together([layer]).part(0, x)
    assert found.shape == (0, 32)
    found.sum().backward()
    assert not layer.lora_B["default"].weight.grad.any()


def test_without_the_adapter_a_model_is_its_base() -> None:
    """DPO's reference model is the same with its adapter turned off."""
    model = tuned("llama")
    with torch.no_grad(), model.disable_adapter():
        plain = model(**BATCH).logits
    install(model)
    with torch.no_grad(), model.disable_adapter():
        torch.testing.assert_close(model(**BATCH).logits, plain)
    with torch.no_grad():
        assert not torch.allclose(model(**BATCH).logits, plain)


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"lora_bias": True}, {"bias": "lora_only"}])
def test_adapters_of_another_kind_are_left_to_peft(lora: dict[str, Any]) -> None:
    model = tuned("biases", **lora)
    plain = learnt(model)
    install(model)
    biased = {"q_proj", "k_proj", "v_proj"}
    kept = {
        name.rpartition(".")[2]
        for name, one in model.named_modules()
        if hasattr(one, "lora_A") and "forward" not in vars(one)
    }
    assert biased <= kept
    torch.testing.assert_close(learnt(model)[0], plain[0], rtol=1e-4, atol=1e-5)


class OffsetRMSNorm(LlamaRMSNorm):  # type: ignore[misc]
    """One that has the same attributes and weighs otherwise."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = super().forward(hidden_states) + hidden_states * 0.1
        return found


def test_a_norm_that_gives_something_else_is_left_as_it_is() -> None:
    modules = torch.nn.ModuleList([OffsetRMSNorm(32), LlamaRMSNorm(32)]).requires_grad_(False)
    assert norms.use(modules) == 1
    assert "forward" not in vars(modules[0])


def test_norms_that_are_trained_are_left_as_they_are() -> None:
    model = tuned("llama", modules_to_save=["norm"])
    install(model)
    trained = [one for name, one in model.named_modules() if name.endswith("modules_to_save.default")]
    assert len(trained) == 5
    assert not any("forward" in vars(one) for one in trained)


@pytest.mark.parametrize("width", [8, 5], ids=["", "values of another size"])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)], ids=str)
@pytest.mark.parametrize("lengths", [[1], [2, 1, 30], [33]], ids=str)
def test_attention_is_pytorch_s_of_each_row(heads: tuple[int, int], lengths: list[int], width: int) -> None:
    """DeepSeek's values have a size of their own."""
    torch.manual_seed(0)
    many, few = heads
    states = [
        torch.randn(1, sum(lengths), count, size).transpose(1, 2).requires_grad_()
        for count, size in ((many, 8), (few, 8), (few, width))
    ]
    query, key, value = states
    found = attention.attend(query, key, value, lengths, 0.3)
    rows = zip(*(one.split(lengths, 2) for one in states), strict=True)
    each = [scaled_dot_product_attention(*row, is_causal=True, scale=0.3, enable_gqa=True) for row in rows]
    right = torch.cat(each, 2).transpose(1, 2)
    torch.testing.assert_close(found, right)
    weights = torch.randn_like(right)
    gradients = [torch.autograd.grad((one * weights).sum(), states) for one in (found, right)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_attention_leaves_what_it_is_given_as_it_was() -> None:
    query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    before = [one.clone() for one in (query, key, value)]
    attention.attend(query, key, value, [2, 3], None)
    assert all(map(torch.equal, (query, key, value), before))


@pytest.mark.parametrize(
    ("lengths", "dtype", "options", "serves"),
    [
        ([3, attention.LONGEST], torch.bfloat16, {}, True),
        ([3, attention.LONGEST + 1], torch.bfloat16, {}, False),
        ([5], torch.float32, {}, False),
        ([5], torch.bfloat16, {"dropout": 0.1}, False),
        ([5], torch.bfloat16, {"dropout": 0.0, "scaling": 0.5, "softcap": None}, True),
        ([5], torch.bfloat16, {"sliding_window": 5}, True),
        ([6], torch.bfloat16, {"sliding_window": 5}, False),
        ([5], torch.bfloat16, {"softcap": 30.0}, False),
        ([5], torch.bfloat16, {"s_aux": torch.zeros(4)}, False),
        ([5], torch.bfloat16, {"is_causal": False}, False),
    ],
)
def test_attention_serves_short_causal_rows_without_extras(
    lengths: list[int], dtype: torch.dtype, options: dict[str, Any], serves: bool
) -> None:
    query = torch.zeros(1, 4, sum(lengths), 8, dtype=dtype)
    assert attention.serves(torch.nn.Identity(), query, lengths, options) is serves


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scores", "cached"), [(2**20, 2**20), (64 * 5, 64 * 2), (1, 1)])
def test_the_loss_and_its_gradient_are_pytorch_s(
    monkeypatch: pytest.MonkeyPatch, scores: int, cached: int, bias: bool
) -> None:
    """However many tokens are worked on at a time."""
    monkeypatch.setattr(cross_entropy, "SCORES", scores)
    monkeypatch.setattr(cross_entropy, "CACHED", cached)
    torch.manual_seed(0)
    hidden, weight = torch.randn(13, 8, requires_grad=True), torch.randn(64, 8)
    offset = torch.randn(64) if bias else None
    labels = torch.randint(0, 64, (13,))
    found = cross_entropy.cross_entropy(hidden, weight, offset, labels) / 7
    right = (
        torch.nn.functional.cross_entropy(
            torch.nn.functional.linear(hidden, weight, offset), labels, reduction="sum"
        )
        / 7
    )
    torch.testing.assert_close(found, right)
    torch.testing.assert_close(*(torch.autograd.grad(one, hidden)[0] for one in (found, right)))


def test_the_loss_of_no_tokens_is_nothing_and_teaches_nothing() -> None:
    hidden = torch.zeros(0, 8, requires_grad=True)
    found = cross_entropy.cross_entropy(hidden, torch.randn(64, 8), None, torch.zeros(0, dtype=torch.long))
    found.backward()
    assert float(found.detach()) == 0
    assert hidden.grad is not None


def test_the_loss_of_scores_beyond_exp_s_range_is_a_number() -> None:
    hidden = torch.full((2, 4), 100.0, requires_grad=True)
    weight = torch.cat([torch.full((1, 4), 10.0), torch.full((7, 4), -10.0)])
    found = cross_entropy.cross_entropy(hidden, weight, None, torch.tensor([0, 1]))
    found.backward()
    assert float(found.detach()) == pytest.approx(8000.0)
    assert torch.isfinite(hidden.grad).all()  # type: ignore[arg-type]


def test_a_broken_state_makes_a_broken_loss() -> None:
    """A loss that is no number has to be seen as one."""
    hidden = torch.full((1, 8), torch.nan)
    assert not torch.isfinite(
        cross_entropy.cross_entropy(hidden, torch.randn(64, 8), None, torch.zeros(1, dtype=torch.long))
    )


@pytest.mark.parametrize("kind", MODELS)
def test_a_head_is_plain_where_the_scores_are_its_product_alone(kind: str) -> None:
    base = tuned(kind).get_base_model()
    scored = kind in ("norms of another kind", "scaled scores")
    assert (plain_head(base) is None) is scored
    assert base.training


def test_a_head_that_is_tuned_is_none() -> None:
    assert plain_head(tuned("llama", target_modules=["q_proj", "lm_head"]).get_base_model()) is None
    assert plain_head(tuned("llama", modules_to_save=["lm_head"]).get_base_model()) is None
    base = tuned("llama").get_base_model()
    base.lm_head.weight.requires_grad = True
    assert plain_head(base) is None


@pytest.mark.parametrize("shape", [(1, 1, 32), (2, 5, 32), (1, 3, 4, 32)], ids=str)
def test_a_norm_s_gradient_is_that_of_its_definition(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(32)
    found = norms.Norm.apply(x, weight, 1e-5)
    right = weight * x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(found, right)
    ones = torch.randn_like(right)
    torch.testing.assert_close(*(torch.autograd.grad((one * ones).sum(), x)[0] for one in (found, right)))


def test_a_norm_leaves_what_it_is_given_as_it_was() -> None:
    x = torch.randn(2, 32)
    before = x.clone()
    norms.Norm.apply(x, torch.ones(32), 1e-5)
    assert torch.equal(x, before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_glibc_takes_the_settings_that_keep_freed_memory() -> None:
    assert keep_freed_memory()
