"""LoRA's products on a processor: those of one input made together, in the base weights' number format.

PEFT computes each layer's adapter by itself and in float32: the input is converted for every layer, and the result is
converted, scaled and added in passes of its own. On two cores with avx512_bf16 these passes took longer than the base
model's own products. Here the adapters' first factors of q, k and v (and of gate and up) are one product, the second
factors are added where the result lies, and the gradients of their input are summed as they are made. The masters of
the factors stay in float32, and their gradients arrive there; what is rounded is what autocast rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

#: Layers of one parent that are given the same input.
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class Products(torch.autograd.Function):  # type: ignore[misc]
    """x W^T + b + s (x A^T) B^T of each of several layers with the same input.

    With dropout the adapter's input is m x / (1 - p), of a mask m for each layer. Gradients are those of x and of each
    A and B: dB = s dy^T (x A^T), dA = (s dy B)^T x, and dx is the sum of dy W + (s dy B) A.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weights: Sequence[torch.Tensor],
        biases: Sequence[torch.Tensor | None],
        scales: Sequence[float],
        masks: Sequence[torch.Tensor],
        *factors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """
        :param x: ... x in, of the weights' number format.
        :param weights: of each layer, out x in.
        :param biases: of each layer, out.
        :param scales: of each layer, `lora_alpha` over the rank, and 1 / (1 - p) with dropout.
        :param masks: of each layer, of x's shape; empty without dropout.
        :param factors: A (rank x in) and B (out x rank) of the first layer, of the second and so on, in float32.
        :returns: of each layer, ... x out.
        """
        rows = x.reshape(-1, x.shape[-1])
        downs = [factor.to(x.dtype) for factor in factors[::2]]
        ups = [(factor * scale).to(x.dtype) for factor, scale in zip(factors[1::2], scales, strict=True)]
        if masks:
            inner = [(rows * mask) @ down.T for mask, down in zip(masks, downs, strict=True)]
        else:
            inner = list((rows @ torch.cat(downs).T).split([len(down) for down in downs], 1))
        found = [nn.functional.linear(x, *layer) for layer in zip(weights, biases, strict=True)]
        for one, states, up in zip(found, inner, ups, strict=True):
            one.view(len(rows), len(up)).addmm_(states, up.T)
        ctx.save_for_backward(rows, *inner, *weights, *downs, *ups, *masks)
        ctx.scales, ctx.shape = scales, x.shape
        return tuple(found)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[Any, ...]:
        rows, *others = ctx.saved_tensors
        count = len(ctx.scales)
        inner, weights, downs, ups, masks = (
            others[place * count : (place + 1) * count] for place in range(5)
        )
        told = [one.reshape(len(rows), one.shape[-1]) for one in above]
        second = [
            (one.T @ states).float() * scale
            for one, states, scale in zip(told, inner, ctx.scales, strict=True)
        ]
        below = torch.cat([one @ up for one, up in zip(told, ups, strict=True)], 1)
        each = below.split([len(down) for down in downs], 1)
        if masks:
            first = [part.T @ (rows * mask) for part, mask in zip(each, masks, strict=True)]
        else:
            first = list((below.T @ rows).split([len(down) for down in downs]))
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = told[0] @ weights[0]
            for one, weight in zip(told[1:], weights[1:], strict=True):
                gradient.addmm_(one, weight)
            if masks:
                for part, down, mask in zip(each, downs, masks, strict=True):
                    gradient.addcmul_(part @ down, mask.to(gradient.dtype))
            else:
                gradient.addmm_(below, torch.cat(downs))
            gradient = gradient.view(ctx.shape)
        pairs = [one for pair in zip(first, second, strict=True) for one in (pair[0].float(), pair[1])]
        return gradient, None, None, None, None, *pairs


class Together:
    """Layers that are given the same input; all are computed when the first of them is asked."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        bases = [layer.get_base_layer() for layer in layers]
        self.adapter = layers[0].active_adapters[0]
        self._weights = [base.weight for base in bases]
        self._biases = [base.bias for base in bases]
        self._input: torch.Tensor | None = None
        self._made: dict[int, torch.Tensor] = {}

    def part(self, place: int, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What one of the layers makes of x."""
        layer = self.layers[place]
        if args or kwargs or not self.serves():
            found: torch.Tensor = type(layer).forward(layer, x, *args, **kwargs)
            return found
        if x is not self._input or place not in self._made:
            self._input, self._made = x, dict(enumerate(self.all_of(x)))
        made = self._made.pop(place)
        if not self._made:
            self._input = None
        return made

    def serves(self) -> bool:
        """Whether the layers are in the state that they were found in: one adapter, which is on."""
        return not any(
            layer.disable_adapters or layer.merged or layer.active_adapters != [self.adapter]
            for layer in self.layers
        )

    def all_of(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What each of them makes of x."""
        x = x.to(self._weights[0].dtype)
        chances = [getattr(layer.lora_dropout[self.adapter], "p", 0.0) for layer in self.layers]
        dropped = any(chances) and self.layers[0].training
        scales = [layer.scaling[self.adapter] for layer in self.layers]
        masks: list[torch.Tensor] = []
        if dropped:
            rows = x.numel() // x.shape[-1]
            masks = [torch.rand(rows, x.shape[-1]) >= chance for chance in chances]
            scales = [scale / (1 - chance) for scale, chance in zip(scales, chances, strict=True)]
        factors = [
            factor.weight
            for layer in self.layers
            for factor in (layer.lora_A[self.adapter], layer.lora_B[self.adapter])
        ]
        made: tuple[torch.Tensor, ...] = Products.apply(
            x, self._weights, self._biases, scales, masks, *factors
        )
        return made


def use(model: Any) -> int:
    """Let the model's LoRA layers compute so, where they are of the plain kind; how many do."""
    found: list[Together] = []
    for parent in model.modules():
        children = {name: child for name, child in parent.named_children() if _plain(child)}
        for names in TOGETHER:
            if set(names) <= set(children) and _fit([children[name] for name in names]):
                found.append(Together([children.pop(name) for name in names]))
        found += [Together([child]) for child in children.values()]
    for together in found:
        for place, layer in enumerate(together.layers):
            layer.forward = partial(together.part, place)
    return sum(len(together.layers) for together in found)


def _plain(layer: Any) -> bool:
    """Whether this is a layer with one LoRA, over frozen weights that are neither rounded nor sharded."""
    from peft.tuners.lora import Linear

    if type(layer) is not Linear or type(layer.get_base_layer()) is not nn.Linear:
        return False
    base, names = layer.get_base_layer(), layer.active_adapters
    if len(names) != 1 or layer.merged or layer.lora_variant or layer.lora_bias.get(names[0]):
        return False
    frozen = not any(one.requires_grad for one in base.parameters())
    return frozen and base.weight.device.type == "cpu" and base.weight.dtype.is_floating_point


def _fit(layers: Sequence[Any]) -> bool:
    bases = [layer.get_base_layer() for layer in layers]
    return (
        len({(base.in_features, base.weight.dtype) for base in bases}) == 1
        and len({layer.active_adapters[0] for layer in layers}) == 1
    )
