"""Lengths of time as a policy writes them: `90s`, `30m`, `6h`, `7d`."""

from __future__ import annotations

import re
from datetime import timedelta

ALLOWED = "write a number and a unit, such as 90s, 30m, 6h or 7d"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TEXT = re.compile(r"(?P<number>\d{1,8})(?P<unit>[smhd])")


def duration(text: object) -> timedelta:
    """The length of time. Raises ValueError for anything else; a bare 0 is none at all."""
    if text in (0, "0") and not isinstance(text, bool):
        return timedelta()
    found = _TEXT.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"is no length of time; {ALLOWED}")
    return timedelta(seconds=int(found["number"]) * _UNITS[found["unit"]])


def in_words(length: timedelta) -> str:
    """The shortest text that means it."""
    seconds = int(length.total_seconds())
    for unit in "dhm":
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"
