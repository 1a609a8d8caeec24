"""What never reaches the model: bodies too long or too slow, no JSON, no key, an adapter's load by a stranger."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from include.workloads.contract import UserConfigError
from include.workloads.serving.gateway.asgi import Refusal
from include.workloads.serving.gateway.environment import parts_of
from include.workloads.serving.gateway.gateway import Gateway, Parts
from include.workloads.serving.gateway.walls import MIB, Intake, parse
from tests.support.model_server import Below, client, client_of, pieces, value_of

CHAT = "/v1/chat/completions"


def error(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


async def test_a_body_that_says_its_length_is_refused_before_it_is_read() -> None:
    below = Below()
    async with client(below, intake=Intake(limit=1000)) as ask:
        answer = await ask.post(CHAT, content=b"x" * 1001)
        assert answer.status_code == 413
        assert "longer than the 1000 bytes" in error(answer)["message"]
        assert (await ask.post(CHAT, content=b'{"a": "' + b"x" * 980 + b'"}')).status_code == 200
    assert len(below.asked) == 1


async def test_a_body_that_hides_its_length_takes_no_more_memory_than_the_limit() -> None:
    async with client(Below(), intake=Intake(limit=MIB)) as ask:
        tracemalloc.start()
        answer = await ask.post(CHAT, content=pieces(*[b"x" * MIB] * 50))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert answer.status_code == 413
    assert peak < 4 * MIB


async def test_many_large_bodies_at_once_are_refused_together() -> None:
    intake = Intake(limit=1000, together=2500)
    async with client(Below(), intake=intake) as ask:
        slow = [
            asyncio.ensure_future(ask.post(CHAT, content=pieces(b'{"a": "' + b"x" * 900, b'"}', pause=0.3)))
            for _ in range(2)
        ]
        await asyncio.sleep(0.1)
        third = await ask.post(CHAT, content=b"x" * 900)
        assert (third.status_code, third.headers["retry-after"]) == (503, "5")
        assert [answer.status_code for answer in await asyncio.gather(*slow)] == [200, 200]
        assert (await ask.post(CHAT, json={"a": "x" * 900})).status_code == 200, "what was read is given back"


async def test_a_slow_body_meets_the_deadline_and_is_never_in_flight() -> None:
    below = Below()
    async with client(below, intake=Intake(seconds=0.3)) as ask:
        slow = asyncio.ensure_future(ask.post(CHAT, content=pieces(*[b" "] * 50, pause=0.05)))
        await asyncio.sleep(0.15)
        half = (await ask.get("/metrics")).text
        answer = await slow
        metrics = (await ask.get("/metrics")).text
    assert value_of(half, "kaito_serving_requests_in_flight") == 0
    assert answer.status_code == 408
    assert "within 0.3 s" in error(answer)["message"]
    assert value_of(metrics, "kaito_serving_last_request_timestamp_seconds") == 0
    assert [path for path, _ in below.asked] == ["/metrics", "/metrics"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "must be a JSON object"),
        (b'{"temperature": NaN}', "NaN is no number"),
        (b'{"temperature": -Infinity}', "-Infinity is no number"),
        (b'{"temperature": 1e999}', "too large a number"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(Refusal, match=said) as refused:
        parse(body)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer s3creT"}, 401),
        ({"Authorization": "Basic s3cret"}, 401),
        ({"Authorization": "s3cret"}, 401),
        ({"Authorization": "Bearer s3cret"}, 200),
        ({"Authorization": "bearer s3cret"}, 200),
        ({"Authorization": "BEARER   s3cret"}, 200),
        ({"X-Api-Key": "s3cret"}, 200),
        ({"X-Api-Key": ""}, 401),
        ({"Authorization": "Bearer \xe9"}, 401),
    ],
)
async def test_the_key(headers: dict[str, str], status: int) -> None:
    raw = {key: value.encode("latin-1") for key, value in headers.items()}
    async with client(Below(), key=lambda: "s3cret") as ask:
        answer = await ask.post(CHAT, json={}, headers=raw)
        assert answer.status_code == status
        assert (await ask.get("/v1/models", headers=raw)).status_code == status
        assert (await ask.get("/docs", headers=raw)).status_code == status
        assert (await ask.post("//v1/completions", json={}, headers=raw)).status_code == status
        for path in ("/health", "/metrics", "/"):
            assert (await ask.get(path, headers=raw)).status_code == 200, path
        assert (await ask.options(CHAT)).status_code == 200, "a browser asks without a key"
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert error(answer)["type"] == "authentication_error"


async def test_no_key_is_asked_for_where_there_is_none() -> None:
    async with client(Below()) as ask:
        assert (await ask.post(CHAT, json={})).status_code == 200


async def test_a_websocket_without_the_key_is_closed() -> None:
    gateway, sent = Gateway(Below(), Parts(key=lambda: "s3cret")), []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway({"type": "websocket", "path": "/v1/realtime", "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_a_changed_secret_changes_the_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first\n")
    async with client_of(Gateway(Below(), parts_of({"API_KEY_FILE": str(file)}))) as ask:
        assert (await ask.post(CHAT, json={}, headers={"X-Api-Key": "first"})).status_code == 200
        other = tmp_path / "other"
        other.write_text("second")
        other.rename(file)
        assert (await ask.post(CHAT, json={}, headers={"X-Api-Key": "first"})).status_code == 401
        assert (await ask.post(CHAT, json={}, headers={"X-Api-Key": "second"})).status_code == 200
        file.unlink()
        assert (await ask.post(CHAT, json={}, headers={"X-Api-Key": "second"})).status_code == 200, (
            "the last one holds"
        )


def test_a_server_whose_key_is_missing_does_not_start_open(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "absent"):
        with pytest.raises(UserConfigError, match="holds no API key"):
            parts_of({"API_KEY_FILE": str(tmp_path / name)})


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/shutdown", "/reset_prefix_cache"]
)
async def test_only_the_pod_s_own_sidecar_changes_the_server(tmp_path: Path, path: str) -> None:
    token = tmp_path / "token"
    below = Below()
    async with client(below, key=lambda: "s3cret") as ask:
        assert (await ask.post(path, json={}, headers={"X-Api-Key": "s3cret"})).status_code == 403
    async with client_of(Gateway(below, parts_of({"KAITO_ADMIN_TOKEN_FILE": str(token)}))) as ask:
        assert (await ask.post(path, json={}, headers={"X-Kaito-Admin": ""})).status_code == 401
        token.write_text("inside")
        assert (await ask.post(path, json={}, headers={"X-Kaito-Admin": "outside"})).status_code == 401
        assert below.asked == []
        assert (await ask.post(path, json={}, headers={"X-Kaito-Admin": "inside"})).status_code == 200


@pytest.mark.parametrize("text", ["0", "-5", "many", "nan", "inf"])
def test_limits_must_be_numbers(text: str) -> None:
    with pytest.raises(UserConfigError, match="KAITO_MAX_BODY_BYTES is"):
        parts_of({"KAITO_MAX_BODY_BYTES": text})
