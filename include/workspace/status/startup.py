"""What `status.progress` says of a server that starts: the same fields that a training has, under stages of its own.

Whoever writes them and whoever shows them know by these stages which of the two it is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIELD = "progress"
DOWNLOADING, LOADING = "downloading the weights", "loading the weights"
STAGES = frozenset({DOWNLOADING, LOADING})
#: By how much it must have moved to be written again: a status write is news to everybody who watches.
STEP_PERCENT = 5


def share(step: int, total: int) -> int:
    """How much of the whole is done, in percent."""
    return min(100, round(100 * step / total)) if total else 0


def is_of_a_server(progress: object) -> bool:
    """Whether a `status.progress` is that of a server that starts."""
    return isinstance(progress, Mapping) and progress.get("stage") in STAGES


def written(status: Mapping[str, Any], told: Mapping[str, Any] | None) -> dict[str, Any]:
    """The status with what a starting server says; None takes away what it said before, and nothing of a training."""
    if told is not None:
        return {**status, FIELD: dict(told)}
    return {key: one for key, one in status.items() if key != FIELD or not is_of_a_server(one)}
