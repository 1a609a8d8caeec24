"""From the model's scores to one token, for one request: what generate() would do with the same arguments.

transformers' own processors do the work. Each request draws from a generator of its own when it has a seed, so what
runs beside it does not change its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from include.workloads.serving.generation import Request, arguments

# What a model's own generation_config says where a request says nothing, as generate() takes it.
DEFAULTS = ("repetition_penalty", "no_repeat_ngram_size", "temperature", "top_k", "top_p", "typical_p")
TOP_K = 50  # generate()'s own, where neither says anything


class Choice:
    """How one request's tokens are chosen."""

    def __init__(
        self, request: Request, config: Any, stop_ids: frozenset[int], device: torch.device | str
    ) -> None:
        """`config` is the model's generation_config; `device` is where its scores come out."""
        said = {key: value for key in DEFAULTS if (value := getattr(config, key, None)) is not None}
        wished = {"top_k": TOP_K, **said, **arguments(request.settings)}
        self._device = device
        self._draws = bool(wished["do_sample"])
        self._processors = _processors(wished, len(request.prompt_ids), stop_ids, device)
        self._generator: torch.Generator | None = None
        if self._draws and request.settings.seed is not None:
            self._generator = torch.Generator(device=device)
            self._generator.manual_seed(_seed(request.settings.seed))

    @property
    def is_plain(self) -> bool:
        """Whether the highest score is the choice, and nothing else counts."""
        return not self._draws and not self._processors

    def __call__(self, ids: Sequence[int], scores: torch.Tensor) -> int:
        """The next token after these, by its scores of shape (vocabulary,)."""
        row = scores.float()[None]
        if self._processors:
            row = self._processors(torch.tensor([ids], device=scores.device), row)
        if not self._draws:
            return int(row.argmax(-1))
        return int(torch.multinomial(row.softmax(-1), 1, generator=self._generator))


def _processors(
    wished: dict[str, Any], prompt_tokens: int, stop_ids: frozenset[int], device: torch.device | str
) -> LogitsProcessorList:
    found = LogitsProcessorList()
    if (penalty := wished.get("repetition_penalty")) not in (None, 1.0):
        found.append(RepetitionPenaltyLogitsProcessor(penalty=float(penalty)))
    if size := wished.get("no_repeat_ngram_size"):
        found.append(NoRepeatNGramLogitsProcessor(size))
    if least := wished.get("min_new_tokens"):
        found.append(
            MinNewTokensLengthLogitsProcessor(prompt_tokens, least, sorted(stop_ids), device=str(device))
        )
    if not wished["do_sample"]:
        return found
    if (temperature := wished.get("temperature")) not in (None, 1.0):
        found.append(TemperatureLogitsWarper(float(temperature)))
    if top_k := wished.get("top_k"):
        found.append(TopKLogitsWarper(top_k=top_k))
    if (top_p := wished.get("top_p")) not in (None, 1.0):
        found.append(TopPLogitsWarper(top_p=float(top_p)))
    if (typical := wished.get("typical_p")) not in (None, 1.0):
        found.append(TypicalLogitsWarper(mass=float(typical)))
    return found


def _seed(seed: int) -> int:
    """A seed in torch's range; any whole number is one."""
    return seed % (1 << 63)
