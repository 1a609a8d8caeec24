"""A model's attention, gated layers and norms in fewer steps, for a processor: the same numbers but for rounding.

A small model's token is made in a thousand short steps, and calling them takes as long as computing them. What is
replaced keeps its children's names, so that adapters find their layers. Each replacement is run beside what it stands
for before it is used; one that gives anything else is left out.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from include.workloads.serving.packed import PackedLinear, PackedPart, Parts, can_pack

log = logging.getLogger("workload")

QKV = ("q_proj", "k_proj", "v_proj")
LIKENESS = 0.9999  # cosine of outputs that are the same but for rounding to bfloat16
SIZE = 0.001  # by which their lengths may differ
TOKENS = 9  # that both are tried with


class FusedAttention(nn.Module):  # type: ignore[misc]
    """Attention with rotary positions and grouped heads, its three first products made as one."""

    def __init__(self, before: Any) -> None:
        super().__init__()
        products = [getattr(before, name) for name in QKV]
        self._joint = Parts(products)
        for place, name in enumerate(QKV):
            setattr(self, name, PackedPart(self._joint, place, products[place]))
        self.o_proj = PackedLinear(before.o_proj)
        self.layer_idx, self.scaling, self._size = before.layer_idx, before.scaling, before.head_dim
        queries, keys, _ = (product.out_features // self._size for product in products)
        self._queries, self._keys, self._group = queries, keys, queries // keys

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Any = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        """As transformers' attention modules: (rows, tokens, width) to the same."""
        rows, tokens, _ = hidden_states.shape
        if type(self.q_proj) is type(self.k_proj) is type(self.v_proj) is PackedPart:
            made = self._joint.whole(hidden_states)
        else:
            made = torch.cat([getattr(self, name)(hidden_states) for name in QKV], -1)
        heads = made.view(rows, tokens, -1, self._size)
        turned = _turned(heads[:, :, : self._queries + self._keys], *position_embeddings)
        query = turned[:, :, : self._queries].transpose(1, 2)
        key = turned[:, :, self._queries :].transpose(1, 2)
        value = heads[:, :, self._queries + self._keys :].transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if tokens == 1:
            query = query.reshape(rows, self._keys, self._group, self._size)
        elif self._group > 1:
            key, value = (states.repeat_interleave(self._group, 1) for states in (key, value))
        found = scaled_dot_product_attention(
            query,
            key,
            value,
            attention_mask,
            is_causal=attention_mask is None and tokens > 1,
            scale=self.scaling,
        )
        if tokens > 1:
            found = found.transpose(1, 2)
        return self.o_proj(found.reshape(rows, tokens, -1)), None


def _turned(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on (rows, tokens, heads, size), by the halves of each head."""
    first, second = heads.chunk(2, -1)
    return heads * cos[:, :, None] + torch.cat((-second, first), -1) * sin[:, :, None]


class FusedNorm(nn.Module):  # type: ignore[misc]
    """torch's own root-mean-square norm; its weights come after it, as transformers rounds between the two."""

    def __init__(self, before: Any) -> None:
        super().__init__()
        self.weight, self._shape = before.weight, tuple(before.weight.shape)
        self._epsilon = before.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * rms_norm(x, self._shape, None, self._epsilon)


def fuse(model: Any) -> dict[tuple[nn.Module, str], nn.Module]:
    """Replace what can be; returns what stood where, for `packed.put_back`."""
    before: dict[tuple[nn.Module, str], nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if (new := _replacement(model, child)) is not None:
                before[parent, name] = child
                setattr(parent, name, new)
    return before


def _replacement(model: Any, child: Any) -> nn.Module | None:
    """What stands for a layer from now on; None where nothing gives what it gives."""
    children = {name for name, _ in child.named_children()}
    try:
        if children == {*QKV, "o_proj"} and model.config._attn_implementation == "sdpa" and can_pack(child):
            return _alike(child, FusedAttention(child), _attended(model, child))
        if not children and type(child).__name__.endswith("RMSNorm"):
            return _alike(child, FusedNorm(child), {"hidden_states": _random(len(child.weight))})
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        log.debug("%s is run as it is: %s", type(child).__name__, error)
    return None


def _alike(before: nn.Module, new: nn.Module, asked: dict[str, Any]) -> nn.Module | None:
    with torch.inference_mode():
        right, found = before(**asked), new(*asked.values())
    right, found = (one[0] if isinstance(one, tuple) else one for one in (right, found))
    likeness = torch.nn.functional.cosine_similarity(found.float(), right.float(), dim=-1)
    size = found.float().norm() / right.float().norm()
    return new if likeness.min() > LIKENESS and abs(size - 1) < SIZE else None


def _random(width: int) -> torch.Tensor:
    return torch.randn(1, TOKENS, width, generator=torch.Generator().manual_seed(0)).bfloat16()


def _attended(model: Any, attention: Any) -> dict[str, Any]:
    """Tokens from the hundredth on, each of which sees those before it."""
    states = _random(attention.q_proj.in_features)
    rotary = next(one for name, one in model.named_modules() if name.endswith("rotary_emb"))
    seen = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    return {
        "hidden_states": states,
        "position_embeddings": rotary(states, torch.arange(100, 100 + TOKENS)[None]),
        "attention_mask": torch.zeros(seen.shape, dtype=states.dtype).masked_fill(~seen, -torch.inf)[
            None, None
        ],
    }
