"""What answers the questions of an evaluation: base weights once and adapters beside them.

`Engine` is what the measurement needs of one. `TransformersEngine` is the project's own serving runtime
(include.workloads.serving) in process; a service on vLLM has other kernels, so its latency is another.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from include.contracts.evaluation import Subject
from include.workloads.contract import UserDataError
from include.workloads.hardware import Hardware, Precision
from include.workloads.serving.adapters import Adapter, read_adapter
from include.workloads.serving.generation import Request, Settings
from include.workloads.tuning.rows import IGNORE, Row

log = logging.getLogger("workload")

#: Requests that run together, as many as the server has by default.
AT_ONCE = 16

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt as token ids, and the longest answer in tokens."""

    prompt_ids: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A text, how many tokens it has, and the seconds to its first one and to its end."""

    text: str
    tokens: int
    first_token_seconds: float
    seconds: float


class Engine(Protocol):
    """Answers as each subject."""

    name: str
    tokenizer: Any
    context: int

    def answers(self, subject: Subject, questions: Sequence[Question], progress: Progress) -> list[Answer]:
        """Answers to many questions, in their order, greedily, at the engine's best throughput."""

    def answer(self, subject: Subject, question: Question) -> Answer:
        """The answer to one question alone, with its times."""

    def losses(self, subject: Subject, rows: Sequence[Row], progress: Progress) -> list[tuple[float, int]]:
        """For each row the loss summed over its learnt tokens, in nats, and how many these are."""

    def likelihood(self, subject: Subject, row: Row) -> tuple[float, bool]:
        """The natural logarithm of a row's likelihood, and whether each token of it is the likeliest."""


def read_adapters(folders: Mapping[Subject, Path]) -> dict[Subject, Adapter]:
    """The adapters under their subjects' names, checked. Raises UserConfigError."""
    return {
        subject: dataclasses.replace(read_adapter(path, {}), name=str(subject))
        for subject, path in folders.items()
    }


class TransformersEngine:
    """The project's own runtime, without its server."""

    name = "transformers"

    def __init__(
        self, weights: Path, adapters: Mapping[Subject, Adapter], hardware: Hardware, precision: Precision
    ) -> None:
        """Load. Raises UserConfigError where weights or an adapter do not fit."""
        from include.workloads.serving.engine import Engine as Loaded

        self._loaded = Loaded(weights, list(adapters.values()), hardware, precision)
        self.tokenizer, self.context = self._loaded.tokenizer, self._loaded.context

    def answers(self, subject: Subject, questions: Sequence[Question], progress: Progress) -> list[Answer]:
        # Like beside like: rows are as long as the longest one among them.
        order = sorted(range(len(questions)), key=lambda place: len(questions[place].prompt_ids))
        answers = self._run(subject, [questions[place] for place in order], progress)
        found = dict(zip(order, answers, strict=True))
        return [found[place] for place in range(len(questions))]

    def answer(self, subject: Subject, question: Question) -> Answer:
        return self._run(subject, [question], lambda _: None)[0]

    def _run(self, subject: Subject, questions: Sequence[Question], progress: Progress) -> list[Answer]:
        settings = Settings(adapter=_name(subject))
        started = time.monotonic()
        requests = [Request(list(one.prompt_ids), one.max_tokens, settings) for one in questions]
        self._loaded.generate(requests, AT_ONCE, progress)
        seconds = time.monotonic() - started
        return [self._answer(request, seconds) for request in requests]

    def _answer(self, request: Request, seconds: float) -> Answer:
        request.fail(RuntimeError("the model ended early"))  # of no effect on one that has finished
        ids = list(request.stream())
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Answer(str(text), request.produced, request.first_token_seconds or seconds, seconds)

    def losses(self, subject: Subject, rows: Sequence[Row], progress: Progress) -> list[tuple[float, int]]:
        found = []
        for row in rows:
            loss, tokens, _ = self._judged(subject, row)
            found.append((loss, tokens))
            progress(1)
        return found

    def likelihood(self, subject: Subject, row: Row) -> tuple[float, bool]:
        loss, _, likeliest = self._judged(subject, row)
        return -loss, likeliest

    def _judged(self, subject: Subject, row: Row) -> tuple[float, int, bool]:
        """The loss summed over the learnt tokens, how many these are, and whether each is the likeliest one."""
        import torch
        from torch.nn.functional import cross_entropy

        ids, labels = (torch.tensor(row[key][: self.context]) for key in ("input_ids", "labels"))
        places = torch.nonzero(labels[1:] != IGNORE).squeeze(
            1
        )  # the logits at i are about the token at i + 1
        if not len(places):
            return 0.0, 0, True
        device = self._loaded.model.device
        with torch.inference_mode(), self._loaded.with_adapter(_name(subject)):
            # Only these: the logits of all tokens are the largest thing that an evaluation would hold.
            logits = self._loaded.model(
                input_ids=ids[None].to(device), logits_to_keep=places.to(device), use_cache=False
            ).logits[0]
        wanted = labels[1:][places].to(logits.device)
        loss = float(cross_entropy(logits.float(), wanted, reduction="sum"))
        likeliest = bool((logits.argmax(dim=-1) == wanted).all())
        return finite(loss, subject), len(places), likeliest


def finite(loss: float, subject: Subject) -> float:
    """The loss. Raises UserDataError where it is no number, since nothing can be said of such a model."""
    if not -float("inf") < loss < float("inf"):
        raise UserDataError(
            f"The {subject} gives no numbers any more (loss {loss}): its weights are damaged, or the training diverged."
        )
    return loss


def _name(subject: Subject) -> str | None:
    return None if subject is Subject.BASE else str(subject)
