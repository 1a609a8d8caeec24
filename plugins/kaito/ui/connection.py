"""One client of the cluster for all pages: making one costs a fifth of what drawing a page does, most of it for TLS.

It is made anew after two minutes and after a failure, so that another address, certificate or token of the Airflow
connection counts soon. Requests that are under way keep the client that they began with.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from kaito.hooks.kubernetes import AsyncKaitoClusterHook

log = logging.getLogger(__name__)

#: For how long a client is used, and how long it stays open after that, which no request outlasts; in seconds.
KEPT_SECONDS, LINGER_SECONDS = 120.0, 180.0


@dataclass(frozen=True)
class _Open:
    hook: AsyncKaitoClusterHook
    context: AbstractAsyncContextManager[AsyncKaitoClusterHook]
    since: float


class Connection:
    """Access to the cluster that stays open.

    :param hook: makes the access.
    """

    def __init__(self, hook: Callable[[], AsyncKaitoClusterHook]) -> None:
        self._hook = hook
        self._open: _Open | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def hook(self) -> AsyncKaitoClusterHook:
        """Return the access, opened where it is not or where it has been for long."""
        loop = asyncio.get_running_loop()
        if (
            self._loop is not loop
        ):  # a process has one for all its requests; a client of an ended one is of no use
            self._loop, self._open, self._opening = loop, None, asyncio.Lock()
        async with self._opening:
            if self._open is None or time.monotonic() - self._open.since > KEPT_SECONDS:
                hook = self._hook()
                context = hook.connected()
                opened = _Open(await context.__aenter__(), context, time.monotonic())
                self.forget()
                self._open = opened
            return self._open.hook

    def forget(self) -> None:
        """Open another one for the next request; this one is closed when nothing can use it any more."""
        if self._open is not None:
            task = asyncio.get_running_loop().create_task(_close(self._open))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._open = None


async def _close(opened: _Open) -> None:
    await asyncio.sleep(LINGER_SECONDS)
    try:
        await opened.context.__aexit__(None, None, None)
    except Exception:
        log.warning("A connection to the cluster could not be closed.", exc_info=True)
