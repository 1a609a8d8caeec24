"""Faults on demand, as the API server feels them: slow answers, 500s, 429s, watches that break.

Only requests over HTTP feel them, never the sandbox's own controllers. Without a fault set, nothing happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus

from sandbox.api.errors import ApiError
from sandbox.faults import Fault, FaultKind, Faults


@dataclass(eq=False)
class OpenWatch:
    """One running watch: `broken` tells it to break off, `wake` makes it look."""

    path: str
    wake: Callable[[], None]
    broken: bool = False


class FaultInjector:
    """Asked before every request; remembers the running watches so that it can break them."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._watches: set[OpenWatch] = set()
        faults.listen(FaultKind.WATCH_DROP, self._drop)

    async def before(self, method: str, path: str) -> None:
        """Delay or refuse a request, as set; raises ApiError."""
        target = f"{method} {path}"
        if slow := self._faults.inject(FaultKind.API_LATENCY, target):
            await asyncio.sleep(slow.value or 0)
        if throttled := self._faults.inject(FaultKind.API_THROTTLE, target):
            message = throttled.message or (
                "the server has received too many requests and has asked us to try again later"
            )
            raise ApiError(429, "TooManyRequests", message, retry_after=int(throttled.value or 1))
        if failed := self._faults.inject(FaultKind.API_ERROR, target):
            code = int(failed.value or 500)
            message = failed.message or "the sandbox was told to fail this request"
            reason = {500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}.get(code, "")
            raise ApiError(code, reason or HTTPStatus(code).phrase.replace(" ", ""), message)

    def enter(self, path: str, wake: Callable[[], None]) -> OpenWatch:
        """Announce a watch."""
        watch = OpenWatch(path, wake)
        self._watches.add(watch)
        return watch

    def leave(self, watch: OpenWatch) -> None:
        self._watches.discard(watch)

    def _drop(self, fault: Fault, active: bool) -> None:
        for watch in self._watches:
            if active and fnmatchcase(watch.path, fault.target):
                watch.broken = True
                watch.wake()
