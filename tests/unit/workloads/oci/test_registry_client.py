"""How the client meets registries that are slow, broken, closed or dishonest: a stand-in answers as told."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from include.contracts.image_reference import parse_reference
from include.contracts.network_policy import NetworkPolicy
from include.contracts.redaction import redact
from include.workloads.adapter.layout import build_image
from include.workloads.adapter.push import push_image
from include.workloads.contract import TryAgain, UserConfigError, UserDataError
from include.workloads.network import AddressPolicy
from include.workloads.oci.checked_http import CheckedAdapter
from include.workloads.oci.credentials import Credentials
from include.workloads.oci.registry import RegistryClient
from include.workloads.oci.session import connect, read_reference
from tests.support.registry_server import LOOPBACK, MANIFEST, Handler, Registry

PASSWORD = "CANARY-password"


def fail_first(times: int, status: int, method: str = "") -> Callable[[Handler], bool]:
    left = [times]

    def before(handler: Handler) -> bool:
        if left[0] and handler.command.startswith(method):
            left[0] -= 1
            return handler.reply(status)
        return False

    return before


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_push_survives_passing_faults(status, registry: Registry, adapter: Path, tmp_path: Path):
    image = build_image(adapter, {})
    registry.before = fail_first(2, status, "PUT")
    assert push_image(registry.client(), image) is True
    assert registry.manifests["1"] == image.manifest
    assert registry.blobs[image.layer.digest] == image.layer.open_at(0).read()
    assert registry.slept == [1, 2]


def test_the_same_image_is_not_pushed_twice(registry: Registry, adapter: Path, tmp_path: Path):
    image = build_image(adapter, {})
    assert push_image(registry.client(), image) is True
    registry.asked.clear()
    assert push_image(registry.client(), image) is False
    assert [method for method, _ in registry.asked] == ["HEAD"]


def test_only_what_is_missing_is_uploaded_again(registry: Registry, adapter: Path, tmp_path: Path):
    image = build_image(adapter, {})
    push_image(registry.client(), image)
    registry.asked.clear()
    assert push_image(registry.client(tag="2"), image) is True
    assert not any(method == "POST" for method, _ in registry.asked)


def test_a_registry_that_stays_down_is_to_be_tried_again_later(registry: Registry):
    registry.before = lambda handler: handler.reply(503)
    with pytest.raises(TryAgain, match=r"team/phi: it answered 503; tried 4 times"):
        registry.client().manifest("1")
    assert len(registry.asked) == 4


def test_a_registry_that_reports_another_digest_is_not_believed(
    registry: Registry, adapter: Path, tmp_path: Path
):
    image = build_image(adapter, {})

    def before(handler: Handler) -> bool:
        if handler.command == "HEAD" and "manifests" in handler.path:
            return handler.reply(200, Docker_Content_Digest="sha256:" + "0" * 64)
        return False

    registry.before = before
    with pytest.raises(TryAgain, match="reports sha256:000"):
        push_image(registry.client(), image)


def test_a_manifest_that_is_not_what_was_asked_for_is_refused(registry: Registry):
    digest = "sha256:" + "0" * 64
    registry.manifests[digest] = MANIFEST
    with pytest.raises(TryAgain, match="arrived with the digest"):
        registry.client().manifest(digest)


def test_a_blob_that_is_not_what_was_asked_for_is_refused(registry: Registry, tmp_path: Path):
    digest = "sha256:" + "0" * 64
    registry.blobs[digest] = b"forged"
    with pytest.raises(TryAgain, match="arrived changed"):
        registry.client().get_blob_into(digest, tmp_path / "x", 1000)


def test_a_blob_bigger_than_allowed_is_refused(registry: Registry, tmp_path: Path):
    digest = f"sha256:{hashlib.sha256(b'x' * 100).hexdigest()}"
    registry.blobs[digest] = b"x" * 100
    with pytest.raises(UserDataError, match="bigger"):
        registry.client().get_blob_into(digest, tmp_path / "x", 99)


def test_a_missing_manifest_is_none(registry: Registry):
    assert registry.client().manifest("1") is None
    assert registry.client().reported_digest("1") is None


def need(authorization: str, challenge: str) -> Callable[[Handler], bool]:
    def before(handler: Handler) -> bool:
        if handler.path.startswith("/token") or handler.headers.get("Authorization") == authorization:
            return False
        return handler.reply(401, b'{"errors":[{"message":"who are you"}]}', WWW_Authenticate=challenge)

    return before


def test_basic_credentials_are_given_when_asked_for(registry: Registry):
    credentials = Credentials("h", "me", PASSWORD)
    registry.manifests["1"] = MANIFEST
    registry.before = need(f"Basic {credentials.basic}", 'Basic realm="Registry Realm"')
    assert registry.client(credentials).manifest("1") is not None


@pytest.mark.parametrize(("entry", "given"), [("h.io", "entry 'h.io'"), (None, "needs an entry for 127")])
def test_refusal_names_registry_repository_and_secret(entry, given, registry: Registry, caplog):
    caplog.set_level(logging.DEBUG)
    registry.before = need("Basic right", 'Basic realm="Registry Realm"')
    credentials = Credentials(entry, "me", PASSWORD) if entry else None
    with pytest.raises(UserConfigError) as fault:
        registry.client(credentials).manifest("1")
    sentence = str(fault.value)
    for part in (f"127.0.0.1:{registry.port}", "team/phi", ".dockerconfigjson", "401", "who are you", given):
        assert part in sentence
    assert "CANARY" not in sentence + caplog.text
    assert len(registry.asked) <= 2, "a wrong password must not be tried over and over: accounts get locked"


def test_forbidden_is_a_fault_of_the_request(registry: Registry):
    registry.before = lambda handler: handler.reply(403, b'{"errors":[{"code":"DENIED"}]}')
    with pytest.raises(UserConfigError, match=r"403: DENIED.*rights"):
        registry.client(Credentials("h", "me", PASSWORD)).manifest("1")
    assert len(registry.asked) == 1


def token_server(
    registry: Registry, issued: str, seen: list[tuple[str, str, bytes]]
) -> Callable[[Handler], bool]:
    challenge = f'Bearer realm="http://127.0.0.1:{registry.port}/token",service="reg",scope="repository:team/phi:pull"'
    guard = need(f"Bearer {issued}", challenge)

    def before(handler: Handler) -> bool:
        if handler.path.startswith("/token"):
            seen.append((handler.path, handler.headers.get("Authorization", ""), handler.body))
            return handler.reply(200, json.dumps({"token": issued}).encode())
        return guard(handler)

    return before


def test_bearer_tokens_are_fetched_with_the_password_and_used_once_fetched(registry: Registry):
    seen: list[tuple[str, str, bytes]] = []
    credentials = Credentials("h", "me", PASSWORD)
    registry.manifests["1"] = MANIFEST
    registry.before = token_server(registry, "CANARY-token-1", seen)
    client = registry.client(credentials)
    assert client.manifest("1") is not None
    assert client.manifest("1") is not None
    [(path, authorization, _)] = seen
    assert "service=reg" in path
    assert "scope=repository%3Ateam%2Fphi%3Apull" in path
    assert authorization == f"Basic {credentials.basic}"
    assert redact("CANARY-token-1") == "***"


def test_an_identity_token_is_exchanged_not_sent_to_the_registry(registry: Registry):
    seen: list[tuple[str, str, bytes]] = []
    registry.manifests["1"] = MANIFEST
    registry.before = token_server(registry, "token-2", seen)
    client = registry.client(Credentials("h", "00000000", "", identity_token="CANARY-identity"))
    assert client.manifest("1") is not None
    [(_, authorization, body)] = seen
    assert authorization == ""
    assert parse_qs(body.decode())["refresh_token"] == ["CANARY-identity"]
    assert parse_qs(body.decode())["grant_type"] == ["refresh_token"]


def test_an_expired_token_is_renewed(registry: Registry):
    registry.manifests["1"] = MANIFEST
    registry.before = token_server(registry, "old", [])
    client = registry.client(Credentials("h", "me", PASSWORD))
    assert client.manifest("1") is not None
    registry.before = token_server(registry, "new", [])
    assert client.manifest("1") is not None


def test_a_token_server_that_refuses_is_a_fault_of_the_secret(registry: Registry):
    registry.before = lambda handler: handler.reply(
        401, WWW_Authenticate=f'Bearer realm="http://127.0.0.1:{registry.port}/token",service="r"'
    )
    with pytest.raises(UserConfigError, match=r"token server answered 401.*secret"):
        registry.client(Credentials("h", "me", PASSWORD)).manifest("1")


def test_a_password_never_goes_to_another_host_than_the_registry(registry: Registry, tmp_path: Path):
    other = Registry()
    seen: list[str | None] = []
    other.before = lambda handler: seen.append(handler.headers.get("Authorization")) or handler.reply(201)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Other", (Handler,), {"registry": other}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    credentials = Credentials("h", "me", PASSWORD)
    guard = need(f"Basic {credentials.basic}", "Basic realm=x")

    def before(handler: Handler) -> bool:
        if handler.command == "POST" and handler.headers.get("Authorization"):
            return handler.reply(202, Location=f"http://127.0.0.1:{server.server_port}/upload?x=1")
        return guard(handler)

    registry.before = before
    registry.client(credentials, networks=LOOPBACK).put_blob("sha256:" + "1" * 64, lambda: b"x")
    server.shutdown()
    server.server_close()
    thread.join()
    assert seen == [None]


def test_https_to_a_plain_http_registry_is_explained(registry: Registry):
    reference = parse_reference(f"127.0.0.1:{registry.port}/a:1")
    with pytest.raises(UserConfigError, match="INSECURE_REGISTRIES"):
        RegistryClient(reference, None, addresses=AddressPolicy(NetworkPolicy.of(LOOPBACK))).manifest("1")


@pytest.fixture
def inside(registry: Registry) -> Iterator[Registry]:
    """Another server that only the cluster can reach; what it says must never be shown."""
    store = Registry()
    store.before = lambda handler: handler.reply(
        400, json.dumps({"errors": [{"message": "INNER-CANARY"}]}).encode()
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Inside", (Handler,), {"registry": store}))
    store.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield store
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::ffff:127.0.0.1]"])
def test_a_redirect_to_an_address_inside_is_not_followed(registry: Registry, inside: Registry, host: str):
    registry.before = lambda handler: handler.reply(307, Location=f"http://{host}:{inside.port}/metadata")
    with pytest.raises(UserConfigError, match=r"registry 127.0.0.1:\d+ cannot be used for team/phi") as error:
        registry.client().manifest("1")
    assert inside.asked == []
    assert "INNER-CANARY" not in str(error.value)


def test_a_token_server_inside_is_not_asked(registry: Registry, inside: Registry):
    realm = f'Bearer realm="http://127.0.0.1:{inside.port}/token",service="x"'
    registry.before = lambda handler: handler.reply(401, WWW_Authenticate=realm)
    with pytest.raises(UserConfigError, match="not a public address"):
        registry.client(Credentials("h", "me", PASSWORD)).manifest("1")
    assert inside.asked == []


def test_an_upload_location_inside_gets_nothing(registry: Registry, inside: Registry):
    registry.before = lambda handler: (
        handler.command == "POST" and handler.reply(202, Location=f"http://127.0.0.1:{inside.port}/internal")
    )
    with pytest.raises(UserConfigError, match="not a public address"):
        registry.client().put_blob("sha256:" + "1" * 64, lambda: b"x")
    assert inside.asked == []


def test_an_answer_of_somebody_else_is_not_shown_even_where_it_may_be_asked(
    registry: Registry, inside: Registry
):
    registry.before = lambda handler: handler.reply(307, Location=f"http://127.0.0.1:{inside.port}/x")
    with pytest.raises(UserConfigError) as error:
        registry.client(networks=LOOPBACK).manifest("1")
    assert inside.asked
    assert "INNER-CANARY" not in str(error.value)


def client_of(image: str, resolve: Callable[[str, int], list[str]], **more: object) -> RegistryClient:
    addresses = AddressPolicy(NetworkPolicy(), resolve, registry=True)
    return RegistryClient(parse_reference(image), None, sleep=lambda _: None, addresses=addresses, **more)


@pytest.mark.parametrize("address", ["10.0.0.7", "169.254.169.254", "64:ff9b::a9fe:a9fe", "192.0.0.192"])
def test_a_name_that_leads_inside_is_not_connected_to(address: str):
    with pytest.raises(UserConfigError, match=r"registry\.example\.com \(.*is not a public address"):
        client_of("registry.example.com/a:1", lambda host, port: ["8.8.8.8", address]).manifest("1")


def test_the_name_is_looked_up_once_and_the_checked_address_is_connected_to(registry: Registry):
    looked_up: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"]

    registry.manifests["1"] = MANIFEST
    addresses = AddressPolicy(NetworkPolicy.of(LOOPBACK), resolve, registry=True)
    reference = parse_reference(f"registry.invalid:{registry.port}/team/phi:1")
    # Vouched for under another name, so that plain http is spoken and the policy is asked all the same.
    client = RegistryClient(reference, None, insecure=True, addresses=addresses)
    client.transport.session.mount("http://", CheckedAdapter(addresses, "other.invalid:1"))
    found = client.manifest("1")
    assert found is not None
    assert found.content == MANIFEST
    assert looked_up == ["registry.invalid"]


def test_plain_http_is_not_spoken_with_a_registry_that_has_tls(registry: Registry, inside: Registry):
    addresses = AddressPolicy(NetworkPolicy.of(LOOPBACK), registry=True)
    client = RegistryClient(parse_reference("registry.example.com/a:1"), None, addresses=addresses)
    with pytest.raises(UserConfigError, match="plain http"):
        client.call("GET", f"http://127.0.0.1:{inside.port}/x")
    assert inside.asked == []


def test_proxies_of_the_environment_are_not_used(
    registry: Registry, inside: Registry, monkeypatch: pytest.MonkeyPatch
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{inside.port}")
    registry.manifests["1"] = MANIFEST
    assert registry.client().manifest("1") is not None
    assert inside.asked == []


def test_a_resolver_that_fails_is_tried_again():
    def resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "x")

    with pytest.raises(TryAgain, match="tried 4 times"):
        client_of("registry.example.com/a:1", resolve).manifest("1")


@pytest.mark.parametrize(
    "image", ["169.254.169.254/a:1", "10.0.0.5:5000/a:1", "localhost:5000/a:1", "metadata.google.internal/a"]
)
def test_a_registry_inside_is_refused_before_anything_is_read(image: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ALLOWED_NETWORKS", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", "/nowhere")
    with pytest.raises(UserConfigError, match="cannot be used"):
        connect(read_reference(image))


def test_a_dotless_host_of_docker_s_is_asked_itself(registry: Registry):
    assert client_of("localhost/team/phi:1", lambda host, port: []).base == "https://localhost/v2/team/phi"


@pytest.mark.parametrize(("held", "said"), [(b"", "does not have it"), (b"x" * 7, "has 7 of")])
def test_the_tag_stays_where_it_is_when_a_part_is_not_there(
    held: bytes, said: str, registry: Registry, adapter: Path
):
    image = build_image(adapter, {})
    registry.manifests["1"] = b"{}"

    def before(handler: Handler) -> bool:
        if handler.command == "PUT" and "uploads" in handler.path:
            if held:
                registry.blobs[image.layer.digest] = held
            return handler.reply(201)
        return False

    registry.before = before
    with pytest.raises(TryAgain, match=said):
        push_image(registry.client(), image)
    assert registry.manifests == {"1": b"{}"}
