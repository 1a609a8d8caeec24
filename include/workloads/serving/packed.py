"""Linear layers in the order that a processor's matrix units read: bfloat16 weights, laid out once at the start.

torch lays them out anew at each product otherwise. The layout is oneDNN's own, reached by the calls that torch's
compiler writes; torch's version is pinned, and the engine compares the model's scores before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class PackedLinear(nn.Linear):  # type: ignore[misc]
    """A linear layer that holds its weights in oneDNN's layout; who looks at `weight` finds its format only."""

    def __init__(self, plain: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self._packed = torch.ops.mkldnn._reorder_linear_weight(plain.weight.data, None)
        self.bias = plain.bias
        self.weight = nn.Parameter(plain.weight.data.new_empty(0), requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(
            input.to(self.weight.dtype), self._packed, self.bias, "none", [], ""
        )

    def dense(self) -> torch.Tensor:
        """The weight as it was, out x in: what the layer makes of the unit vectors."""
        units = torch.eye(self.in_features, dtype=self.weight.dtype)
        return torch.ops.mkldnn._linear_pointwise(units, self._packed, None, "none", [], "").T


class Parts:
    """Products of the same input, made as one; each part's layer takes its own."""

    def __init__(self, products: Sequence[nn.Linear]) -> None:
        """Raises ValueError where some have a bias and some have none."""
        biases = [product.bias for product in products if product.bias is not None]
        if biases and len(biases) < len(products):
            raise ValueError("some of these layers have a bias and some have none")
        joint = nn.Linear(1, 1, bias=False)
        joint.weight = nn.Parameter(torch.cat([product.weight.data for product in products]), False)
        joint.bias = nn.Parameter(torch.cat([bias.data for bias in biases]), False) if biases else None
        joint.out_features, joint.in_features = joint.weight.shape
        self.whole = PackedLinear(joint)
        self._sizes = [product.out_features for product in products]
        self.biases = biases and joint.bias.split(self._sizes)
        self._input: torch.Tensor | None = None
        self._made: tuple[torch.Tensor, ...] = ()

    def part(self, input: torch.Tensor, place: int) -> torch.Tensor:
        """One of them: all are made when the first is asked of an input, and kept until the last is."""
        if input is not self._input:
            self._input, self._made = input, self.whole(input).split(self._sizes, -1)
        found = self._made[place]
        if place == len(self._sizes) - 1:
            self._input, self._made = None, ()
        return found

    def dense(self, place: int) -> torch.Tensor:
        """The weight of one of them, out x in."""
        return self.whole.dense().split(self._sizes)[place]


class PackedPart(nn.Linear):  # type: ignore[misc]
    """A linear layer that is one of several parts of a joint product."""

    def __init__(self, parts: Parts, place: int, plain: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self._parts, self._place = parts, place
        self.bias = None  # the joint product adds it
        self.added = parts.biases[place] if parts.biases else None
        self.weight = nn.Parameter(plain.weight.data.new_empty(0), requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._parts.part(input, self._place)

    def dense(self) -> torch.Tensor:
        """Its rows of the joint weight, out x in."""
        return self._parts.dense(self._place)


def can_be_packed(model: nn.Module) -> bool:
    """Whether this model's layers gain: bfloat16 on a processor whose oneDNN has units for it."""
    first = next(model.parameters(), None)
    return (
        first is not None
        and first.device.type == "cpu"
        and first.dtype == torch.bfloat16
        and bool(torch.backends.mkldnn.is_available())
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def can_pack(parent: nn.Module) -> bool:
    """Whether all linear layers right below this one are plain ones that `PackedLinear` can stand for."""
    return all(_plain(child) for child in parent.children() if isinstance(child, nn.Linear))


def _plain(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16


def pack(model: nn.Module) -> dict[tuple[nn.Module, str], nn.Module]:
    """Replace the model's plain linear layers; returns what stood where, for `put_back`."""
    before: dict[tuple[nn.Module, str], nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if _plain(child):
                before[parent, name] = child
                setattr(parent, name, PackedLinear(child))
    return before


def put_back(before: dict[tuple[nn.Module, str], Any]) -> None:
    """Undo `pack`."""
    for (parent, name), child in before.items():
        setattr(parent, name, child)
