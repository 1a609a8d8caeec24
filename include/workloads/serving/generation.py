"""One worker thread that turns queued requests into tokens, several of the same kind at a time.

The model is touched by this thread alone, so switching adapters between batches is safe under any concurrency.
Requests that share adapter and sampling settings run as one batch; each gets its tokens as they come, and leaves the
batch's attention when it is done, cancelled or at its limit.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

log = logging.getLogger("workload")

FinishReason = Literal["stop", "length", "cancelled"]


class Busy(Exception):
    """The queue is full."""


class Closed(Exception):
    """The server is stopping."""


@dataclass(frozen=True)
class Settings:
    """What must be equal for requests to share a batch: adapter (None: base model) and sampling."""

    adapter: str | None
    sampling: tuple[tuple[str, Any], ...] = ()  # transformers' generate() arguments, sorted
    seed: int | None = None


@dataclass
class Request:
    """One prompt on its way: tokens come out of `tokens`, then None."""

    prompt_ids: list[int]
    max_new_tokens: int
    settings: Settings
    tokens: queue.SimpleQueue[int | Exception | None] = field(default_factory=queue.SimpleQueue)
    finish_reason: FinishReason = "length"
    produced: int = 0
    queued_at: float = field(default_factory=time.monotonic)
    first_token_seconds: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    finished: bool = False

    def stream(self) -> Iterator[int]:
        """Token ids as they are made; raises what went wrong in the worker."""
        while (item := self.tokens.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def take(self, token: int, stop_ids: frozenset[int]) -> None:
        """The worker's hand-over of one token."""
        if self.finished:
            return
        if self.first_token_seconds is None:
            self.first_token_seconds = time.monotonic() - self.queued_at
        if self.cancelled.is_set():
            self._finish("cancelled")
        elif token in stop_ids:
            self.produced += 1
            self._finish("stop")
        else:
            self.produced += 1
            self.tokens.put(token)
            if self.produced >= self.max_new_tokens:
                self._finish("length")

    def _finish(self, reason: FinishReason) -> None:
        self.finish_reason, self.finished = reason, True
        self.tokens.put(None)

    def fail(self, error: Exception) -> None:
        """End the stream with an error."""
        if not self.finished:
            self.finished = True
            self.tokens.put(error)


class Model(Protocol):
    """What the worker needs of a model; `Engine` is the real one."""

    def generate(self, batch: list[Request]) -> None:
        """Run the batch to its end, handing tokens over with `Request.take`."""


class Worker:
    """The queue and its one thread."""

    def __init__(self, model: Model, max_batch: int = 8, max_waiting: int = 128) -> None:
        self._model = model
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[Request] = deque()
        self._ready = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests not yet begun."""
        return len(self._waiting)

    def submit(self, request: Request) -> Request:
        """Queue a request. Raises Busy when too many wait, Closed once the server stops."""
        with self._ready:
            if self._closing:
                raise Closed
            if len(self._waiting) >= self._max_waiting:
                raise Busy
            self._waiting.append(request)
            self._ready.notify()
        return request

    def close(self, timeout: float | None = None) -> None:
        """Finish what is queued, then end the thread."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._model.generate(batch)
            except Exception as error:  # one bad batch must not end the server
                log.exception("Generation failed")
                for request in batch:
                    request.fail(error)
            for request in batch:
                request.fail(RuntimeError("the model ended early"))

    def _next_batch(self) -> list[Request]:
        """The oldest request and those behind it that fit it; [] when closed and empty."""
        with self._ready:
            self._ready.wait_for(lambda: self._waiting or self._closing)
            batch: list[Request] = []
            others: deque[Request] = deque()
            while self._waiting:
                request = self._waiting.popleft()
                if not batch or (
                    request.settings == batch[0].settings
                    and request.settings.seed is None
                    and len(batch) < self._max_batch
                ):
                    batch.append(request)
                else:
                    others.append(request)
            self._waiting = others
            return batch


def sampling(**arguments: Any) -> tuple[tuple[str, Any], ...]:
    """generate() arguments in the order that makes two equal wishes equal."""
    return tuple(sorted(arguments.items()))


def arguments(settings: Settings) -> Mapping[str, Any]:
    """The generate() arguments of one batch; greedy unless they say otherwise."""
    return {"do_sample": False, **dict(settings.sampling)}
