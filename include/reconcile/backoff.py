"""When to try again: exponential, capped, and the same every time.

Without jitter, since one reconciler serves all Workspaces and a decision must be repeatable. Never reads the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from include.workspace.status.conditions import moment as moment
from include.workspace.status.conditions import timestamp

FIRST_SECONDS = 5.0
CAP_SECONDS = 300.0


def seconds(failures: int, first: float = FIRST_SECONDS, cap: float = CAP_SECONDS) -> float:
    """The pause in seconds after that many failures in a row: 5, 10, 20 ... 300."""
    return min(cap, first * 2.0 ** min(max(failures - 1, 0), 16))


def failed(
    retry: Mapping[str, Any] | None,
    now: datetime,
    message: str,
    *,
    first: float = FIRST_SECONDS,
    cap: float = CAP_SECONDS,
) -> dict[str, Any]:
    """The next `status.retry` after one more failure."""
    failures = int((retry or {}).get("failures") or 0) + 1
    after = timestamp(now + timedelta(seconds=seconds(failures, first, cap)))
    return {"failures": failures, "after": after, "message": message}


def wait(retry: Mapping[str, Any] | None, now: datetime) -> float:
    """Seconds until `status.retry` allows the next attempt, 0.0 when it is allowed now."""
    after = moment((retry or {}).get("after"))
    return max(0.0, (after - now).total_seconds()) if after else 0.0
