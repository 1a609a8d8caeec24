"""DoRA adapters (arXiv 2402.09353) for inference: a plain LoRA, and one factor for each output of a layer.

A trained layer is W' = m / |W + s B A| * (W + s B A), the norm over each row of out x in. Neither m nor the norm
changes any more, so their quotient g is computed once: W' x = g * (W x + s B A x). That also lets adapters of
both kinds share a batch, which PEFT's own layer refuses. With a strength k it is W + k (W' - W), of the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import transpose
from torch import nn

from include.workloads.serving.packed import PackedLinear, PackedPart

MAGNITUDE = "lora_magnitude_vector"


def load(model: Any, name: str, folder: Path, strength: float, gains: Gains) -> Any:
    """The PeftModel with this adapter as a LoRA, its factors in `gains`.

    :param model: the base model, or a PeftModel with other adapters.
    :raises ValueError: the adapter does not fit; RuntimeError where PEFT finds other shapes.
    """
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    magnitudes = {
        key.removesuffix(".weight").removesuffix(f".{MAGNITUDE}"): weights.pop(key).reshape(-1).float()
        for key in list(weights)
        if MAGNITUDE in key
    }
    config = LoraConfig.from_pretrained(folder)
    config.use_dora, config.inference_mode = False, True
    if isinstance(model, PeftModel):
        model.add_adapter(name, config, autocast_adapter_dtype=False)
        made = model
    else:
        made = PeftModel(model, config, adapter_name=name, autocast_adapter_dtype=False)
    set_peft_model_state_dict(made, weights, adapter_name=name)
    gains.add(made, name, magnitudes, strength)
    return made


class Gains:
    """The factors of a model's layers by adapter; `now` says the adapter of each row, or the one of all rows."""

    def __init__(self, now: Callable[[], Sequence[str | None]]) -> None:
        self._now = now
        self._of: dict[nn.Module, dict[str, torch.Tensor]] = {}

    def add(self, model: Any, name: str, magnitudes: Mapping[str, torch.Tensor], strength: float) -> None:
        """Compute an adapter's factors.

        :param magnitudes: of its layers, by their names in the PeftModel.
        :raises ValueError: a layer has none.
        """
        from peft.tuners.lora import LoraLayer

        layers = {
            at: layer
            for at, layer in model.named_modules()
            if isinstance(layer, LoraLayer) and name in layer.lora_A
        }
        if layers.keys() != magnitudes.keys():
            differ = sorted(layers.keys() ^ magnitudes.keys())
            raise ValueError(f"{len(differ)} of its layers have no {MAGNITUDE}, or that alone: {differ[0]}")
        for at, layer in layers.items():
            self._add(layer, name, magnitudes[at], strength)

    def _add(self, layer: Any, name: str, magnitude: torch.Tensor, strength: float) -> None:
        a, b = layer.lora_A[name].weight.data, layer.lora_B[name].weight.data
        base = transpose(dense(layer.get_base_layer()).float().to(b.device), layer.fan_in_fan_out)
        if len(magnitude) != len(b):
            raise ValueError(f"{MAGNITUDE} has {len(magnitude)} values for {len(b)} outputs")
        norm = torch.linalg.norm(base + layer.scaling[name] * (b.float() @ a.float()), dim=1)
        whole = magnitude.to(b.device) / norm
        gain = 1 + strength * (whole - 1)
        layer.lora_B[name].weight.data = ((strength * whole / gain)[:, None] * b.float()).to(b.dtype)
        if layer not in self._of:
            layer.register_forward_hook(self._apply)
        self._of.setdefault(layer, {})[name] = gain

    def remove(self, name: str) -> None:
        """Forget an adapter's factors."""
        for found in self._of.values():
            found.pop(name, None)

    def _apply(self, layer: Any, _: Any, result: torch.Tensor) -> torch.Tensor:
        found, rows = self._of[layer], self._now()
        if not any(name in found for name in rows):
            return result
        one = torch.ones(result.shape[-1], device=result.device)
        gains = [found.get(str(name), one) for name in rows]
        gain = (
            gains[0] if len(gains) == 1 else torch.stack(gains).view(len(gains), *[1] * (result.ndim - 2), -1)
        )
        bias = _bias(layer.get_base_layer())
        made = result * gain if bias is None else (result - bias) * gain + bias
        return made.to(result.dtype)


def dense(layer: Any) -> torch.Tensor:
    """The weight of a linear layer, out x in, wherever it keeps it."""
    from peft.utils.integrations import dequantize_module_weight

    if isinstance(layer, PackedLinear | PackedPart):
        return layer.dense()
    found: torch.Tensor = dequantize_module_weight(layer).detach()
    return found


def _bias(layer: Any) -> torch.Tensor | None:
    found: torch.Tensor | None = layer.added if isinstance(layer, PackedPart) else layer.bias
    return found
