"""Begins an adapter with values from the base model's weights, and publishes the difference to that (PiSSA, LoftQ).

The first values are kept on the volume once for each training: all its processes and all its attempts begin with them,
on whatever machine, and what is published is the difference to the very beginning that was trained from. They are
never published themselves. The sources of the formulas are in include.contracts.weight_init.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import transpose
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from include.contracts import weight_init
from include.workloads import contract
from include.workloads.contract import TryAgain, UserConfigError
from include.workloads.tuning.targets import adapted_layers

log = logging.getLogger("workload")

FOLDER, MARK = "beginning", "of.json"
#: What rounding to 4 bits changes of a weight is a tenth; what is further off is another layer's weight.
_ROUNDED = 0.3
#: What a number format of 16 bits changes of a weight is less.
_FORMAT = 0.02
WAIT_SECONDS = 0.5


class Beginning:
    """How the adapter of one training begins.

    :param folder: where its first values are kept, of the training's output.
    :param identity: of the training, as its checkpoints have it.
    :param lora: the recipe's LoraConfig.
    :param weights: the base model's files, where the weights are that a quantised model has no more; None where the
        model has them itself.
    :param rounding: what `Params4bit` is told, of a model in 4 bits.
    """

    def __init__(
        self,
        output: Path,
        identity: str,
        lora: Mapping[str, Any],
        weights: Path | None = None,
        rounding: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self._identity = output / FOLDER, identity
        self._lora, self._init = lora, weight_init.asked(lora)
        self._weights, self._rounding = weights, rounding or {}

    @property
    def asked(self) -> bool:
        """Whether the adapter begins with such values at all."""
        return bool(self._init)

    def settle(self, model: Any, seed: int, rank: int = 0, processes: int = 1) -> None:
        """Give an untrained adapter its first values, and take them out of the base weights where PiSSA says so.

        The processes share the layers, and each layer is kept as soon as it is computed: of a large model all of them
        take longer than processes wait for each other, and than a spot machine may live.

        :param model: the PeftModel before its first step, in all processes.
        :param seed: of the randomised decomposition.
        :param rank: of this process; the first puts together what all have computed.
        :raises UserConfigError: a layer's weights cannot be found, or it has none to decompose.
        :raises TryAgain: after SIGTERM.
        """
        if not self.asked:
            return
        layers = adapted_layers(model, self._lora)
        if not self._is_kept():
            for index, (name, layer) in enumerate(layers):
                if index % processes == rank and not self._part(index).exists():
                    self._stop_if_asked(index, len(layers))
                    self._keep_part(index, name, layer, seed + index)
            if rank == 0:
                self._put_together(model, layers)
        while not self._is_kept():
            self._stop_if_asked(len(layers), len(layers))
            time.sleep(WAIT_SECONDS)
        self._read(model)
        if self._init in weight_init.PISSA:
            for name, layer in layers:
                self._take_out(name, layer)

    def difference(self, trained: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What is published: B A - B0 A0 as one product, [B, -B0] [A; A0], of twice the rank.

        With rsLoRA a product of twice the rank is scaled by the root of a half less, so B is made as much larger.
        """
        first = load_file(self.folder / "adapter_model.safetensors")
        root = math.sqrt(0.5) if self._lora.get("use_rslora") else 1.0
        return {
            name: torch.cat([one, first[name]], dim=0).contiguous()
            if "lora_A" in name
            else (torch.cat([one, -first[name]], dim=1) * root).contiguous()
            for name, one in trained.items()
        }

    @staticmethod
    def converted(config: Mapping[str, Any]) -> dict[str, Any]:
        """The adapter_config.json of the difference: twice the rank and twice alpha, which is the same scale."""
        twice = {key: 2 * config[key] for key in ("r", "lora_alpha")}
        twice |= {
            key: {layer: 2 * value for layer, value in config[key].items()}
            for key in ("rank_pattern", "alpha_pattern")
            if config.get(key)
        }
        return {**config, **twice}

    def _is_kept(self) -> bool:
        try:
            return bool(json.loads((self.folder / MARK).read_text())["identity"] == self._identity)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _read(self, model: Any) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(self.folder / "adapter_model.safetensors"))

    def _part(self, index: int) -> Path:
        """The file of one layer's values. Those of another training, whose identity differs, are none of these."""
        return self.folder.with_name(f"{FOLDER}.parts") / self._identity[:32] / f"{index}.safetensors"

    def _stop_if_asked(self, done: int, layers: int) -> None:
        if contract.stop_requested():
            raise TryAgain(f"Stopped while the adapter was begun, after {done} of {layers} layers.")
        if done % 20 == 0 and done < layers:
            log.info("The adapter's first values (%s): %d of %d layers.", self._init, done, layers)

    def _keep_part(self, index: int, name: str, layer: Any, seed: int) -> None:
        now = _as_it_is(layer)
        original = self._original(name, now)
        a, b = (layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data)
        if self._init != weight_init.LOFTQ or _is_rounded(original, now):
            what = original if self._init in weight_init.PISSA else original - now
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                found = _decomposed(what, layer.r["default"], self._init)
            a, b = (one / math.sqrt(layer.scaling["default"]) for one in found)
        path = self._part(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"a": a.contiguous(), "b": b.contiguous()}, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)

    def _put_together(self, model: Any, layers: list[tuple[str, Any]]) -> None:
        """The whole beginning, from the parts of all processes."""
        for index, (_, layer) in enumerate(layers):
            while not self._part(index).exists():
                self._stop_if_asked(len(layers), len(layers))
                time.sleep(WAIT_SECONDS)
            found = load_file(self._part(index))
            layer.lora_A["default"].weight.data.copy_(found["a"])
            layer.lora_B["default"].weight.data.copy_(found["b"])
        shutil.rmtree(self.folder, ignore_errors=True)
        model.save_pretrained(self.folder, save_embedding_layers=False)
        contract.atomic_write(self.folder / MARK, json.dumps({"identity": self._identity}).encode())
        shutil.rmtree(self._part(0).parents[1], ignore_errors=True)

    def _take_out(self, name: str, layer: Any) -> None:
        """PiSSA: the base weight is what the adapter has not; a quantised one is rounded anew."""
        a, b = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
        now = _as_it_is(layer)
        original = self._original(name, now)
        rest = original - layer.scaling["default"] * (b @ a)
        base = layer.get_base_layer()
        if not _is_rounded(original, now):
            base.weight.data = transpose(rest, layer.fan_in_fan_out).to(base.weight.dtype).contiguous()
            return
        from bitsandbytes.functional import dequantize_4bit
        from bitsandbytes.nn import Params4bit

        before = getattr(base.weight, "quant_state", base.weight)  # who knows the number format
        rounded = Params4bit(rest.to(before.dtype).cpu(), requires_grad=False, **self._rounding).to(
            rest.device
        )
        if isinstance(base.weight, Params4bit):
            base.weight = rounded
            base.quant_state = rounded.quant_state
        else:  # kept decoded, on a CPU
            base.weight.data = dequantize_4bit(rounded.data, rounded.quant_state).to(base.weight.dtype)

    @cached_property
    def _files(self) -> dict[str, Path]:
        """The base model's files by what they hold."""
        found: dict[str, Path] = {}
        for path in sorted(self._weights.glob("*.safetensors")) if self._weights else ():
            with safe_open(path, framework="pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        return found

    def _original(self, name: str, now: torch.Tensor) -> torch.Tensor:
        """A layer's weight as the model was published, out x in, float32; `now` is what it computes with."""
        if self._weights is None:
            return now
        found = [one.to(now.device) for one in _stored(self._files, name)]
        found = [turned for one in found for turned in (one, one.T) if turned.shape == now.shape]
        off = [_distance(one, now) for one in found]
        if not off or min(off) > _ROUNDED:
            raise UserConfigError(
                f"LoraConfig.init_lora_weights is {self._init}, which needs the weights of {name} as they were before "
                "the rounding, and no file of the model has them under that name: leave it out, or use method: lora."
            )
        return found[off.index(min(off))]


def _as_it_is(layer: Any) -> torch.Tensor:
    """The weight that a layer computes with, decoded, out x in, float32."""
    weight = dequantize_module_weight(layer.get_base_layer()).detach().float()
    found: torch.Tensor = transpose(weight, layer.fan_in_fan_out)
    return found


def _distance(original: torch.Tensor, now: torch.Tensor) -> float:
    return float((original - now).norm() / original.norm())


def _is_rounded(original: torch.Tensor, now: torch.Tensor) -> bool:
    """Whether a layer is in 4 bits: of a quantised model, the output head and some others stay as they are."""
    return _distance(original, now) > _FORMAT


def _decomposed(weight: torch.Tensor, rank: int, init: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors A (rank x in) and B (out x rank) of a weight's largest components, sqrt(S) in each."""
    if "_niter_" in init:
        least = min(rank, *weight.shape)
        u, s, v = torch.svd_lowrank(weight, least, niter=int(init.rpartition("_")[2]))
        vh = v.T
    else:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    root = s[:rank].sqrt()
    a, b = root[:, None] * vh[:rank], u[:, :rank] * root
    missing = rank - len(root)  # of a layer that is smaller than the rank
    return torch.nn.functional.pad(a, (0, 0, 0, missing)), torch.nn.functional.pad(b, (0, missing))


def _stored(files: Mapping[str, Path], name: str) -> Iterator[torch.Tensor]:
    """What the model's files have for a layer, float32: files may name its parents otherwise than the model does."""
    tail = name[name.find("layers.") :] if "layers." in name else name
    for key, path in files.items():
        if f".{key}".endswith(f".{tail}.weight"):
            with safe_open(path, framework="pt") as file:
                yield file.get_tensor(key).float()
