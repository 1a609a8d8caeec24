"""A push is tried before the training: a refusal is believed, and what cannot be asked is nobody's fault."""

from __future__ import annotations

import base64
import json
import socket
import time
from typing import Any

import pytest

from include.contracts.image_reference import ImageReference, parse_reference
from include.contracts.network_policy import NetworkPolicy
from include.workloads.oci.asking import Unanswered
from include.workloads.oci.credentials import Credentials, credentials_in
from include.workloads.oci.trial import PushRefused, published_by, try_push
from tests.support.registry_server import Handler, Registry

PASSWORD = "CANARY-password"
RIGHT = Credentials("entry", "pusher", PASSWORD)
WRONG = Credentials("entry", "pusher", "CANARY-old-password")


def reference(store: Registry) -> ImageReference:
    return parse_reference(f"127.0.0.1:{store.port}/team/phi:1")


def tried(store: Registry, credentials: Credentials | None, **more: Any) -> None:
    asked = reference(store)
    try_push(asked, credentials, NetworkPolicy.of((), [asked.registry]), **more)


def basic(handler: Handler) -> bool:
    """A registry with a password."""
    if handler.headers.get("Authorization") == f"Basic {RIGHT.basic}":
        return handler.command == "DELETE" and handler.reply(204)
    return handler.reply(401, WWW_Authenticate='Basic realm="Registry Realm"')


def tokens(store: Registry, rights: str) -> Any:
    """A registry with a token server, which gives `rights` to whoever has the password."""

    def before(handler: Handler) -> bool:
        said = handler.headers.get("Authorization", "")
        if handler.path.startswith("/token"):
            if said != f"Basic {RIGHT.basic}":
                return handler.reply(401)
            assert "scope=repository%3Ateam%2Fphi%3Apull%2Cpush" in handler.path
            return handler.reply(200, json.dumps({"token": f"CANARY-{rights}"}).encode())
        if said == "Bearer CANARY-pull,push":
            return False
        challenge = f'Bearer realm="http://127.0.0.1:{store.port}/token",service="r",scope="repository:team/phi:pull,push"'
        return handler.reply(401, WWW_Authenticate=challenge)

    return before


def test_an_upload_is_opened_and_given_up(registry: Registry) -> None:
    registry.before = basic
    tried(registry, RIGHT)
    assert registry.asked[-1] == ("DELETE", "/v2/team/phi/blobs/uploads/1?state=x")
    assert registry.blobs == registry.manifests == {}


def test_a_wrong_password_is_refused_in_words_without_it(registry: Registry) -> None:
    registry.before = basic
    with pytest.raises(PushRefused) as refused:
        tried(registry, WRONG)
    told = str(refused.value)
    assert "refuses a push to team/phi (it answered 401)" in told
    assert "entry 'entry'" in told
    assert "CANARY" not in told


def test_no_credentials_for_the_registry_are_named(registry: Registry) -> None:
    registry.before = basic
    with pytest.raises(PushRefused, match="needs an entry for 127"):
        tried(registry, None)


@pytest.mark.parametrize("rights", ["pull,push", "pull"])
def test_the_token_must_be_one_for_pushing(registry: Registry, rights: str) -> None:
    registry.before = tokens(registry, rights)
    if rights == "pull,push":
        tried(registry, RIGHT)
    else:
        with pytest.raises(PushRefused, match="answered 401"):
            tried(registry, RIGHT)


def test_a_token_servers_refusal_is_a_verdict(registry: Registry) -> None:
    registry.before = tokens(registry, "pull,push")
    with pytest.raises(PushRefused, match="its token server answered 401"):
        tried(registry, WRONG)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(403, PushRefused), (404, PushRefused), (405, PushRefused), (429, Unanswered), (503, Unanswered)],
)
def test_what_passes_is_no_verdict(registry: Registry, status: int, verdict: type) -> None:
    registry.before = lambda handler: handler.reply(status)
    with pytest.raises(verdict, match=str(status)):
        tried(registry, RIGHT)


def test_a_registry_that_is_not_there_is_no_verdict() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        store = Registry(probe.getsockname()[1])
    with pytest.raises(Unanswered, match="cannot be reached from Airflow"):
        tried(store, RIGHT)


def test_a_registry_that_drips_is_left_in_time(registry: Registry) -> None:
    def drip(handler: Handler) -> bool:
        for _ in range(400):
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            handler.wfile.flush()
            time.sleep(0.1)
        return True

    registry.before = drip
    began = time.monotonic()
    with pytest.raises(Unanswered, match=r"no (whole )?answer within"):
        tried(registry, RIGHT, seconds=0.5)
    assert time.monotonic() - began < 30


def test_the_network_policy_holds_for_the_control_plane_too(registry: Registry) -> None:
    with pytest.raises(PushRefused, match="not a public address"):
        try_push(reference(registry), RIGHT, NetworkPolicy())
    assert registry.asked == []


def test_no_redirect_leads_inside(registry: Registry) -> None:
    registry.before = lambda handler: handler.reply(307, Location="http://127.0.0.2:1/inside")
    with pytest.raises((PushRefused, Unanswered)):
        tried(registry, RIGHT)
    assert {path for _, path in registry.asked} == {"/v2/team/phi/blobs/uploads/"}


def test_the_upload_is_given_up_only_where_it_was_opened(registry: Registry) -> None:
    registry.before = lambda handler: handler.reply(202, Location="http://127.0.0.2:1/elsewhere")
    tried(registry, RIGHT)
    assert [method for method, _ in registry.asked] == ["POST"]


def test_a_secrets_text_is_read_as_the_pods_read_its_file() -> None:
    auth = base64.b64encode(b"pusher:" + PASSWORD.encode()).decode()
    text = json.dumps({"auths": {"127.0.0.1:5000": {"auth": auth}}})
    assert credentials_in(text, parse_reference("127.0.0.1:5000/a:1")) == Credentials(
        "127.0.0.1:5000", "pusher", PASSWORD
    )
    assert credentials_in(text, parse_reference("127.0.0.1:5001/a:1")) is None


def held(store: Registry, credentials: Credentials | None = RIGHT) -> str:
    asked = reference(store)
    return published_by(asked, credentials, NetworkPolicy.of((), [asked.registry]), seconds=5.0)


@pytest.mark.parametrize(
    ("manifest", "holder"),
    [
        (None, ""),
        ({"annotations": {"sh.kaito.workspace": "ml/one"}}, "ml/one"),
        ({"annotations": {"sh.kaito.model.name": "phi"}}, ""),
        ({"annotations": None}, ""),
        ([1], ""),
    ],
)
def test_a_tag_says_whose_adapter_it_holds(registry: Registry, manifest: Any, holder: str) -> None:
    def before(handler: Handler) -> bool:
        if handler.path != "/v2/team/phi/manifests/1":
            return handler.reply(500)
        if handler.headers.get("Authorization") != f"Basic {RIGHT.basic}":
            return handler.reply(401, WWW_Authenticate='Basic realm="r"')
        return handler.reply(404) if manifest is None else handler.reply(200, json.dumps(manifest).encode())

    registry.before = before
    assert held(registry) == holder
    assert held(registry, WRONG) == ""


def test_a_registry_that_does_not_say_whose_a_tag_is_stops_nothing(registry: Registry) -> None:
    registry.before = lambda handler: handler.reply(503)
    assert held(registry) == ""
    registry.before = lambda handler: handler.reply(200, b"x" * (5 << 20))
    assert held(registry) == ""
