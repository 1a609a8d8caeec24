"""How a training went, step by step: read from the progress lines of its log, drawn as points of an SVG.

The tuning pod logs `step 12/60 | loss 1.234 | 205 tok/s | lr 0.0002 | 3.4 GiB | ETA 1m40s` about once a second, and
Airflow keeps the log, so the curve is there while it trains and for as long as the log is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_NUMBER = r"(\d{1,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,2})?)"
_STEP = re.compile(r"step (?P<step>\d{1,12})/(?P<total>\d{1,12})(?!\d)(?P<rest>.*)")
#: What a line says besides, in any order.
_PARTS = {
    "loss": re.compile(rf"loss {_NUMBER}"),
    "tokens_per_second": re.compile(rf"{_NUMBER} tok/s"),
    "learning_rate": re.compile(rf"lr {_NUMBER}"),
    "memory_gib": re.compile(rf"{_NUMBER} GiB"),
}
#: Points that a chart shows; more would only lie upon each other.
MOST_POINTS = 300


@dataclass(frozen=True, slots=True)
class Point:
    """One progress line: what it did not say is None. Memory is the most that was taken so far, in GiB."""

    step: int
    total: int
    loss: float | None
    tokens_per_second: float | None
    learning_rate: float | None
    memory_gib: float | None


@dataclass(frozen=True, slots=True)
class Chart:
    """A line to draw in a box of `WIDTH` x `HEIGHT`: its points, and the words for its ends."""

    title: str
    points: str
    first: str
    last: str
    low: str
    high: str
    steps: int


WIDTH, HEIGHT = 320, 120


def points(lines: Iterable[str]) -> list[Point]:
    """The points in some lines of a log, one for each step: a step that was told twice counts as it was told last.

    A training that went on from a checkpoint tells some steps again.
    """
    result: dict[int, Point] = {}
    for line in lines:
        if match := _STEP.search(line):
            parts = match["rest"].split("|")
            numbers = {key: _first(pattern, parts) for key, pattern in _PARTS.items()}
            result[int(match["step"])] = Point(int(match["step"]), int(match["total"]), **numbers)
    return [result[step] for step in sorted(result)]


def charts(found: Sequence[Point]) -> list[Chart]:
    """The charts of a training: those of what it has told at two steps at least."""
    told = {
        "Loss": [(p.step, p.loss) for p in found],
        "Tokens per second": [(p.step, p.tokens_per_second) for p in found],
        "Learning rate": [(p.step, p.learning_rate) for p in found],
        "Memory at its peak, GiB": [(p.step, p.memory_gib) for p in found],
    }
    drawn = [(title, [(x, y) for x, y in series if y is not None]) for title, series in told.items()]
    return [_chart(title, series) for title, series in drawn if len(series) > 1]


def _chart(title: str, series: list[tuple[int, float]]) -> Chart:
    every = -(-len(series) // MOST_POINTS)
    shown = [*series[:-1:every], series[-1]]
    low, high = min(y for _, y in shown), max(y for _, y in shown)
    first, last = shown[0][0], shown[-1][0]
    wide, tall = max(last - first, 1), (high - low) or 1.0
    text = " ".join(
        f"{WIDTH * (x - first) / wide:.1f},{HEIGHT - HEIGHT * (y - low) / tall:.1f}" for x, y in shown
    )
    return Chart(title, text, f"{shown[0][1]:g}", f"{shown[-1][1]:g}", f"{low:g}", f"{high:g}", last)


def _first(pattern: re.Pattern[str], parts: Iterable[str]) -> float | None:
    return next((float(found[1]) for part in parts if (found := pattern.match(part.strip()))), None)
