"""A small web server whose answers a test decides, and a fetcher that may reach it and never sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from include.workloads.dataset.connection import PinnedClient
from include.workloads.dataset.fetch import Fetcher, Limits
from include.workloads.network import AddressPolicy
from tests.support.dataset_server import LOOPBACK, Web, send


@pytest.fixture
def web() -> Iterator[Web]:
    site = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, dict(self.headers)))
            route = site.routes.get(self.path.partition("?")[0])
            if route is None:
                send(self, b"no such page", 404)
            else:
                route(self)

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def make_fetcher(slept: list[float]) -> Callable[..., Fetcher]:
    def make(resolve: Callable[[str, int], list[str]] | None = None, **limits: float) -> Fetcher:
        policy = AddressPolicy(LOOPBACK, resolve) if resolve else AddressPolicy(LOOPBACK)
        client = PinnedClient(policy, connect_seconds=2, read_seconds=2)
        return Fetcher(client, Limits(**limits), sleep=slept.append)

    return make


@pytest.fixture
def fetcher(make_fetcher: Callable[..., Fetcher]) -> Fetcher:
    return make_fetcher()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file"
