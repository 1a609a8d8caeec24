"""Lines of a streamed answer reach the page over the real Kubernetes client while the answer is still written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest
from kaito.hooks import api
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.ui.cluster import Cluster
from kaito.ui.problems import Problem
from kubernetes_asyncio.client import ApiClient, Configuration

HEAD = "HTTP/1.1 {}\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def cluster_that(answer: Any) -> AsyncIterator[Cluster]:
    """The pages' cluster, whose API server answers by a function of the connection's writer."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"/services/served:80/proxy/v1/chat/completions" in await reader.readuntil(b"\r\n\r\n")
        await answer(writer)
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    host = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, ApiClient(Configuration(host=host)) as client:
        hook = AsyncKaitoClusterHook(conn_id="none")
        hook.get_conn = lambda: nullcontext(client)  # type: ignore[method-assign, assignment]
        yield Cluster(lambda: hook)


def question() -> api.Request:
    return api.service_post("served", "team", "v1/chat/completions", {"stream": True}, port=80, timeout=20)


async def test_a_line_is_there_before_the_next_is_written() -> None:
    had_first = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"{HEAD.format('200 OK')}data: one\n\n".encode())
        await writer.drain()
        await had_first.wait()
        writer.write(b"data: two\n\n")
        await writer.drain()

    lines = []
    async with asyncio.timeout(20), cluster_that(answer) as cluster:
        async for line in cluster.lines(question(), 20):
            lines.append(line)
            had_first.set()
    assert lines == ["data: one", "", "data: two", ""]


async def test_a_refusal_is_a_problem() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD.format("503 Service Unavailable").encode() + b"no endpoints")
        await writer.drain()

    async with asyncio.timeout(20), cluster_that(answer) as cluster:
        with pytest.raises(Problem) as raised:
            [_ async for _ in cluster.lines(question(), 20)]
    assert raised.value.sentence


async def test_one_that_never_ends_is_given_up() -> None:
    ended = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"{HEAD.format('200 OK')}data: one\n\n".encode())
        await writer.drain()
        await ended.wait()

    async with asyncio.timeout(20), cluster_that(answer) as cluster:
        with pytest.raises(Problem, match="no answer in"):
            [_ async for _ in cluster.lines(question(), 0.2)]
        ended.set()
