"""A cluster as the pages ask it, and what they wrote into Airflow's audit log."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from kaito.hooks.api import ClusterError, Request


class FakeHook:
    """A cluster with some Workspaces: what was sent to it, and what it refuses."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.objects = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for one in objects}
        self.sent: list[Request] = []
        self.deleted: list[tuple[str, str, str | None]] = []
        self.error: Exception | None = None
        self.lists = 0
        self.told: list[dict[str, Any]] = []
        self.models = ["base", "served"]
        self.task = ""
        self.broken = ""
        self.last = b"data: [DONE]\n"

    def __call__(self) -> FakeHook:
        return self

    async def pages(self, *_: Any) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
        self.lists += 1
        if self.error:
            raise self.error
        yield copy.deepcopy(list(self.objects.values())), "1"

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[FakeHook]:
        yield self

    async def find(self, _kind: Any, name: str, namespace: str) -> dict[str, Any] | None:
        if self.error:
            raise self.error
        return copy.deepcopy(self.objects.get((namespace, name)))

    async def send(self, request: Request) -> dict[str, Any]:
        if self.error:
            raise self.error
        self.sent.append(request)
        if "/proxy/" in request.path:
            return self._served(request)
        return {"items": self.told} if request.method == "GET" else {}

    def _served(self, request: Request) -> dict[str, Any]:
        """What a service says, with two models of which one is broken where `broken` names it."""
        if request.path.endswith("/v1/models"):
            more = {"task": self.task} if self.task else {}
            return {"data": [{"id": name, **more} for name in self.models]}
        raise AssertionError(f"nobody answers {request.path} at once")

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """What a service generates, a few letters at a time."""
        self.sent.append(request)
        model = request.body["model"]
        if model == self.broken:
            raise ClusterError(500, "InternalError", "out of memory")
        said = f"{model} says: {request.body['messages'][0]['content']}"
        pieces = [said[at : at + 3] for at in range(0, len(said), 3)]

        async def lines() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield f"data: {json.dumps({'choices': [{'delta': {'content': piece}}]})}\n".encode()
                yield b"\n"
            yield self.last

        yield SimpleNamespace(content=lines())

    async def delete(self, _kind: Any, name: str, namespace: str, uid: str | None = None) -> bool:
        self.deleted.append((namespace, name, uid))
        return True


def entries() -> list[Any]:
    from airflow.models.log import Log
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session(scoped=False) as session:
        return list(session.scalars(select(Log)))
