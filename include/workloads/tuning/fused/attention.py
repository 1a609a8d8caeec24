"""Causal attention of short rows on a processor, with its gradients, in bfloat16.

PyTorch's own is made for long rows: of 129 tokens its two passes took 2.5 ms, these 0.6 (9 heads, two cores with
avx512_bf16). This one keeps the probabilities, so it is for rows whose squares are small beside what else is kept.
Scores and their sums are float32; the probabilities are rounded to bfloat16 before they weigh the values, as there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

#: Tokens of a row up to which it is used: the probabilities of a head are 1 KiB a token then.
LONGEST = 512
#: What some layers ask for beside it.
UNKNOWN = ("dropout", "softcap", "s_aux", "position_bias")


class Rows(torch.autograd.Function):  # type: ignore[misc]
    """softmax(scale q k^T) v of each row, where no token sees a later one; query heads share key heads in groups."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: Sequence[int],
        scale: float,
    ) -> torch.Tensor:
        """
        :param query: heads x tokens x size; `key` and `value` have as many heads or fewer, of which each serves a
            group of query heads that follow one another; values may be of a size of their own.
        :param lengths: tokens of each row, of all tokens together.
        :param scale: of the scores, usually 1 / sqrt(size).
        :returns: tokens x heads x size of the values.
        """
        heads, tokens, size = query.shape
        few, width = len(key), value.shape[-1]
        found, seen = query.new_empty(tokens, heads, width), []
        for part, length in _parts(lengths):
            asked = query[:, part].reshape(few, -1, size).float() * scale
            scores = torch.bmm(asked, key[:, part].float().transpose(1, 2))
            scores.view(heads, length, length).add_(_later()[:length, :length])
            seen.append(scores.softmax(-1).to(value.dtype))
            found[part] = torch.bmm(seen[-1], value[:, part]).view(heads, length, width).transpose(0, 1)
        ctx.save_for_backward(query, key, value, found, *seen)
        ctx.lengths, ctx.scale = lengths, scale
        return found

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, above: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, found, *seen = ctx.saved_tensors
        heads, tokens, size = query.shape
        few = len(key)
        mean = (above.float() * found.float()).sum(-1).transpose(0, 1)
        below = [
            one.new_empty(tokens, len(one), one.shape[-1]).transpose(0, 1) for one in (query, key, value)
        ]
        for (part, length), chances in zip(_parts(ctx.lengths), seen, strict=True):
            told = above[part].transpose(0, 1).reshape(few, -1, value.shape[-1])
            towards = torch.bmm(told, value[:, part].transpose(1, 2)).float()
            towards -= mean[:, part].reshape(few, -1, 1)
            towards = towards.mul_(chances).mul_(ctx.scale).to(query.dtype)
            below[0][:, part] = torch.bmm(towards, key[:, part]).view(heads, length, size)
            below[1][:, part] = torch.bmm(towards.transpose(1, 2), query[:, part].reshape(few, -1, size))
            below[2][:, part] = torch.bmm(chances.transpose(1, 2), told)
        return (*below, None, None)


def serves(module: Any, query: torch.Tensor, lengths: Sequence[int], options: Mapping[str, Any]) -> bool:
    """Whether `attend` is the one to ask for these rows.

    :param query: batch x heads x tokens x size.
    :param options: what the attention's layer says beside its states.
    """
    window = options.get("sliding_window") or LONGEST
    short = query.shape[0] == 1 and max(lengths) <= min(LONGEST, window)
    ours = query.device.type == "cpu" and query.dtype == torch.bfloat16
    causal = options.get("is_causal", getattr(module, "is_causal", True)) is not False
    return short and ours and causal and all(_is_off(options.get(key)) for key in UNKNOWN)


def _is_off(option: Any) -> bool:
    return option is None or (isinstance(option, float | int) and not option)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: Sequence[int],
    scale: float | None,
) -> torch.Tensor:
    """Causal attention of each row by itself: 1 x heads x tokens x size each, to 1 x tokens x heads x values' size.

    :param scale: of the scores; None for 1 / sqrt(size).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    found: torch.Tensor = Rows.apply(query[0], key[0], value[0], lengths, scale)
    return found[None]


def _parts(lengths: Sequence[int]) -> Iterator[tuple[slice, int]]:
    begin = 0
    for length in lengths:
        yield slice(begin, begin + length), length
        begin += length


@lru_cache(maxsize=1)
def _later() -> torch.Tensor:
    """-inf where a token (across) is later than the one that asks (down)."""
    return torch.full((LONGEST, LONGEST), -torch.inf).triu_(1)
