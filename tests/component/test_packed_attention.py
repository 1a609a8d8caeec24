"""Rows that are packed and attended to one by one: the same losses and gradients as with one mask over them all."""

from __future__ import annotations

import itertools
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)

from include.catalog.architectures import loadable
from include.workloads.hardware import Hardware, Precision
from include.workloads.tuning import packed_attention
from include.workloads.tuning.model import load_model

pytestmark = pytest.mark.weights

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
#: Of a Qwen3-Next: experts, and layers that carry something from token to token.
NEXT: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "mistral, whose layers look 5 tokens back": MistralConfig(**SIZES, sliding_window=5),
    "qwen3": Qwen3Config(**SIZES),
    "gemma 3, where one layer of two looks 5 tokens back": Gemma3TextConfig(
        **SIZES, sliding_window=5, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "qwen3 with experts": Qwen3MoeConfig(
        **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, decoder_sparse_step=1
    ),
}
LENGTHS = (9, 1, 17, 3, 6)


def model_of(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").train()


def packed() -> dict[str, Any]:
    """Five rows behind one another, as the collator gives them."""
    torch.manual_seed(1)
    ends = list(itertools.accumulate(LENGTHS, initial=0))
    return {
        "input_ids": torch.randint(1, 64, (1, sum(LENGTHS))),
        "position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None],
        "cu_seq_lens_q": torch.tensor(ends, dtype=torch.int32),
    }


def learnt(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Every position's scores, and the gradient of each weight of a loss that looks at them all."""
    model.zero_grad()
    logits = model(**batch, use_cache=False).logits
    (logits.float() ** 2).mean().backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return logits.detach(), found


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("which", CONFIGS)
def test_rows_by_themselves_are_what_a_mask_makes_of_them(which: str, checkpointing: bool) -> None:
    model, batch = model_of(CONFIGS[which]), packed()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    logits, gradients = learnt(model, {key: batch[key] for key in ("input_ids", "position_ids")})
    assert packed_attention.use(model)
    assert model.config._attn_implementation == packed_attention.NAME
    same, again = learnt(model, batch)
    torch.testing.assert_close(same, logits, rtol=1e-4, atol=1e-5)
    assert again.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("which", CONFIGS)
def test_rows_with_padding_are_read_as_ever(which: str) -> None:
    model = model_of(CONFIGS[which])
    ids = torch.randint(1, 64, (3, 20), generator=torch.Generator().manual_seed(2))
    seen = (torch.arange(20)[None] < torch.tensor([[20], [7], [1]])).long()
    before = model(input_ids=ids, attention_mask=seen).logits[seen.bool()]
    one = model(input_ids=ids[:1]).logits
    assert packed_attention.use(model)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=seen).logits[seen.bool()], before)
    torch.testing.assert_close(model(input_ids=ids[:1]).logits, one)


def test_layers_that_carry_something_from_token_to_token_keep_their_own_way() -> None:
    config = Qwen3NextConfig(
        **SIZES,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        **NEXT,
    )
    model = model_of(config)
    assert not packed_attention.use(model)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_whose_layers_are_not_told_where_rows_end_keeps_its_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of(CONFIGS["llama"])
    forward = type(model.model).forward

    def forgetful(self: Any, *args: Any, cu_seq_lens_q: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", forgetful)
    logits = model(**packed()).logits
    assert not packed_attention.use(model)
    torch.testing.assert_close(model(**packed()).logits, logits)


WIDE = {"initializer_range": 0.5}  # what a token sees of others counts for much
NOT_SDPA = {
    "gemma 2": Gemma2Config(**SIZES, **WIDE, sliding_window=5),
    "gpt-oss": GptOssConfig(
        **SIZES,
        **WIDE,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
}
OTHERS: dict[str, Any] = {
    "falcon": FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **WIDE),
    "mpt": MptConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=4, max_seq_len=128, **WIDE),
    "mamba": MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, **WIDE),
}
OTHERS["qwen3-next"] = Qwen3NextConfig(
    **{**SIZES, **WIDE, "num_hidden_layers": 4},
    **NEXT,
)
#: Those whose rows would be seen from the next.
LEAKING = {"gpt-oss", *OTHERS}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("which", NOT_SDPA)
def test_a_model_that_pytorch_s_attention_cannot_compute_is_loaded_with_its_own(
    tmp_path: Path, which: str, dtype: str
) -> None:
    """Each ended with a fault inside transformers: tuning asked for `sdpa`, whose scores have no cap and no sinks."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(NOT_SDPA[which]).save_pretrained(tmp_path)
    model = load_model(tmp_path, None, Hardware("cpu", "a CPU", 0, 1 << 34, True, 2), Precision(dtype, ""))
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", [*CONFIGS, *NOT_SDPA, *OTHERS])
def test_a_model_says_whether_its_packed_rows_see_each_other(which: str, dtype: torch.dtype) -> None:
    """Rows were packed for all: those of Falcon and MPT were learnt as the end of others, and Qwen3-Next's ended the
    pod with an internal fault, which is tried again.
    """
    config = deepcopy({**CONFIGS, **NOT_SDPA, **OTHERS}[which])
    config.initializer_range = 0.5
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
    packed_attention.use(model)
    apart = which not in LEAKING
    assert packed_attention.keeps_rows_apart(model) is apart
    assert packed_attention.keeps_rows_apart(model, sharded=True) is apart
    assert model.training


def test_the_types_that_are_looked_up_are_ones_that_can_be_tuned() -> None:
    assert set(loadable()) >= packed_attention.ACROSS
