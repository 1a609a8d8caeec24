"""How a transfer gets on, as lines of the log: how much, how fast, how long it will still take."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

log = logging.getLogger("weights")

SECONDS = 10.0


def line(done: int, total: int, seconds: float) -> str:
    """One line: both sizes in bytes, the time since the beginning in seconds."""
    rate = done / seconds if seconds > 0 else 0.0
    left = f", about {_time((total - done) / rate)} left" if rate > 0 and done < total else ""
    share = f" ({100 * done // total}%)" if total else ""
    return f"{done / (1 << 20):.0f} of {total / (1 << 20):.0f} MiB{share}, {rate / (1 << 20):.0f} MiB/s{left}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


class Meter:
    """Counts the bytes of several threads and says so every few seconds.

    :param total: bytes that are to come.
    :param what: whose they are, for the log.
    """

    def __init__(self, total: int, what: str, seconds: float = SECONDS) -> None:
        self.total, self.what, self.seconds = total, what, seconds
        self._done, self._lock, self._end = 0, threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def add(self, count: int) -> None:
        """Note bytes that have been moved (or, below 0, that have to be moved again)."""
        with self._lock:
            self._done += count

    def __enter__(self) -> Meter:
        self._begun = time.monotonic()
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
        while not self._end.wait(self.seconds):
            self._say()

    def _say(self) -> None:
        log.info("  %s: %s", self.what, line(self._done, self.total, time.monotonic() - self._begun))
