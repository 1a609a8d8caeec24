"""Watches over HTTP: one JSON line per change, bookmarks, time limits, and 410 inside the stream."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

from aiohttp import web

from sandbox.api.errors import FORBIDDEN, ApiError, FieldError, invalid
from sandbox.api.http.listing import number
from sandbox.api.http.negotiation import flag
from sandbox.api.storage.watch import Watch
from sandbox.api.writes.pipeline import from_storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.api.cluster import Cluster
    from sandbox.api.http.address import Address
    from sandbox.api.http.fault_injection import FaultInjector, OpenWatch
    from sandbox.api.storage.database import Entry

Json = dict[str, Any]

_MINIMUM_SECONDS = 1800  # --min-request-timeout: a watch without a limit ends after one to two times this
_BOOKMARK_SECONDS = 60.0
_INITIAL_END = {"k8s.io/initial-events-end": "true"}


class HttpWatch:
    """One watch request from its query to its last line."""

    def __init__(
        self,
        cluster: Cluster,
        address: Address,
        request: web.Request,
        shape: Callable[[Json], Json] | None,
        fault_injector: FaultInjector,
    ) -> None:
        self._cluster = cluster
        self._info = address.info
        self._address = address
        self._request = request
        self._shape = shape
        self._fault_injector = fault_injector
        query = request.query
        self._bookmarks = flag(query, "allowWatchBookmarks")
        self._send_initial = flag(query, "sendInitialEvents")
        self._seconds = number(query, "timeoutSeconds") or random.uniform(1, 2) * _MINIMUM_SECONDS  # noqa: S311
        self._since = str(number(query, "resourceVersion") or "")
        self._check()

    def _check(self) -> None:
        if "sendInitialEvents" in self._request.query and "resourceVersionMatch" not in self._request.query:
            why = "resourceVersionMatch is required when sendInitialEvents is set"
            faults = [FieldError("resourceVersionMatch", FORBIDDEN, None, why)]
            raise invalid("ListOptions", "meta.k8s.io", "", faults)

    async def run(self) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
        )
        await response.prepare(self._request)
        running = self._fault_injector.enter(
            self._request.path, self._cluster.storage.log(self._info.key).wake
        )
        try:
            await self._stream(response, running)
        except ApiError as error:
            await response.write(_line("ERROR", error.status()))
        except (ConnectionResetError, asyncio.CancelledError):
            return response
        finally:
            self._fault_injector.leave(running)
        if running.broken:
            if self._request.transport is not None:
                self._request.transport.abort()
            return response
        await response.write_eof()
        return response

    def _watch(self) -> Watch:
        query, name = self._request.query, self._address.name
        fields = query.get("fieldSelector", "")
        if name is not None:
            fields = f"{fields},metadata.name={name}" if fields else f"metadata.name={name}"
        matches = self._cluster.predicate(self._info, query.get("labelSelector", ""), fields)
        since = None if self._send_initial else self._since
        return Watch(self._cluster.storage, self._info.key, self._address.namespace, since, matches)

    async def _stream(self, response: web.StreamResponse, running: OpenWatch) -> None:
        watch = self._watch()
        loop = asyncio.get_running_loop()
        end, bookmark = loop.time() + self._seconds, loop.time() + _BOOKMARK_SECONDS
        if self._send_initial:
            await self._write(response, watch.start())
            if self._bookmarks:
                await response.write(self._bookmark(watch.revision, _INITIAL_END))
        while loop.time() < end and not running.broken:
            wait = min(end, bookmark if self._bookmarks else end) - loop.time()
            await self._write(response, await watch.batch(max(wait, 0)))
            if self._bookmarks and loop.time() >= bookmark:
                await response.write(self._bookmark(watch.reached()))
                bookmark = loop.time() + _BOOKMARK_SECONDS

    async def _write(self, response: web.StreamResponse, events: list[tuple[str, Entry]]) -> None:
        if events:
            await response.write(b"".join(self._event(kind, entry) for kind, entry in events))

    def _event(self, kind: str, entry: Entry) -> bytes:
        if self._shape is None and self._info.conversion is None:
            return b'{"type":"%s","object":%s}\n' % (kind.encode(), entry.text())
        obj = from_storage(self._info, entry.obj)
        return _line(kind, self._shape(obj) if self._shape else obj)

    def _bookmark(self, revision: int, annotations: dict[str, str] | None = None) -> bytes:
        meta: Json = {"resourceVersion": str(revision), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        obj: Json = {"kind": self._info.kind, "apiVersion": self._info.api_version, "metadata": meta}
        return _line("BOOKMARK", self._shape(obj) if self._shape else obj)


def _line(kind: str, obj: Json) -> bytes:
    return (
        json.dumps({"type": kind, "object": obj}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    )
