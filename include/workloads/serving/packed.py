"""Linear layers in the order that a processor's matrix units read: bfloat16 weights, laid out once at the start.

torch lays them out anew at each product otherwise. The layout is oneDNN's own, reached by the calls that torch's
compiler writes; torch's version is pinned, and the engine compares the model's scores before and after.
"""

from __future__ import annotations

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


def pack(model: nn.Module) -> dict[tuple[nn.Module, str], nn.Module]:
    """Replace the model's plain linear layers; returns what stood where, for `put_back`."""
    before: dict[tuple[nn.Module, str], nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.dtype == torch.bfloat16:
                before[parent, name] = child
                setattr(parent, name, PackedLinear(child))
    return before


def put_back(before: dict[tuple[nn.Module, str], Any]) -> None:
    """Undo `pack`."""
    for (parent, name), child in before.items():
        setattr(parent, name, child)
