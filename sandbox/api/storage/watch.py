"""Watches: the log of one resource from a version on, seen through selectors.

A watch keeps no queue: it remembers the revision it has reached and reads on in the shared log, so a slow client costs
nothing, and one that falls too far behind gets 410 as from a real server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from sandbox.api.storage.database import Change, Entry, Storage

if TYPE_CHECKING:
    from sandbox.api.storage.selectors import Predicate

Json = dict[str, Any]


class Watch:
    """Iterate with `async for`, or step with `batch` to keep time limits outside.

    `since` None or "0" starts with the present objects as ADDED.
    """

    def __init__(
        self,
        storage: Storage,
        resource: str,
        namespace: str | None = None,
        since: str | None = None,
        matches: Predicate | None = None,
    ) -> None:
        self._log = storage.log(resource)
        self._storage = storage
        self._resource = resource
        self._namespace = namespace
        self._matches = matches
        self._initial = since in (None, "", "0")
        self.revision = storage.revision if self._initial else int(since or 0)
        if not self._initial:
            self._log.after(self.revision)  # 410 now rather than at the first change

    def start(self) -> list[tuple[str, Entry]]:
        """The present objects, possibly none; for a client that wants to know where they end."""
        self._initial = False
        return self.initial()

    def initial(self) -> list[tuple[str, Entry]]:
        """The present objects, for a watch that starts with them."""
        self.revision = self._storage.revision
        return [
            ("ADDED", entry)
            for _, entry in self._storage.entries(self._resource, self._namespace)
            if self._matches is None or self._matches(entry.obj)
        ]

    async def batch(self, timeout: float | None = None) -> list[tuple[str, Entry]]:
        """The next events; empty when the seconds passed without one. Raises ApiError (410) when left behind."""
        if self._initial:
            self._initial = False
            if result := self.initial():
                return result
        result = self._ready()
        if not result:
            await self._log.changed(timeout)
            result = self._ready()
        return result

    def reached(self) -> int:
        """Up to which revision this watch has seen everything; what a bookmark may promise."""
        if not self._log.after(self.revision):
            self.revision = self._storage.revision
        return self.revision

    def _ready(self) -> list[tuple[str, Entry]]:
        changes = self._log.after(self.revision)
        if changes:
            self.revision = changes[-1].revision
        seen = (self._seen(change) for change in changes)
        return [event for event in seen if event is not None]

    def _seen(self, change: Change) -> tuple[str, Entry] | None:
        """A change as this watch sees it: an object that leaves the selection is DELETED, one that enters ADDED."""
        if self._namespace is not None and change.key[0] != self._namespace:
            return None
        if self._matches is None:
            return change.type, change.entry
        before = change.previous is not None and self._matches(change.previous.obj)
        after = change.type != "DELETED" and self._matches(change.entry.obj)
        if after:
            return ("MODIFIED" if before else "ADDED"), change.entry
        if not before or change.previous is None:
            return None
        last = change.previous.obj
        meta = {**last["metadata"], "resourceVersion": str(change.revision)}
        return "DELETED", Entry({**last, "metadata": meta}, change.revision)

    async def __aiter__(self) -> AsyncIterator[tuple[str, Entry]]:
        while True:
            for event in await self.batch():
                yield event
