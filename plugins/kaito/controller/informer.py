"""List, then watch, for ever: the one loop that every controller needs, with as little in it as possible.

A watch breaks off all the time: the server ends it after some minutes, a version gets too old (410), connections
drop, servers throttle. None of that may reach the consumer as anything but "here is what changed" or "here is the
whole list again", and none of it may become a tight loop. Nothing here knows what is watched.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from kaito.hooks import api
from kaito.hooks.api import ClusterError, Kind, Labels
from kaito.hooks.kubernetes import AsyncKaitoClusterHook

log = logging.getLogger(__name__)

#: The server ends a watch after that long, so that no connection gets old (a dead peer is noticed).
WATCH_SECONDS = 240
#: A kind that is not there, or that we may not see, is asked for again after that long.
ABSENT_SECONDS = 30.0
#: A watch that ends earlier than that, having said nothing, counts as a failure.
TOO_SHORT = 1.0


@dataclass
class Backoff:
    """Waits longer after each failure in a row, up to ``cap`` seconds, each time by another random part of it."""

    first: float = 0.5
    cap: float = 30.0
    failures: int = 0

    def next(self, at_least: float = 0.0) -> float:
        """Return the seconds to wait after one more failure."""
        self.failures += 1
        span = min(self.cap, self.first * 2.0 ** (self.failures - 1))
        return max(at_least, span * random.uniform(0.5, 1.0))  # noqa: S311 no secret

    def reset(self) -> None:
        self.failures = 0


@dataclass(frozen=True)
class Change:
    """One piece of news.

    ``type`` is PAGE (some objects of a new list), LISTED (the list is complete: what was not in it is gone), ADDED,
    MODIFIED, DELETED, BOOKMARK, or ABSENT (there is no such kind, or we may not see it). ``version`` is where a watch
    that has seen this goes on.
    """

    type: str
    version: str
    objects: list[dict[str, Any]] = field(default_factory=list)


async def changes(
    hook: AsyncKaitoClusterHook,
    kind: Kind,
    labels: Labels | None = None,
    *,
    since: str = "",
    metadata_only: bool = False,
) -> AsyncIterator[Change]:
    """Yield what changes, for ever.

    :param since: go on from this version instead of listing first.
    :raises ClusterError: our credentials are no longer good (401); anything else is waited for.
    """
    trouble, version = _Trouble(kind), since
    while True:
        begin, heard = time.monotonic(), False
        try:
            if not version:
                async for found, at in hook.pages(kind, None, labels, metadata_only=metadata_only):
                    yield Change("PAGE", at, found)
                    version = at
                yield Change("LISTED", version)
            async for change in _watch(hook, kind, labels, version, metadata_only):
                version, heard = change.version, True
                trouble.over()
                yield change
            if not heard and time.monotonic() - begin < TOO_SHORT:
                await asyncio.sleep(trouble.backoff.next())
        except ClusterError as error:
            pause = trouble.meet(error)
            if error.status in (403, 404):
                yield Change("ABSENT", "")
            if error.status in (403, 404, 410):
                version = ""
            await asyncio.sleep(pause)


class _Trouble:
    """What to say about the troubles of one watch (each once), and how long to wait after one."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.backoff = Backoff()
        self.said = ""

    def over(self) -> None:
        self.backoff.reset()
        self.said = ""

    def meet(self, error: ClusterError) -> float:
        """Return the seconds to wait. Raises the error when waiting cannot help."""
        if error.status == 401:
            raise error
        if error.status == 410:
            log.info("The watch on %s is too far behind: listing again.", self.kind.plural)
            wait = self.backoff.next()
            return 0.0 if self.backoff.failures == 1 else wait  # the first time is ordinary
        if str(error) != self.said:
            log.warning("%s", self._sentence(error))
            self.said = str(error)
        return ABSENT_SECONDS if error.status in (403, 404) else self.backoff.next(error.retry_after)

    def _sentence(self, error: ClusterError) -> str:
        plural = self.kind.plural
        if error.status == 404:
            return f"The cluster does not know {plural} ({self.kind.api_version}) yet; looking again later."
        if error.status == 403:
            return f"May not watch {plural}: {error}. They are looked at when something else changes."
        return f"The watch on {plural} broke off: {error}"


async def _watch(
    hook: AsyncKaitoClusterHook, kind: Kind, labels: Labels | None, version: str, metadata_only: bool
) -> AsyncIterator[Change]:
    request = api.watching(kind, None, labels, version, WATCH_SECONDS, metadata_only=metadata_only)
    async with hook.stream(request) as response:
        async for line in lines(response.content.iter_any()):
            event = json.loads(line)
            obj = event["object"]
            if event["type"] == "ERROR":
                raise ClusterError(obj.get("code", 0), obj.get("reason", ""), obj.get("message", ""))
            at = obj["metadata"]["resourceVersion"]
            yield Change(event["type"], at, [] if event["type"] == "BOOKMARK" else [obj])


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Split a stream at line ends. aiohttp's own reading by line gives up at 128 KiB; an object may have 1.5 MiB."""
    rest: list[bytes] = []
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        for part in others:
            if line := b"".join(rest).strip():
                yield line
            rest = [part]
    if line := b"".join(rest).strip():
        yield line
