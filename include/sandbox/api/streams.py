"""Requests that stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from include.sandbox.api.errors import not_implemented

if TYPE_CHECKING:
    from aiohttp import web

    from include.sandbox.api.address import Address
    from include.sandbox.api.store import Cluster


class StreamRequests:
    def __init__(self, cluster: Cluster, node_log_root: Path) -> None:
        self._cluster = cluster

    async def answer(self, request: web.Request, address: Address) -> web.StreamResponse:
        raise not_implemented("streams")
