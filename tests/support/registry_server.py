"""A container registry in a thread, which answers as a test wants it."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from include.contracts.image_reference import parse_reference
from include.contracts.network_policy import NetworkPolicy
from include.workloads.network import AddressPolicy
from include.workloads.oci.credentials import Credentials
from include.workloads.oci.registry import RegistryClient

LOOPBACK = ("127.0.0.0/8",)

MANIFEST = b'{"schemaVersion":2}'


@dataclass
class Registry:
    """Blobs and manifests in memory; `before` may answer a request instead (returning True)."""

    port: int = 0
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    before: Callable[[Handler], bool] | None = None
    slept: list[float] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def client(
        self, credentials: Credentials | None = None, tag: str = "1", networks: tuple[str, ...] = ()
    ) -> RegistryClient:
        reference = parse_reference(f"127.0.0.1:{self.port}/team/phi:{tag}")
        addresses = AddressPolicy(NetworkPolicy.of(networks), registry=True)
        return RegistryClient(reference, credentials, True, sleep=self.slept.append, addresses=addresses)


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Handler(BaseHTTPRequestHandler):
    registry: Registry

    def reply(self, status: int, body: bytes = b"", **headers: str) -> bool:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return True

    def handle_one(self) -> None:
        store = self.registry
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        store.asked.append((self.command, self.path))
        if store.before and store.before(self):
            return
        kind, _, last = urlsplit(self.path).path.rpartition("/")
        if self.command == "POST" or "uploads" in self.path:
            self.take_blob(last)
        else:
            self.tell_or_change(kind, last)

    def take_blob(self, last: str) -> None:
        store = self.registry
        if self.command == "POST":
            upload = str(next(store.numbers))
            store.uploads[upload] = b""
            self.reply(202, Location=f"/v2/team/phi/blobs/uploads/{upload}?state=x")
        elif last not in store.uploads:
            self.reply(404)
        elif self.command == "PATCH":
            self.take_piece(last)
        elif self.command == "PUT":
            digest = parse_qs(urlsplit(self.path).query)["digest"][0]
            store.blobs[digest] = store.uploads.pop(last) + self.body
            self.reply(201)
        else:
            self.tell_upload(204, last)

    def tell_or_change(self, kind: str, last: str) -> None:
        store = self.registry
        if self.command == "PUT":
            store.manifests[last] = self.body
            self.reply(201)
        elif self.command == "DELETE":
            gone = [key for key, value in store.manifests.items() if digest_of(value) == last]
            for key in gone:
                del store.manifests[key]
            self.reply(202 if gone else 404)
        elif kind.endswith("/tags"):
            tags = sorted(key for key in store.manifests if ":" not in key)
            self.reply(200, json.dumps({"tags": tags}).encode())
        else:
            self.give(kind, last)

    def give(self, kind: str, last: str) -> None:
        store = self.registry
        content = (store.blobs if kind.endswith("blobs") else store.manifests).get(last)
        if content is None and kind.endswith("manifests"):
            content = next((one for one in store.manifests.values() if digest_of(one) == last), None)
        if content is None:
            self.reply(404)
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.reply(206 if start else 200, content[start:], Docker_Content_Digest=digest_of(content))

    def take_piece(self, upload: str) -> None:
        known = self.registry.uploads[upload]
        if int(self.headers["Content-Range"].partition("-")[0]) != len(known):
            self.reply(416)
            return
        self.registry.uploads[upload] = known + self.body
        self.tell_upload(202, upload)

    def tell_upload(self, status: int, upload: str) -> None:
        known = len(self.registry.uploads[upload])
        location = f"/v2/team/phi/blobs/uploads/{upload}?state={known}"
        self.reply(status, Location=location, Range=f"0-{max(known - 1, 0)}")

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_one

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def registry() -> Iterator[Registry]:
    store = Registry()
    handler = type("Bound", (Handler,), {"registry": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    store.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield store
    server.shutdown()
    server.server_close()
    thread.join()
