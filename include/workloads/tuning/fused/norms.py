"""Root-mean-square norms on a processor: forward and backward in few passes over what is normed.

Written out in PyTorch's operations, as models have them, a norm keeps three copies in float32 and passes over them
some twenty times; here its input is kept as it came, with one number a token. The weights are frozen.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable

log = logging.getLogger("workload")


class Norm(torch.autograd.Function):  # type: ignore[misc]
    """w x / sqrt(mean(x^2) + e); with u for the quotient, the gradient is (w g - u mean(w g u)) / sqrt(...)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """
        :param x: ... x width.
        :param weight: width.
        :returns: as x; what is weighed is rounded to x's number format first, as transformers does.
        """
        wide = x.float()
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = torch.rsqrt(size.square_().div_(x.shape[-1]).add_(epsilon))
        ctx.save_for_backward(x, weight, inverse)
        wide = wide.mul_(inverse) if wide is not x else wide * inverse
        return weight * wide.to(x.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, above: torch.Tensor) -> tuple[Any, ...]:
        x, weight, inverse = ctx.saved_tensors
        gradient = (above * weight).float()
        unit = x.float() * inverse
        mean = torch.linalg.vecdot(gradient, unit, dim=-1).div_(x.shape[-1]).unsqueeze_(-1)
        return gradient.addcmul_(unit, mean, value=-1).mul_(inverse).to(x.dtype), None, None


TOKENS = 9  # that both are tried with


def use(model: Any) -> int:
    """Let the model's norms compute so, where that gives what they give; how many do."""
    return sum(_install(module) for module in model.modules() if type(module).__name__.endswith("RMSNorm"))


def _install(module: Any) -> bool:
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if weight is None or epsilon is None or weight.requires_grad or len(list(module.parameters())) != 1:
        return False
    generator = torch.Generator().manual_seed(0)
    tried = torch.randn(1, TOKENS, len(weight), generator=generator).to(weight.dtype)
    with torch.no_grad():
        right, found = module(tried), Norm.apply(tried, weight, epsilon)
    if right.dtype != found.dtype or not torch.allclose(right, found, rtol=0.01, atol=1e-6):
        log.debug("%s is computed as it is.", type(module).__name__)
        return False
    module.forward = partial(_forward, weight, epsilon)
    return True


def _forward(weight: torch.Tensor, epsilon: float, hidden_states: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = Norm.apply(hidden_states, weight, epsilon)
    return found
