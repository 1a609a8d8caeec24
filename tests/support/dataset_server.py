"""Web servers in a thread that datasets are fetched from."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from include.contracts.network_policy import NetworkPolicy

LOOPBACK = NetworkPolicy.of(["127.0.0.1/32"])

Answer = Callable[[BaseHTTPRequestHandler], None]


def send(
    handler: BaseHTTPRequestHandler,
    body: bytes = b"",
    status: int = 200,
    length: int | None = None,
    **headers: str,
) -> None:
    """Answer with a body; `length` claims another Content-Length than the body has."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


@contextmanager
def folder_server(folder: Path) -> Iterator[str]:
    """The files of a folder, as any plain web server has them, until the end of the block; yields its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@dataclass
class Web:
    """The server's routes and what it was asked: (path, headers)."""

    routes: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    posted: list[str] = field(default_factory=list)
    port: int = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def serve(self, path: str, body: bytes, **headers: str) -> str:
        self.routes[path] = lambda handler: send(handler, body, **headers)
        return self.url(path)

    def redirect(self, path: str, to: str) -> str:
        self.routes[path] = lambda handler: send(handler, status=302, Location=to)
        return self.url(path)


@contextmanager
def running() -> Iterator[Web]:
    """A server on a free port of this machine, until the end of the block."""
    site = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, dict(self.headers)))
            route = site.routes.get(self.path.partition("?")[0])
            if route is None:
                send(self, b"no such page", 404)
            else:
                route(self)

        def do_POST(self) -> None:
            site.posted.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.do_GET()

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
