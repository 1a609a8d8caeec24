"""The sentences about a dataset's rows: how many were used and why the others were not. Never a value of a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

SHOWN_NAMES, SHOWN_REASONS, NAME_CHARS = 20, 3, 40


def listed(names: Iterable[str]) -> str:
    """Column names, quoted and cut to what a sentence can carry."""
    shortened = [name if len(name) <= NAME_CHARS else name[: NAME_CHARS - 3] + "..." for name in names]
    more = f" and {len(shortened) - SHOWN_NAMES} more" if len(shortened) > SHOWN_NAMES else ""
    return ", ".join(repr(name) for name in shortened[:SHOWN_NAMES]) + more


def sentence(used: int, dropped: Counter[str], unread: Iterable[str] = ()) -> str:
    """Such as `2 of 8 rows used: 6 x text is empty; not read: 'id'`."""
    total = used + dropped.total()
    said = f"{used} of {total} rows used" if dropped else f"all {total} rows used"
    if dropped:
        reasons = dropped.most_common(SHOWN_REASONS)
        rest = dropped.total() - sum(count for _, count in reasons)
        shown = [f"{count} x {reason}" for reason, count in reasons]
        said += ": " + "; ".join([*shown, f"{rest} x other reasons"] if rest else shown)
    names = list(unread)
    return f"{said}; not read: {listed(names)}" if names else said
