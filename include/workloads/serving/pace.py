"""How many threads a processor's steps take, decided by trying: all of the pod's, or one beside a busy neighbour.

Threads that share a step wait for each other at every product, so where another process takes one of the CPUs, two
threads can be ten times slower than one. Every now and then a few steps are timed either way, and the faster way stays.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STEPS = 4  # timed either way; the first of them is not counted
EVERY = 150  # steps between two trials
FIRST = 8  # steps before the first trial


class Pace:
    """Times steps that make one token for a number of requests; others are left out."""

    def __init__(
        self, threads: int, use: Callable[[int], object], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`threads` is the most; `use` sets their number for the calling thread."""
        self._ways = tuple(dict.fromkeys((threads, 1)))
        self._use, self._clock = use, clock
        self._way = threads
        self._until_trial = FIRST
        self._times: dict[int, list[float]] = {}
        self._rows = 0

    @property
    def threads(self) -> int:
        """How many steps take now."""
        return self._way

    @contextmanager
    def step(self, rows: int) -> Iterator[None]:
        """Around one step for so many requests."""
        if len(self._ways) == 1:
            yield
            return
        way = self._on_trial(rows)
        began = self._clock()
        yield
        if way is not None:
            self._times[way].append(self._clock() - began)
            self._decide()

    def _on_trial(self, rows: int) -> int | None:
        """The way that this step tries; None outside a trial. Steps of another size cannot be compared."""
        if self._until_trial > 0:
            self._until_trial -= 1
            return None
        if not self._times:
            self._times, self._rows = {way: [] for way in self._ways}, rows
        elif rows != self._rows:
            self._use(self._way)
            self._times, self._until_trial = {}, FIRST
            return None
        way = next(way for way, times in self._times.items() if len(times) < STEPS)
        self._use(way)
        return way

    def _decide(self) -> None:
        if any(len(times) < STEPS for times in self._times.values()):
            return
        self._way = min(self._ways, key=lambda way: statistics.median(self._times[way][1:]))
        self._use(self._way)
        self._times, self._until_trial = {}, EVERY
