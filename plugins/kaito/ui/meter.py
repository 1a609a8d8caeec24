"""Asks services how many requests they have answered, while somebody looks at them, and never more than a few a second.

A page shows what is known when it is drawn and waits for nothing. However many pages are open and however many services
there are, at most `MOST_AT_ONCE` services are asked in `PASS_SECONDS`, those that were asked longest ago.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from include.views.state import served_since
from include.views.traffic import Key, Traffic
from include.workspace.api import names
from kaito.ui.cluster import Cluster
from kaito.ui.problems import Problem

log = logging.getLogger(__name__)

PASS_SECONDS, MOST_AT_ONCE = 10.0, 20
#: How often one service is asked while all are looked at, and while its own page is.
FLEET_PAUSE, PAGE_PAUSE = 30.0, 4.0


class Meter:
    """The requests a second of the services of one cluster.

    :param clock: seconds that never go back.
    """

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._clock = cluster, clock
        self._traffic = Traffic()
        self._passed = -PASS_SECONDS
        self._tasks: set[asyncio.Task[None]] = set()

    def rate(self, key: Key) -> float | None:
        """Return the requests a second of a service, None while that is not known."""
        return self._traffic.per_second(key, self._clock())

    def look_at_all(self, workspaces: Iterable[Mapping[str, Any]]) -> None:
        """Somebody looks at all Workspaces: ask some of the services among them, in the background."""
        now = self._clock()
        if now - self._passed < PASS_SECONDS:
            return
        self._passed = now
        ready = _ready(workspaces)
        self._traffic.keep(ready)
        self._ask(self._traffic.due(ready, now, FLEET_PAUSE, MOST_AT_ONCE), now)

    def look_at(self, workspace: Mapping[str, Any]) -> None:
        """Somebody looks at one Workspace: ask its service, in the background."""
        now = self._clock()
        self._ask(self._traffic.due(_ready([workspace]), now, PAGE_PAUSE, 1), now)

    def _ask(self, keys: list[Key], now: float) -> None:
        for key in keys:
            self._traffic.asked(key, now)
        if keys:
            task = asyncio.create_task(self._ask_each(keys))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask_each(self, keys: list[Key]) -> None:
        waiting = iter(keys)
        try:
            async for counts in self._cluster.answered(keys):
                key = next(waiting)
                if counts:
                    self._traffic.heard(key, counts, self._clock())
        except Problem as problem:
            log.info("Services do not tell how they are used: %s", problem.sentence)

    async def settled(self) -> None:
        """Wait until everything that was asked has been answered."""
        await asyncio.gather(*self._tasks)


def _ready(workspaces: Iterable[Mapping[str, Any]]) -> list[Key]:
    return [
        (names.namespace(one), str(one["metadata"]["name"]))
        for one in workspaces
        if served_since(one.get("status") or {}) is not None
    ]
