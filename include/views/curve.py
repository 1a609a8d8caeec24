"""How a training went, step by step: read from the progress lines of its log, drawn as points of an SVG.

The tuning pod logs `step 12/60 | loss 1.234 | 205 tok/s | ETA 1m40s` about once a second, and Airflow keeps the log, so
the curve is there while it trains and for as long as the log is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LINE = re.compile(
    r"step (?P<step>\d+)/(?P<total>\d+)(?: \| loss (?P<loss>\d+(?:\.\d+)?))?(?: \| (?P<speed>\d+(?:\.\d+)?) tok/s)?"
    r"(?: \| lr (?P<rate>\d+(?:\.\d+)?(?:e-?\d+)?))?"
)
#: Points that a chart shows; more would only lie upon each other.
MOST_POINTS = 300


@dataclass(frozen=True, slots=True)
class Point:
    """One progress line: loss, speed (tokens a second) and learning rate are None where it did not say."""

    step: int
    total: int
    loss: float | None
    tokens_per_second: float | None
    learning_rate: float | None


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
        if match := _LINE.search(line):
            numbers = (_number(match[key]) for key in ("loss", "speed", "rate"))
            result[int(match["step"])] = Point(int(match["step"]), int(match["total"]), *numbers)
    return [result[step] for step in sorted(result)]


def charts(found: Sequence[Point]) -> list[Chart]:
    """The charts of a training: those of what it has told at two steps at least."""
    told = {
        "Loss": [(p.step, p.loss) for p in found],
        "Tokens per second": [(p.step, p.tokens_per_second) for p in found],
        "Learning rate": [(p.step, p.learning_rate) for p in found],
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


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)
