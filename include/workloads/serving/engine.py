"""The model: base weights once, LoRA adapters beside it, one batch at a time (see generation.py for who calls).

Adapters stay apart from the base weights ("unmerged"): one copy of the base serves all of them, and switching costs
nothing and loses no precision.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, StoppingCriteria

from include.workloads.contract import UserConfigError
from include.workloads.hardware import Hardware, Precision
from include.workloads.serving.adapters import Adapter
from include.workloads.serving.generation import Request, arguments

log = logging.getLogger("workload")


class _Deliver(StoppingCriteria):  # type: ignore[misc]
    """Called by generate() after each token: hands it over, and says which rows are done."""

    def __init__(self, batch: Sequence[Request], stop_ids: frozenset[int]) -> None:
        self._batch, self._stop_ids = batch, stop_ids

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        for request, token in zip(self._batch, input_ids[:, -1].tolist(), strict=True):
            request.take(token, self._stop_ids)
        done = [request.finished for request in self._batch]
        return torch.tensor(done, device=input_ids.device, dtype=torch.bool)


class Engine:
    """A loaded model that answers batches of requests."""

    def __init__(
        self, weights: Path, adapters: Sequence[Adapter], hardware: Hardware, precision: Precision
    ) -> None:
        """Load; raises UserConfigError when weights or an adapter do not fit."""
        os.environ["HF_HUB_OFFLINE"] = "1"
        if not list(weights.glob("*.safetensors")):
            raise UserConfigError(
                f"{weights} holds no *.safetensors; weights in other formats are not loaded."
            )
        self.tokenizer = AutoTokenizer.from_pretrained(weights, local_files_only=True, padding_side="left")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(
            weights,
            dtype=getattr(torch, precision.dtype),
            device_map={"": 0} if hardware.gpus == 1 else "auto" if hardware.gpus > 1 else None,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="sdpa",
        )
        text = self.model.config.get_text_config()
        self.context = int(getattr(text, "max_position_embeddings", None) or 2048)
        self.stop_ids = _stop_ids(self.model.generation_config, self.tokenizer)
        self._has_adapters = bool(adapters)
        self._add_adapters(adapters)
        self.model.eval()

    def _add_adapters(self, adapters: Sequence[Adapter]) -> None:
        if not adapters:
            return
        from peft import PeftModel

        for adapter in adapters:
            try:
                if isinstance(self.model, PeftModel):
                    self.model.load_adapter(adapter.path, adapter_name=adapter.name)
                else:
                    self.model = PeftModel.from_pretrained(
                        self.model, adapter.path, adapter_name=adapter.name
                    )
            except (RuntimeError, ValueError, KeyError) as error:
                raise UserConfigError(
                    f"Adapter {adapter.name} does not fit this model"
                    f"{f' (it was made for {adapter.base_model})' if adapter.base_model else ''}: "
                    f"{str(error).strip().splitlines()[0]}"
                ) from error
            _scale(self.model, adapter)
            log.info("Adapter added: %s (rank %s, strength %g)", adapter.name, adapter.rank, adapter.strength)

    @staticmethod
    def seed(seed: int) -> None:
        """Begin the random numbers of sampling here; a request's own seed still counts for that request."""
        torch.manual_seed(seed)

    def decoder(self) -> Callable[[int], str]:
        """A new function from one token id to the text that it completes: "" inside a character, or a special token."""
        stream = DecodeStream(skip_special_tokens=True)
        backend = self.tokenizer.backend_tokenizer
        return lambda token: stream.step(backend, token) or ""

    @contextlib.contextmanager
    def with_adapter(self, name: str | None) -> Iterator[None]:
        """What is run inside is run with this adapter, or with the base model alone."""
        if not self._has_adapters:
            yield
        elif name is None:
            with self.model.disable_adapter():
                yield
        else:
            self.model.set_adapter(name, inference_mode=True)
            yield

    def generate(self, batch: list[Request]) -> None:
        """Run one batch of requests with equal settings to its end."""
        settings = batch[0].settings
        if settings.seed is not None:
            torch.manual_seed(settings.seed)
        padded = self.tokenizer.pad(
            {"input_ids": [request.prompt_ids for request in batch]}, return_tensors="pt"
        )
        options = GenerationConfig(
            max_new_tokens=max(request.max_new_tokens for request in batch),
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(self.stop_ids),
            **arguments(settings),
        )
        with torch.inference_mode(), self.with_adapter(settings.adapter):
            self.model.generate(
                **padded.to(self.model.device),
                generation_config=options,
                stopping_criteria=[_Deliver(batch, self.stop_ids)],
            )


def _stop_ids(config: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the model's list and the tokenizer's own."""
    ids = config.eos_token_id
    known = set(ids) if isinstance(ids, list) else {ids}
    return frozenset(int(item) for item in {*known, tokenizer.eos_token_id} if item is not None)


def _scale(model: Any, adapter: Adapter) -> None:
    """KAITO's strength: a factor on the adapter's contribution in every layer."""
    if adapter.strength == 1.0:
        return
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer) and adapter.name in module.scaling:
            module.scaling[adapter.name] *= adapter.strength
