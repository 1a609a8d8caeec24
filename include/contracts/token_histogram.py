"""How many tokens the rows of a dataset have, as bars to draw: for the step's own report and the Workspace's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

WIDTH, HEIGHT = 320, 120
#: Bars that a step tells at most.
MOST_BARS = 64
_NUMBERS = ("rows", "p50", "p95", "max")


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar in the box, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars of equal width from 0 to `end` tokens.

    :param sentence: the numbers for a reader.
    :param limit: where rows are cut, as a place in the box; None where that is not within it.
    """

    bars: Sequence[Bar]
    end: str
    most: str
    sentence: str
    limit: float | None


def histogram(told: object, box: tuple[int, int] = (WIDTH, HEIGHT)) -> Histogram | None:
    """The bars in the `tokens` of a dataset's result, None where it tells no (whole) histogram.

    :param box: width and height of what is drawn in.
    """
    found: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    drawn = found.get("histogram")
    counts, width = (drawn.get("rows"), drawn.get("width")) if isinstance(drawn, Mapping) else (None, None)
    if not isinstance(counts, list) or not 0 < len(counts) <= MOST_BARS or not all(map(_is_number, counts)):
        return None
    if not _is_number(width) or not all(_is_number(found.get(key)) for key in _NUMBERS) or not max(counts):
        return None
    across, high = box
    top, step = max(counts), across / len(counts)
    bars = [
        Bar(
            x=round(at * step, 1),
            y=round(high - high * count / top, 1),
            width=round(max(1.0, step - 1), 1),
            height=round(high * count / top, 1),
            title=f"{at * width:,} to {(at + 1) * width - 1:,} tokens: {count:,} rows",
        )
        for at, count in enumerate(counts)
    ]
    end, limit = len(counts) * width, found.get("max_length")
    place = round(across * limit / end, 1) if _is_number(limit) and 0 < limit < end else None
    return Histogram(bars, f"{end:,}", f"{top:,}", _sentence(found), place)


def _sentence(found: Mapping[str, Any]) -> str:
    told = (
        f"Median {found['p50']:,}, 95th percentile {found['p95']:,}, longest {found['max']:,} tokens, of "
        f"{found['rows']:,} rows"
    )
    limit, cut, lost = (found.get(key) for key in ("max_length", "cut_share", "lost_share"))
    if not _is_number(limit) or not isinstance(cut, int | float) or not isinstance(lost, int | float):
        return f"{told}."
    if not cut:
        return f"{told}. None is cut at {limit:,}."
    return f"{told}. {cut:.1%} are longer than {limit:,} and cut, {lost:.1%} lose their whole answer."


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
