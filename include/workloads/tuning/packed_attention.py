"""Attention over packed rows: each row by itself, in place of one square over all of them with a mask.

Rows that are packed stand one behind the other in a single sequence, and none may look at another. PyTorch's attention
without a mask for that has to work through the whole square, most of which is masked: of 16 rows of 128 tokens, fifteen
sixteenths, which was more than half of a step of SmolLM2-135M on two cores. FlashAttention's own kernels take the
rows' bounds instead (`cu_seq_lens_q`, as the collator gives them); so does this, with PyTorch's on any device.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from include.workloads.tuning.evaluating import evaluating
from include.workloads.tuning.fused import attention as short

log = logging.getLogger("workload")

NAME, USUAL = "kaito_rows", "sdpa"
#: Kinds of layers that look at the tokens of their own row alone, by their keys.
KINDS = {"full_attention", "sliding_attention"}
#: Tokens of a row that packing is tried with, and by how much its scores may differ behind another.
TRIED, ROUNDING = 8, 0.01
#: Model types whose rows would be seen from the next, of those that come with weights too large to try (sharded ones).
# fmt: off
ACROSS = frozenset((
    "afmoe", "bailing_hybrid", "bamba", "biogpt", "bloom", "falcon", "falcon_h1", "falcon_mamba",
    "gpt_oss", "granitemoehybrid", "inkling2_text", "inkling_text", "jamba", "kimi_linear", "lfm3",
    "mamba", "mamba2", "minimax", "mpt", "nemotron_h", "olmo_hybrid", "opt", "qwen3_5_moe_text",
    "qwen3_5_text", "qwen3_next", "qwen4_exp_text", "recurrent_gemma", "rwkv", "xlstm", "zamba",
    "zamba2",
))
# fmt: on
#: The bounds that were asked for last, and what they said.
_read: tuple[torch.Tensor, list[int]] | None = None


def use(model: Any) -> bool:
    """Let a model attend so, where it can; whether it does.

    A model that does not hand the rows' lengths on to its layers is left as it is, and so is one whose layers carry
    something from token to token (recurrent and chunked ones).
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    chunked = getattr(config, "attention_chunk_size", None)
    if config._attn_implementation != USUAL or not kinds <= KINDS or chunked:
        return False
    AttentionInterface.register(NAME, attend)  # set_attn_implementation wants to know it
    AttentionMaskInterface.register(NAME, mask)
    model.set_attn_implementation(NAME)
    if _hands_on(model):
        return True
    model.set_attn_implementation(USUAL)
    log.info("This model's layers are not told where a packed row ends: its own attention is used.")
    return False


def keeps_rows_apart(model: Any, *, sharded: bool = False) -> bool:
    """Whether no token of a row hangs on the row that it is packed behind.

    Falcon, MPT and gpt-oss make their masks without looking where rows begin, and layers that carry something from
    token to token need kernels of their own to stop there. A row is computed behind two others, and has to come out as
    the same.

    :param sharded: the model's weights are not here in one piece, so its type is looked up instead.
    """
    if sharded:
        return model.config.get_text_config().model_type not in ACROSS
    generator = torch.Generator().manual_seed(0)
    words = model.config.get_text_config().vocab_size
    firsts = torch.randint(0, words, (2, TRIED), generator=generator)
    last = torch.randint(0, words, (TRIED,), generator=generator)
    places = torch.arange(TRIED).repeat(2)[None].to(model.device)
    bounds = torch.tensor([0, TRIED, 2 * TRIED], dtype=torch.int32, device=model.device)
    found = []
    try:
        with evaluating(model):
            for first in firsts:
                ids = torch.cat([first, last])[None].to(model.device)
                made = model(input_ids=ids, position_ids=places, use_cache=False, cu_seq_lens_q=bounds).logits
                found.append(made[0, TRIED:].float())
    except ValueError as error:  # Qwen3-Next and its like say so themselves
        log.debug("%s", error)
        return False
    return bool((found[0] - found[1]).norm() <= ROUNDING * found[0].norm())


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' `sdpa`, row by row where there is no mask and the rows' bounds are told.

    :param query: batch x heads x tokens x size, and so `key` and `value`.
    :param kwargs: `cu_seq_lens_q`, the places in the sequence where rows begin, and its end.
    :returns: batch x tokens x heads x size.
    """
    bounds = kwargs.pop("cu_seq_lens_q", None)
    if attention_mask is not None or query.shape[0] != 1:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return found
    lengths = [query.shape[2]] if bounds is None else _lengths(bounds)
    if short.serves(module, query, lengths, kwargs):
        return short.attend(query, key, value, lengths, kwargs.get("scaling")), None
    rows = [one.split(lengths, dim=2) for one in (query, key, value)]  # one gradient each, not one a row
    window = kwargs.get("sliding_window")
    answers = [
        sdpa_attention_forward(module, *row, _window(length, window, query.device), **kwargs)[0]
        for length, *row in zip(lengths, *rows, strict=True)
    ]
    return torch.cat(answers, dim=1), None


def _lengths(bounds: torch.Tensor) -> list[int]:
    """The rows' lengths, read from a GPU once a step: all layers are given the same tensor."""
    global _read
    if _read is None or _read[0] is not bounds:
        _read = bounds, bounds.diff().tolist()
    return _read[1]


def mask(batch_size: int, *args: Any, attention_mask: Any = None, **kwargs: Any) -> torch.Tensor | None:
    """The mask of padded rows; packed ones, which have no padding, need none."""
    if batch_size == 1 and attention_mask is None:
        return None
    made: torch.Tensor | None = sdpa_mask(batch_size, *args, attention_mask=attention_mask, **kwargs)
    return made


def _window(length: int, window: int | None, device: Any) -> torch.Tensor | None:
    """The mask of a row that is longer than the layer looks back, None for the usual causal one."""
    if not window or length <= window:
        return None
    places = torch.arange(length, device=device)
    back = places[:, None] - places[None, :]
    return ((back >= 0) & (back < window))[None, None]


def _hands_on(model: Any) -> bool:
    """Whether all of the model's layers are told where rows end, by a pass over two rows of one token."""
    told: list[bool] = []

    def probe(module: torch.nn.Module, *states: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        told.append(kwargs.get("cu_seq_lens_q") is not None)
        return attend(module, *states, **kwargs)

    ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    bounds = torch.tensor([0, 1, 2], dtype=torch.int32, device=model.device)
    AttentionInterface.register(NAME, probe)
    try:
        with torch.no_grad():
            model(input_ids=ids, position_ids=torch.zeros_like(ids), use_cache=False, cu_seq_lens_q=bounds)
    finally:
        AttentionInterface.register(NAME, attend)
    return bool(told) and all(told)
