"""Watches feed keys into a queue; a controller reconciles one key at a time, and again when it failed.

The loops here are the only endless ones, so that every controller is a function of the cluster's state that a test can
call. An event must never be needed for correctness: the feeds list again after every break and every `resync` seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from sandbox.api.cluster import ApiError, Cluster

log = logging.getLogger(__name__)

Object = dict[str, Any]
Key = tuple[str, str]  # namespace ("" when cluster-scoped), name
Listener = Callable[[str, Object], None]

CONFLICT, GONE, NOT_FOUND = 409, 410, 404
FIRST_RETRY, LONGEST_RETRY = 0.05, 20.0


def key_of(obj: Object) -> Key:
    metadata = obj["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


async def read(cluster: Cluster, resource: str, key: Key) -> Object | None:
    """The object, or None when there is none."""
    try:
        return await cluster.get(resource, key[1], key[0] or None)
    except ApiError as error:
        if error.code == NOT_FOUND:
            return None
        raise


async def remove(cluster: Cluster, resource: str, obj: Object, grace_seconds: int | None = None) -> None:
    """Delete exactly this object (by uid); it is fine when it is gone already or was replaced."""
    options: Object = {"preconditions": {"uid": obj["metadata"]["uid"]}}
    if grace_seconds is not None:
        options["gracePeriodSeconds"] = grace_seconds
    namespace, name = key_of(obj)
    try:
        await cluster.delete(resource, name, namespace or None, options)
    except ApiError as error:
        if error.code not in (NOT_FOUND, CONFLICT):
            raise


async def write_status(cluster: Cluster, resource: str, obj: Object, status: Object) -> None:
    """Replace the status when it differs; a conflict is left to the next round, a vanished object to nobody."""
    if (obj.get("status") or {}) == status:
        return
    try:
        await cluster.update(resource, {**obj, "status": status}, subresource="status")
    except ApiError as error:
        if error.code != NOT_FOUND:
            raise


class Feeds:
    """One list-and-watch per resource, shared by all controllers of the process."""

    def __init__(self, cluster: Cluster, resync: float = 30.0) -> None:
        self._cluster = cluster
        self._resync = resync
        self._listeners: dict[str, list[Listener]] = {}
        self._known: dict[str, dict[Key, Object]] = {}

    def subscribe(self, resource: str, listener: Listener) -> None:
        """Call `listener("ADDED"|"MODIFIED"|"DELETED"|"SYNC", obj)`; must be called before `run`."""
        self._listeners.setdefault(resource, []).append(listener)
        self._known.setdefault(resource, {})

    def known(self, resource: str) -> list[Object]:
        """What was last seen; may lag behind the cluster by a moment."""
        return list(self._known.get(resource, {}).values())

    def known_one(self, resource: str, key: Key) -> Object | None:
        return self._known.get(resource, {}).get(key)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for resource in self._listeners:
                group.create_task(self._follow(resource), name=f"feed {resource}")

    async def _follow(self, resource: str) -> None:
        while True:
            try:
                version = await self._list(resource)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._resync):
                        await self._watch(resource, version)
            except ApiError as error:
                if error.code != GONE:
                    log.warning("Watching %s broke and starts again: %s", resource, error.message)
                    await asyncio.sleep(FIRST_RETRY)

    async def _list(self, resource: str) -> str:
        items, version = await self._cluster.list(resource)
        known = self._known[resource]
        current = {key_of(item): item for item in items}
        for key in [key for key in known if key not in current]:
            self._notify(resource, "DELETED", known.pop(key))
        for key, item in current.items():
            known[key] = item
            self._notify(resource, "SYNC", item)
        return version

    async def _watch(self, resource: str, version: str) -> None:
        known = self._known[resource]
        async for event, obj in self._cluster.watch(resource, since=version):
            if event == "BOOKMARK":
                continue
            if event == "DELETED":
                known.pop(key_of(obj), None)
            else:
                known[key_of(obj)] = obj
            self._notify(resource, event, obj)

    def _notify(self, resource: str, event: str, obj: Object) -> None:
        for listener in self._listeners[resource]:
            try:
                listener(event, obj)
            except Exception:
                log.exception("A listener of %s failed", resource)


class Controller:
    """A work queue over keys of `resource`. A key is never reconciled twice at the same time."""

    resource: ClassVar[str] = ""
    workers: ClassVar[int] = 2

    def __init__(self, cluster: Cluster, feeds: Feeds) -> None:
        self.cluster = cluster
        self.feeds = feeds
        self._queue: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()
        self._busy: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        if self.resource:  # without one, its keys come from elsewhere
            feeds.subscribe(self.resource, lambda _event, obj: self.enqueue(key_of(obj)))

    async def reconcile(self, key: Key) -> float | None:
        """Bring the cluster one step nearer to what the object asks; return seconds until it must be called again."""
        raise NotImplementedError

    def enqueue(self, key: Key) -> None:
        if key not in self._waiting:
            self._waiting.add(key)
            if key not in self._busy:
                self._queue.put_nowait(key)

    def enqueue_after(self, key: Key, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        pending = self._timers.pop(key, None)
        if pending is not None:
            if (
                not pending.cancelled()
                and pending.when() <= loop.time() + seconds
                and pending.when() > loop.time()
            ):
                self._timers[key] = pending
                return
            pending.cancel()
        self._timers[key] = loop.call_later(max(seconds, 0.0), self.enqueue, key)

    def follow_owned(self, resource: str, owner_kind: str) -> None:
        """Reconcile the owner when something that it controls changes."""

        def listener(_event: str, obj: Object) -> None:
            for owner in obj["metadata"].get("ownerReferences") or []:
                if owner.get("controller") and owner.get("kind") == owner_kind:
                    self.enqueue((obj["metadata"].get("namespace") or "", owner["name"]))

        self.feeds.subscribe(resource, listener)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.workers):
                group.create_task(self._work(), name=type(self).__name__)

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            self._waiting.discard(key)
            self._busy.add(key)
            try:
                after = await self.reconcile(key)
                self._failures.pop(key, None)
                if after is not None:
                    self.enqueue_after(key, after)
            except Exception as error:
                self._retry(key, error)
            finally:
                self._busy.discard(key)
                if key in self._waiting:
                    self._queue.put_nowait(key)

    def _retry(self, key: Key, error: Exception) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        if not (isinstance(error, ApiError) and error.code == CONFLICT):
            log.warning(
                "%s failed on %s: %s", type(self).__name__, "/".join(key), error, exc_info=failures == 1
            )
        self.enqueue_after(key, min(FIRST_RETRY * 2 ** min(failures - 1, 10), LONGEST_RETRY))
