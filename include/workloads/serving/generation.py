"""The queue of requests and the one thread that makes their tokens, all running requests together, step by step.

The model is touched by this thread alone, so adapters can come and go between two steps. A request joins as soon as
there is room and leaves as soon as it is done: none waits for another's end.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
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
    """How a request is answered: adapter (None: base model) and sampling."""

    adapter: str | None
    sampling: tuple[tuple[str, Any], ...] = ()  # transformers' generate() arguments, sorted
    seed: int | None = None


@dataclass(eq=False)
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
    heard: Callable[[], object] = lambda: None  # called by the worker when there is something new in `tokens`

    def stream(self) -> Iterator[int]:
        """Token ids as they are made; raises what went wrong in the worker."""
        while (item := self.tokens.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    async def arrivals(self) -> AsyncIterator[list[int]]:
        """The same for an event loop: at each turn all ids that have come meanwhile.

        No thread waits here: one for each answer, woken at each token, kept Python's lock from the model's thread.
        """
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop has been closed: nobody listens
                loop.call_soon_threadsafe(news.set)

        self.heard = tell
        news.set()  # for what came before
        while await news.wait():
            news.clear()
            found, last = self._waiting()
            if found:
                yield found
            if isinstance(last, Exception):
                raise last
            if last is None:
                return

    def _waiting(self) -> tuple[list[int], int | Exception | None]:
        """The ids that wait to be read, and what stands behind them: None at the end, 0 where more will come."""
        found: list[int] = []
        with suppress(queue.Empty):
            while True:
                item = self.tokens.get_nowait()
                if not isinstance(item, int):
                    return found, item
                found.append(item)
        return found, 0

    def _put(self, item: int | Exception | None) -> None:
        self.tokens.put(item)
        self.heard()

    def take(self, token: int, stop_ids: frozenset[int]) -> None:
        """The worker's hand-over of one token."""
        if self.finished:
            return
        if self.first_token_seconds is None:
            self.first_token_seconds = time.monotonic() - self.queued_at
        if self.leave_if_cancelled():
            return
        self.produced += 1
        if token in stop_ids:
            self._finish("stop")
        else:
            self._put(token)
            if self.produced >= self.max_new_tokens:
                self._finish("length")

    def leave_if_cancelled(self) -> bool:
        """End the stream when nobody reads it any more; whether it has ended."""
        if not self.finished and self.cancelled.is_set():
            self._finish("cancelled")
        return self.finished

    def _finish(self, reason: FinishReason) -> None:
        self.finish_reason, self.finished = reason, True
        self._put(None)

    def fail(self, error: Exception) -> None:
        """End the stream with an error."""
        if not self.finished:
            self.finished = True
            self._put(error)


class Model(Protocol):
    """What the worker needs of a model; `Batch` is the real one."""

    @property
    def running(self) -> Sequence[Request]:
        """The requests that have begun and have not left."""

    def fits(self, request: Request) -> bool:
        """Whether there is room for one more; with none running there always is."""

    def begin(self, request: Request) -> None:
        """Give it a place."""

    def step(self) -> None:
        """Read a part of the new prompts and make one token for each of the others, by `Request.take`."""

    def sweep(self) -> None:
        """Let finished requests leave."""


class Worker:
    """The queue and its one thread."""

    def __init__(self, model: Model, max_batch: int = 8, max_waiting: int = 128) -> None:
        """`max_batch` requests run together, `max_waiting` more may wait."""
        self._model = model
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[Request] = deque()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._ready = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests not yet begun."""
        return len(self._waiting)

    def wants(self, adapter: str) -> bool:
        """Whether a request that waits or runs asks this adapter; to be called between two steps."""
        with self._ready:
            asked = [*self._waiting, *self._model.running]
        return any(request.settings.adapter == adapter for request in asked)

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

    def between_steps(self, job: Callable[[], Any]) -> Any:
        """Run `job` in the model's thread and return what it returns. Raises what it raises, Closed at the end."""
        done: Future[Any] = Future()
        with self._ready:
            if self._closing:
                raise Closed
            self._jobs.append((job, done))
            self._ready.notify()
        return done.result()

    def close(self, timeout: float | None = None) -> None:
        """Finish what is queued, then end the thread."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while self._go_on():
            while self._jobs:
                job, done = self._jobs.popleft()
                try:
                    done.set_result(job())
                except BaseException as error:  # it belongs to whoever asked for the job
                    done.set_exception(error)
            self._admit()
            try:
                self._model.step()
            except Exception as error:  # one bad step must not end the server
                log.exception("Generation failed")
                for request in self._model.running:
                    request.fail(error)
            self._model.sweep()

    def _go_on(self) -> bool:
        """Wait for something to do; False when closed and nothing is left."""
        with self._ready:
            self._ready.wait_for(lambda: self._model.running or self._waiting or self._jobs or self._closing)
            return bool(self._model.running or self._waiting or self._jobs)

    def _admit(self) -> None:
        """Begin the oldest waiting requests, as many as there is room for."""
        while self._waiting and len(self._model.running) < self._max_batch:
            request = self._waiting[0]
            if self._model.running and not self._model.fits(request):
                return
            with self._ready:
                self._waiting.popleft()
            if request.leave_if_cancelled():
                continue
            try:
                self._model.begin(request)
            except Exception as error:  # the others go on
                log.exception("A request could not begin")
                request.fail(error)


def sampling(**arguments: Any) -> tuple[tuple[str, Any], ...]:
    """generate() arguments in the order that makes two equal wishes equal."""
    return tuple(sorted(arguments.items()))


def arguments(settings: Settings) -> Mapping[str, Any]:
    """The generate() arguments of one request; greedy unless they say otherwise."""
    return {"do_sample": False, **dict(settings.sampling)}
