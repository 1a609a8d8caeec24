"""OpenAPI documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from include.sandbox.api.errors import no_such_path

if TYPE_CHECKING:
    from include.sandbox.api.resources import Kinds

Json = dict[str, Any]


class OpenApi:
    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds

    def answer(self, request: web.Request) -> web.StreamResponse:
        raise no_such_path()
