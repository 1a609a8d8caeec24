"""A model server to put below the gateway: it answers what it is told to, remembers what it was asked, and no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from include.workloads.serving.gateway.asgi import Receive, Scope, Send, answer
from include.workloads.serving.gateway.gateway import Gateway, Parts

Answer = Callable[[Any], tuple[int, Any]]


class Below:
    """An ASGI application; `answers` by path, 200 and what was asked otherwise."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = {f"/{name.replace('__', '/')}": value for name, value in answers.items()}
        self.asked: list[tuple[str, Any]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.begun = asyncio.Event()
        self.disconnects = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        if scope["method"] == "POST":
            more = True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
        value = json.loads(body) if body.startswith(b"{") else None
        self.asked.append((scope["path"], value))
        self.begun.set()
        await self.go_on.wait()
        if scope["path"] == "/metrics":
            return await answer(send, 200, b"vllm:num_requests_running 0.0\n", kind="text/plain")
        told = self.answers.get(scope["path"])
        status, content = told(value) if told else (200, {"asked": value})
        if isinstance(content, list):
            await send({"type": "http.response.start", "status": status, "headers": []})
            for part in content:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            return await send({"type": "http.response.body", "body": b""})
        return await answer(send, status, content)


def client(below: Below, **parts: Any) -> httpx.AsyncClient:
    """A client of the gateway around it."""
    return client_of(Gateway(below, Parts(**parts)))


def client_of(gateway: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=gateway, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://server")


async def pieces(*parts: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    """A body that comes piece by piece."""
    for part in parts:
        yield part
        await asyncio.sleep(pause)


def value_of(metrics: str, name: str) -> float:
    """The sum of a metric's samples."""
    return sum(
        float(line.split()[-1]) for line in metrics.splitlines() if line.startswith((f"{name} ", f"{name}{{"))
    )
