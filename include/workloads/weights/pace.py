"""How a transfer gets on, as lines of the log: how much, how fast, how long it will still take."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

from include.workloads.contract import TryAgain, UserConfigError, end_now

log = logging.getLogger("weights")

SECONDS = 10.0
# A model of 800 GB at 100 MB/s takes under three hours.
MAX_SECONDS, STALL_SECONDS = 6 * 3600.0, 300.0
MIN_BYTES = 1 << 20


def line(done: int, total: int, seconds: float, before: int = 0) -> str:
    """One line about a transfer.

    :param done: bytes that are there; `before` of them were when it began.
    :param total: bytes that there will be, 0 where nobody knows.
    :param seconds: since it began.
    """
    rate = (done - before) / seconds if seconds > 0 else 0.0
    speed = f"{rate / (1 << 20):.0f} MiB/s"
    if not total:
        return f"{done / (1 << 20):.0f} MiB, {speed}"
    left = f", about {_time((total - done) / rate)} left" if rate > 0 and done < total else ""
    return f"{done / (1 << 20):.0f} of {total / (1 << 20):.0f} MiB ({100 * done // total}%), {speed}{left}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


@dataclass
class Pace:
    """Whether a download still gets on: over all `max_seconds`, and by at least MIN_BYTES in each `stall_seconds`.

    A server that sends one byte now and then satisfies every timeout of the library for ever.
    """

    max_seconds: float
    stall_seconds: float
    begun: float
    mark: float = field(init=False)
    held: int = 0
    start: int = field(init=False)

    def __post_init__(self) -> None:
        self.mark, self.start = self.begun, self.held

    def judge(self, size: int, now: float) -> str | None:
        """What is wrong with `size` bytes at `now`, or None."""
        if now - self.begun > self.max_seconds:
            return f"took longer than {self.max_seconds:.0f} s"
        if size - self.held >= MIN_BYTES:
            self.held, self.mark = size, now
        if now - self.mark > self.stall_seconds:
            return f"sent less than {MIN_BYTES >> 20} MiB in {self.stall_seconds:.0f} s"
        return None


def asked_pace(begun: float, held: int = 0) -> Pace:
    """The pace that the pod's environment asks for, else a generous one."""
    return Pace(
        _seconds("WEIGHTS_MAX_SECONDS", MAX_SECONDS),
        _seconds("WEIGHTS_STALL_SECONDS", STALL_SECONDS),
        begun,
        held=held,
    )


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit() or int(text) == 0:
        raise UserConfigError(f"{name}={text!r} is not a number above 0.")
    return float(text)


class Meter:
    """Counts the bytes of several threads and says so every few seconds.

    :param total: bytes that are to come.
    :param what: whose they are, for the log.
    :param guarded: end the process when next to nothing comes any more: threads that wait for a server that sends a
        byte now and then cannot be stopped otherwise.
    """

    def __init__(self, total: int, what: str, seconds: float = SECONDS, guarded: bool = False) -> None:
        self.total, self.what, self.seconds, self.guarded = total, what, seconds, guarded
        self._done, self._lock, self._end = 0, threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def add(self, count: int) -> None:
        """Note bytes that have been moved (or, below 0, that have to be moved again)."""
        with self._lock:
            self._done += count

    def __enter__(self) -> Meter:
        self._begun = time.monotonic()
        self._pace = asked_pace(self._begun)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        if kind is None and self.total:
            self._say()

    def _watch(self) -> None:
        while not self._end.wait(min(self.seconds, self._pace.stall_seconds / 2)):
            self._say()
            if self.guarded and (wrong := self._pace.judge(self._done, time.monotonic())):
                end_now(TryAgain(f"The registry {wrong} while {self.what} was downloaded."))

    def _say(self) -> None:
        log.info("  %s: %s", self.what, line(self._done, self.total, time.monotonic() - self._begun))
