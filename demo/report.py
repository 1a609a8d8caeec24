"""What the demo measured: durations, gaps, memory, digests, answers; written as `summary.json`."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.processes import resident_bytes

Span = tuple[dt.datetime, dt.datetime]


def idle_seconds(whole: Span, work: list[Span]) -> float:
    """Return the seconds of `whole` that no span of `work` covers: time in which nobody worked.

    :param whole: first and last moment that count.
    :param work: spans in any order, overlapping or not, inside `whole` or not.
    """
    idle, cursor = 0.0, whole[0]
    for start, end in sorted(work):
        start, end = max(start, whole[0]), min(end, whole[1])
        if start >= end:
            continue
        if start > cursor:
            idle += (start - cursor).total_seconds()
        cursor = max(cursor, end)
    return idle + max(0.0, (whole[1] - cursor).total_seconds())


@dataclass
class MemoryMeter:
    """Samples the memory of everything the demo started, and keeps the peak."""

    pids: Callable[[], set[int]]
    period: float = 8.0  # reading PSS walks every page table: not for free
    peak_bytes: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin to sample in the background."""
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """End the sampling."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self.period):
            self.peak_bytes = max(self.peak_bytes, resident_bytes(self.pids()))


@dataclass(frozen=True)
class Answer:
    """One question, what a model said, and the facts that a right answer contains."""

    question: str
    facts: list[str]
    text: str
    seconds: float

    @property
    def knows(self) -> bool:
        """Whether every fact is in the answer (case and spaces do not count)."""
        flat = "".join(self.text.lower().split())
        return all("".join(fact.lower().split()) in flat for fact in self.facts)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON."""
        return {
            "question": self.question,
            "facts": self.facts,
            "answer": self.text,
            "knows": self.knows,
            "seconds": round(self.seconds, 2),
        }


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write the summary in one piece, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".tmp")
    part.write_text(json.dumps(summary, indent=2, default=str) + "\n")
    part.replace(path)


def human_seconds(seconds: float) -> str:
    """Return 95 as `1m35s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
