"""Registries that send without end, in bytes or in time: the client stops in time and in little memory."""

from __future__ import annotations

import hashlib
import threading
import time
import tracemalloc
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from include.contracts.image_reference import parse_reference
from include.workloads.contract import TryAgain, UserConfigError, UserDataError
from include.workloads.oci.credentials import Credentials
from include.workloads.oci.registry import RegistryClient
from tests.support.dripping_server import ENDLESS, server
from tests.support.registry_server import LOOPBACK, MANIFEST, Handler, Registry

MIB = 1 << 20
FAST = 0.4
DIGEST = "sha256:" + "0" * 64


def client(port: int, credentials: Credentials | None = None) -> RegistryClient:
    found = RegistryClient(
        parse_reference(f"127.0.0.1:{port}/team/phi:1"),
        credentials,
        insecure=True,
        sleep=lambda seconds: None,
    )
    found.call_seconds = found.blob_seconds = FAST
    return found


CALLS: dict[str, Callable[[RegistryClient, Path], object]] = {
    "manifest": lambda client, path: client.manifest("1"),
    "digest": lambda client, path: client.reported_digest("1"),
    "download": lambda client, path: client.get_blob_into(DIGEST, path, 1 << 30),
    "upload": lambda client, path: client.put_blob(DIGEST, lambda: path.open("rb")),
    "put manifest": lambda client, path: client.put_manifest("1", MANIFEST),
}


# The answer to HEAD has no body, so those calls meet only what comes before one.
HELD = [
    (call, kind)
    for call in CALLS
    for kind in ENDLESS
    if "body" not in kind or call not in ("digest", "upload")
]


@pytest.mark.parametrize(("call", "kind"), HELD)
def test_a_whole_transfer_has_one_deadline(call: str, kind: str, tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"x")
    with server(ENDLESS[kind]) as port:
        begun = time.monotonic()
        with pytest.raises(TryAgain, match="took longer than 0 s"):
            CALLS[call](client(port), path)
        assert time.monotonic() - begun < 30, "the server never ends by itself"


@pytest.mark.parametrize("kind", ["headers", "100 Continue"])
def test_headers_have_a_deadline_of_their_own(kind: str):
    with server(ENDLESS[kind]) as port:
        found = client(port)
        found.call_seconds, found.transport.header_seconds = 60, 0.1
        begun = time.monotonic()
        with pytest.raises(TryAgain, match=r"no (whole )?answer within 0 s; tried 4 times"):
            found.manifest("1")
        assert time.monotonic() - begun < 30, "the server never ends by itself"


def endless(status: int, **headers: str) -> Callable[[Handler], bool]:
    def before(handler: Handler) -> bool:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.close_connection = True
        try:
            for _ in range(300):
                handler.wfile.write(b"x" * MIB)
        except OSError:
            pass
        return True

    return before


def in_little_memory(what: Callable[[], object]) -> None:
    tracemalloc.start()
    try:
        what()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * MIB


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (endless(200), UserDataError),
        (endless(404), None),
        (endless(418), UserConfigError),
        (endless(500), TryAgain),
        (endless(302, Location="/v2/team/phi/manifests/2"), TryAgain),
    ],
)
def test_a_body_without_end_is_not_read_whole(answer, fault, registry: Registry):
    registry.before = answer

    def ask() -> None:
        found = registry.client()
        if fault is None:
            assert found.manifest("1") is None
        else:
            with pytest.raises(fault):
                found.manifest("1")

    in_little_memory(ask)


def test_a_manifest_that_is_too_big_is_named(registry: Registry):
    registry.manifests["1"] = b" " * (4 * MIB + 1)
    with pytest.raises(UserDataError, match="manifest 1 is too big"):
        registry.client().manifest("1")
    registry.manifests["1"] = MANIFEST.ljust(4 * MIB)
    assert registry.client().manifest("1")


def test_a_blob_is_hashed_as_it_was_sent(registry: Registry, tmp_path: Path):
    """Some storage marks .tar.gz with Content-Encoding; unpacking it on the way would change it and has no limit."""
    content = b"no gzip at all"
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    registry.before = lambda handler: handler.reply(200, content, Content_Encoding="gzip")
    assert registry.client().get_blob_into(digest, tmp_path / "x", 100) == len(content)


def test_a_long_challenge_costs_no_time(registry: Registry):
    challenge = "Bearer " + "a" * 50_000 + ' realm="x"'
    registry.before = lambda handler: handler.reply(401, WWW_Authenticate=challenge)
    begun = time.process_time()  # of this process: what the challenge costs, whatever else the machine does
    with pytest.raises(UserConfigError, match="401"):
        registry.client(Credentials("h", "me", "password"), networks=LOOPBACK).manifest("1")
    assert time.process_time() - begun < 4, "it took 7 s when the pattern was quadratic"


def test_a_token_server_that_sends_without_end_is_stopped(registry: Registry):
    challenge = f'Bearer realm="http://127.0.0.1:{registry.port}/token",service="r"'

    def before(handler: Handler) -> bool:
        if handler.path.startswith("/token"):
            return endless(200)(handler)
        return handler.reply(401, WWW_Authenticate=challenge)

    registry.before = before

    def ask() -> None:
        with pytest.raises(TryAgain):
            registry.client().manifest("1")

    in_little_memory(ask)


def test_a_password_does_not_follow_a_redirect_of_the_token_server(registry: Registry):
    seen: list[str | None] = []
    other = Registry()
    other.before = lambda handler: seen.append(handler.headers.get("Authorization")) or handler.reply(403)
    elsewhere = ThreadingHTTPServer(("127.0.0.1", 0), type("Other", (Handler,), {"registry": other}))
    thread = threading.Thread(target=elsewhere.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    challenge = f'Bearer realm="http://127.0.0.1:{registry.port}/token",service="r"'

    def before(handler: Handler) -> bool:
        if handler.path.startswith("/token"):
            return handler.reply(302, Location=f"http://127.0.0.1:{elsewhere.server_port}/x")
        return handler.reply(401, WWW_Authenticate=challenge)

    registry.before = before
    try:
        with pytest.raises(UserConfigError):
            registry.client(Credentials("h", "me", "password"), networks=LOOPBACK).manifest("1")
    finally:
        elsewhere.shutdown()
        elsewhere.server_close()
        thread.join()
    assert seen == [None]
