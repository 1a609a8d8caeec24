"""Continuous batching: all running requests in one forward pass a step, whatever their lengths, adapters or sampling.

The first rows belong to requests whose prompts have been read: each step makes one token for all of them. Behind them
stand those whose prompts are being read, some hundred tokens a step, so that a long prompt holds nobody up. Rows of
requests that have left keep what they held: a prompt that begins the same way is read from where the two part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from include.workloads.serving.generation import Request
from include.workloads.serving.sampling import Choice
from include.workloads.serving.sequences import Sequences

log = logging.getLogger("workload")

PROMPT_TOKENS = 512  # of all prompts together in a step
PART = 256  # of one prompt in a step, where others wait
WORTH = 16  # fewer tokens are read faster than copied

#: Runs what is inside it with these adapters, one a row.
WithAdapters = Callable[[Sequence[str | None]], AbstractContextManager[Any]]


@dataclass(eq=False)
class Run:
    """A request that has a row: its tokens, and how many of them the row holds."""

    request: Request
    choice: Choice
    ids: list[int]
    held: int = 0

    @property
    def adapter(self) -> str | None:
        return self.request.settings.adapter

    @property
    def left(self) -> int:
        """Tokens still to be read."""
        return len(self.ids) - self.held

    @property
    def need(self) -> int:
        """Tokens that its row must be able to hold."""
        return len(self.request.prompt_ids) + self.request.max_new_tokens


@dataclass
class Batch:
    """The running requests of one model.

    :param sequences: where their keys and values are.
    :param with_adapters: makes a forward pass use each row's adapter.
    :param choice: makes what chooses a request's tokens.
    :param stop_ids: tokens that end an answer.
    :param most: tokens that all rows together may hold.
    :param pace: goes around each pass that makes one token for a number of requests.
    """

    sequences: Sequences
    with_adapters: WithAdapters
    choice: Callable[[Request], Choice]
    stop_ids: frozenset[int]
    most: int
    pace: Callable[[int], AbstractContextManager[None]] = lambda rows: nullcontext()
    _runs: list[Run] = field(default_factory=list)
    _ready: int = 0  # the first so many have read their prompts
    _left: dict[int, tuple[str | None, list[int]]] = field(
        default_factory=dict
    )  # by row: what it still holds

    @property
    def running(self) -> list[Request]:
        return [run.request for run in self._runs]

    def forget(self, adapter: str) -> None:
        """Use nothing again that this adapter made."""
        self._left = {row: left for row, left in self._left.items() if left[0] != adapter}

    def fits(self, request: Request) -> bool:
        need = len(request.prompt_ids) + request.max_new_tokens
        widest = max([need, *(run.need for run in self._runs)])
        return (len(self._runs) + 1) * widest <= self.most

    def begin(self, request: Request) -> None:
        run = Run(request, self.choice(request), list(request.prompt_ids))
        row = len(self._runs)
        rows = self.sequences.reserve(row + 1, max([run.need, *(other.need for other in self._runs)]))
        self._left = {place: left for place, left in self._left.items() if place < rows}
        if self.sequences.keeps:
            self._take_over(run, row)
        self._left.pop(row, None)
        self._runs.append(run)

    def _take_over(self, run: Run, row: int) -> None:
        """Give a new run's row what another row holds of its prompt."""
        held = {
            place: other.ids[: other.held]
            for place, other in enumerate(self._runs)
            if other.adapter == run.adapter
        }
        held |= {place: ids for place, (adapter, ids) in self._left.items() if adapter == run.adapter}
        common, source = max(((same(ids, run.ids), place) for place, ids in held.items()), default=(0, row))
        common = min(common, len(run.ids) - 1)  # the last one is read again: its scores make the next
        if common < WORTH:
            return
        if source in self._left:
            self._exchange_left(source, row)
        else:
            self.sequences.copy(source, row, common)
        run.held = common

    def _exchange_left(self, source: int, row: int) -> None:
        self.sequences.swap(source, row)
        mine = self._left.pop(source)
        if (other := self._left.pop(row, None)) is not None and source != row:
            self._left[source] = other
        self._left[row] = mine

    def step(self) -> None:
        with torch.inference_mode():
            self._read_prompts()
            self._follow()

    def _read_prompts(self) -> None:
        budget = PROMPT_TOKENS
        for run in self._runs[self._ready :]:
            if budget <= 0:
                return
            if run.request.leave_if_cancelled():
                continue
            row = self._runs.index(run)
            size = min(run.left, budget, PART if len(self._runs) > 1 else PROMPT_TOKENS)
            part = run.ids[run.held : run.held + size]
            with self.with_adapters([run.adapter]):
                scores = self.sequences.read(row, part, run.held)
            run.held += size
            budget -= size
            if not run.left:
                self._swap(row, self._ready)
                self._ready += 1
                self._take(run, lambda run=run, scores=scores: run.choice(run.ids, scores))  # type: ignore[misc]

    def _follow(self) -> None:
        if not self._ready:
            return
        runs = self._runs[: self._ready]
        if all(run.request.leave_if_cancelled() for run in runs):
            return
        # One that has just ended has no new token: its last one again changes nothing that anybody reads.
        ids, starts = [run.ids[-1] for run in runs], [len(run.ids) - 1 for run in runs]
        with self.pace(len(runs)), self.with_adapters([run.adapter for run in runs]):
            scores = self.sequences.follow(ids, starts)
        best = highest(scores)
        for row, run in enumerate(runs):
            if run.request.finished:
                continue
            run.held = len(run.ids)
            if run.choice.is_plain:
                self._take(run, lambda row=row: best[row])  # type: ignore[misc]
            else:
                self._take(run, lambda run=run, row=row: run.choice(run.ids, scores[row]))  # type: ignore[misc]

    def _take(self, run: Run, choose: Callable[[], int]) -> None:
        """Hand one token over; scores that no token can be drawn from end this request alone."""
        try:
            token = int(choose())
        except RuntimeError as error:
            log.error("A token could not be chosen: %s", error)
            run.request.fail(error)
            return
        run.ids.append(token)
        run.request.take(token, self.stop_ids)

    def sweep(self) -> None:
        for row in reversed(range(len(self._runs))):
            run = self._runs[row]
            if not run.request.finished:
                continue
            if row < self._ready:
                self._ready -= 1
                self._swap(row, self._ready)
                row = self._ready
            last = len(self._runs) - 1
            self._swap(row, last)
            self._runs.pop()
            self._left[last] = (run.adapter, run.ids[: run.held])

    def _swap(self, one: int, other: int) -> None:
        if one != other:
            self.sequences.swap(one, other)
            self._runs[one], self._runs[other] = self._runs[other], self._runs[one]


def highest(scores: torch.Tensor) -> list[int]:
    """The place of each row's highest score, the first of equal ones.

    On a processor by NumPy: torch takes 2.9 ms for 16 rows of 49,152 scores in bfloat16, NumPy 0.2 ms after a cast.
    """
    if scores.device.type == "cpu":
        return [int(place) for place in scores.float().numpy().argmax(-1)]
    return [int(place) for place in scores.argmax(-1).tolist()]


def same(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common from the first on."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))
