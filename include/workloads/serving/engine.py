"""The model: base weights once, LoRA adapters beside it, and the batch that runs on it (generation.py says who calls).

How its forward pass is run is decided at the start by trying: packed weights and shared rows where they give the scores
that the model gives by itself, the slower ways where they do not.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import AutoModelForCausalLM

from include.workloads import known_model
from include.workloads.contract import UserConfigError
from include.workloads.hardware import Hardware, Precision
from include.workloads.serving import fused, packed, sequences
from include.workloads.serving.adapters import Adapter
from include.workloads.serving.batching import Batch
from include.workloads.serving.generation import Request
from include.workloads.serving.lora import Adapted
from include.workloads.serving.pace import Pace
from include.workloads.serving.sampling import Choice

log = logging.getLogger("workload")

FULL_CONTEXTS = 8  # all running requests together may hold as many tokens as so many contexts
PROBES = (11, 7)  # tokens of the two prompts that the ways to run the model are compared with
LIKENESS = 0.99  # cosine of scores that are the same but for rounding


class Engine:
    """A loaded model that answers requests."""

    def __init__(
        self,
        weights: Path,
        adapters: Sequence[Adapter],
        hardware: Hardware,
        precision: Precision,
        max_model_len: int | None = None,
    ) -> None:
        """Load; raises UserConfigError when weights or an adapter do not fit."""
        if not list(weights.glob("*.safetensors")):
            raise UserConfigError(
                f"{weights} holds no *.safetensors; weights in other formats are not loaded."
            )
        known_model.require_known(weights)
        self.tokenizer = known_model.load_tokenizer(weights, padding_side="left")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        model = AutoModelForCausalLM.from_pretrained(
            weights,
            dtype=getattr(torch, precision.dtype),
            device_map={"": 0} if hardware.gpus == 1 else "auto" if hardware.gpus > 1 else None,
            local_files_only=True,
            use_safetensors=True,
        ).eval()
        self._text = model.config.get_text_config()
        self._config = model.generation_config
        self._device, self._dtype = model.device, model.dtype
        self._keeps_last = sequences.leaves_out_scores(model)
        self.context = int(getattr(self._text, "max_position_embeddings", None) or 2048)
        self.stop_ids = _stop_ids(self._config, self.tokenizer)
        self._adapted = Adapted(model)
        most = FULL_CONTEXTS * min(self.context, max_model_len or self.context)
        kept = self._way(model, most)
        self.batch = Batch(
            kept,
            self._adapted.rows,
            self._choice,
            self.stop_ids,
            most,
        )
        if self._device.type == "cpu":
            self.batch.pace = Pace(torch.get_num_threads(), torch.set_num_threads).step
        for adapter in adapters:
            self._adapted.add(adapter)

    @property
    def model(self) -> Any:
        """The model with its adapters."""
        return self._adapted.model

    def _way(self, model: Any, most: int) -> sequences.Sequences:
        """The fastest way to run this model that gives its own scores."""
        sizes = range(self._text.vocab_size // 2, self._text.vocab_size // 2 + sum(PROBES))
        prompts = [list(sizes[: PROBES[0]]), list(sizes[PROBES[0] :])]
        with torch.inference_mode():
            right = torch.stack(
                [
                    model(input_ids=torch.tensor([one], device=self._device), use_cache=False).logits[0, -1]
                    for one in prompts
                ]
            )
        for way in _WAYS if packed.can_be_packed(model) else _WAYS[-1:]:
            before = way(model)
            rows = self._rows(most)
            if _alike(rows, prompts, right):
                return self._rows(most)
            packed.put_back(before)
        log.warning("This model keeps more than keys and values: its requests are run one by one, in turn.")
        return sequences.Apart(self._adapted.forward, model.config, self._device, self._keeps_last)

    def _rows(self, most: int) -> sequences.Rows:
        return sequences.Rows(
            self._adapted.forward, self._text, self._device, self._dtype, most, self._keeps_last
        )

    @staticmethod
    def seed(seed: int) -> None:
        """Begin the random numbers of sampling here; a request's own seed still counts for that request."""
        torch.manual_seed(seed)

    def decoder(self) -> Callable[[int], str]:
        """A new function from one token id to the text that it completes: "" inside a character, or a special token."""
        stream = DecodeStream(skip_special_tokens=True)
        backend = self.tokenizer.backend_tokenizer
        return lambda token: stream.step(backend, token) or ""

    def with_adapter(self, name: str | None) -> AbstractContextManager[None]:
        """What is run inside is run with this adapter, or with the base model alone."""
        return self._adapted.rows([name])

    def add_adapter(self, adapter: Adapter) -> None:
        """Load one more. Raises UserConfigError when it does not fit."""
        self._adapted.add(adapter)

    def remove_adapter(self, name: str) -> None:
        """Take one away that no running request uses."""
        self._adapted.remove(name)
        self.batch.forget(name)

    def _choice(self, request: Request) -> Choice:
        adapter = request.settings.adapter
        if adapter is not None and adapter not in self._adapted.names:
            raise UserConfigError(f"The adapter {adapter} was taken away.")
        return Choice(request, self._config, self.stop_ids, self._device)

    def generate(
        self,
        requests: Sequence[Request],
        at_once: int | None = None,
        ended: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Run requests to their end, where no worker runs them; one that ends makes room for the next.

        :param at_once: how many run together, None for all of them.
        :param ended: is called with how many have just ended.
        """
        waiting = deque(requests)
        while waiting or self.batch.running:
            while waiting and (at_once is None or len(self.batch.running) < at_once):
                if at_once is not None and self.batch.running and not self.batch.fits(waiting[0]):
                    break
                self.batch.begin(waiting.popleft())
            self.batch.step()
            before = len(self.batch.running)
            self.batch.sweep()
            if before > len(self.batch.running):
                ended(before - len(self.batch.running))


def _fused(model: Any) -> dict[Any, Any]:
    return {**fused.fuse(model), **packed.pack(model)}


#: From the fastest on; each returns what it replaced.
_WAYS: tuple[Callable[[Any], dict[Any, Any]], ...] = (_fused, packed.pack, lambda model: {})


def _alike(kept: sequences.Sequences, prompts: Sequence[Sequence[int]], right: torch.Tensor) -> bool:
    """Whether two prompts of unlike length, read in parts and followed together, get their right scores."""
    try:
        with torch.inference_mode():
            kept.reserve(len(prompts), max(map(len, prompts)))
            for row, prompt in enumerate(prompts):
                kept.read(row, prompt[:3], 0)
                kept.read(row, prompt[3:-1], 3)
            found = kept.follow([prompt[-1] for prompt in prompts], [len(prompt) - 1 for prompt in prompts])
    except Exception as error:  # whatever a model does with a cache that it does not know
        log.info("Shared rows do not suit this model: %s: %s", type(error).__name__, error)
        return False
    likeness = torch.nn.functional.cosine_similarity(found.float(), right.float(), dim=-1)
    return bool((likeness > LIKENESS).all())


def _stop_ids(config: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the model's list and the tokenizer's own."""
    ids = config.eos_token_id
    known = set(ids) if isinstance(ids, list) else {ids}
    return frozenset(int(item) for item in {*known, tokenizer.eos_token_id} if item is not None)
