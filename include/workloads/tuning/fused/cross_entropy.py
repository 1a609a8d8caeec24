"""The loss of answers and its gradient in one pass, some tokens at a time.

The scores of a step of 1,500 answered tokens over 49,152 words are 300 MB in float32, and a usual cross-entropy writes
and reads them six times. Here those of some tokens at a time are made, and turned into the gradient of what the head
was given, before the next ones. It needs a head that is not trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

#: Scores that are made at once, for a product that is large enough, and that are worked on at once in float32, so
#: that they stay in the processor's cache.
SCORES, CACHED = 16 * 2**20, 2 * 2**20


class CrossEntropy(torch.autograd.Function):  # type: ignore[misc]
    """Sum over tokens of -log softmax(h W^T + b)[label]; the gradient of h is (softmax - one-hot) W."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> torch.Tensor:
        """
        :param hidden: tokens x width, of weight's number format.
        :param weight: words x width.
        :param labels: tokens, each a word.
        :returns: one number in float32.
        """
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float32)
        size = max(1, SCORES // len(weight))
        room = torch.empty(max(1, min(CACHED // len(weight), len(labels))), len(weight), dtype=torch.float32)
        for begin in range(0, len(labels), size):
            part = slice(begin, begin + size)
            scores = torch.nn.functional.linear(hidden[part], weight, bias)
            total += _loss_and_slope(scores, labels[part], room)
            if gradient is not None:
                torch.mm(scores, weight, out=gradient[part])
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return total

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, above: torch.Tensor) -> tuple[Any, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * above, None, None, None  # a number without dimensions: in float32, then rounded


def cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """The sum of the losses of tokens, as `CrossEntropy.forward` takes them."""
    found: torch.Tensor = CrossEntropy.apply(hidden.to(weight.dtype), weight, bias, labels)
    return found


def _loss_and_slope(scores: torch.Tensor, labels: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """The summed loss of scores (tokens x words), which become its slope: softmax less one at the label.

    :param room: some tokens x words in float32, to work in.
    """
    total = torch.zeros((), dtype=torch.float32)
    for begin in range(0, len(labels), len(room)):
        some, words = scores[begin : begin + len(room)], labels[begin : begin + len(room), None]
        wide = room[: len(some)].copy_(some)
        wide -= wide.amax(1, keepdim=True)
        total -= wide.gather(1, words).sum()
        sums = wide.exp_().sum(1, keepdim=True)
        total += sums.log().sum()
        wide /= sums
        some.copy_(wide.scatter_add_(1, words, torch.full_like(sums, -1.0)))
    return total
