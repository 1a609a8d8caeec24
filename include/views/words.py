"""Numbers and times as people read them: durations, ages, amounts."""

from __future__ import annotations

from datetime import datetime

from include.ledger.budget import dollars

NONE = "–"


def duration(seconds: float | None) -> str:
    """A time in at most two units: 45 s, 1 min 40 s, 2 h 05 min, 3 d 4 h; a dash where there is none."""
    if seconds is None:
        return NONE
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def until(moment: datetime | None, now: datetime) -> str:
    """How far away a moment is: "in 2 h 05 min", "3 d 4 h ago"; a dash where there is none."""
    if moment is None:
        return NONE
    away = (moment - now).total_seconds()
    return f"in {duration(away)}" if away > 0 else f"{duration(-away)} ago"


def due(moment: datetime | None, now: datetime) -> str:
    """When something is to come; what should have come is due now, and "" where nothing is planned."""
    if moment is None:
        return ""
    return until(moment, now) if moment > now else "due now"


def usd(amount: float | None) -> str:
    """US dollars; a dash where the amount is not known."""
    return NONE if amount is None else dollars(amount)


def per_second(rate: float | None) -> str:
    """A number of requests a second; a dash where it is not known (yet)."""
    if rate is None:
        return NONE
    if 0 < rate < 0.01:
        return "below 0.01"
    return f"{rate:.2f}" if 0 < rate < 10 else f"{rate:.0f}"
