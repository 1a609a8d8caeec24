"""Two versions under one name in one server: which one answers, what its answer says, and how both are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from include.contracts import canary
from include.reconcile import activity
from include.reconcile.decision import Answers
from include.workloads.serving.gateway.aliases import Adapter, Aliases, immutable_name
from tests.support.model_server import Below, client

CHAT = "/v1/chat/completions"
OLD, NEW = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
LISTED = [{"id": one} for one in ("phi", "mine@aaaaaaaaaaaa", "mine@bbbbbbbbbbbb")]


def version(digest: str, **more: Any) -> dict[str, Any]:
    return {"target": immutable_name("mine", digest), "digest": digest, "image": f"r/a@{digest}", **more}


def write(file: Path, percent: float | None, **more: Any) -> Aliases:
    beside = {} if percent is None else {"canary": version(NEW, percent=percent)}
    content = {"adapters": {"mine": version(OLD, **beside)}, "default": "mine", **more}
    new = file.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.rename(file)
    return Aliases(file=file)


async def test_the_request_s_id_decides_and_the_answer_says_who_gave_it(tmp_path: Path) -> None:
    below, file = Below(), tmp_path / "adapters.json"
    async with client(below, aliases=write(file, 30)) as ask:
        for number in range(60):
            name = f"request-{number}"
            for path in (CHAT, "/chat"):
                answer = await ask.post(path, json={"model": "mine"}, headers={"X-Request-ID": name})
                digest = NEW if canary.answers(name, 30) else OLD
                assert answer.headers.get_list("x-request-id") == [name]
                assert answer.headers["x-kaito-adapter-digest"] == digest
        asked = [value["model"] for path, value in below.asked if path == CHAT]
        assert set(asked) == {"mine@aaaaaaaaaaaa", "mine@bbbbbbbbbbbb"}
        write(file, None)
        for number in range(60):
            answer = await ask.post(
                CHAT, json={"model": "mine"}, headers={"X-Request-ID": f"request-{number}"}
            )
            assert answer.headers["x-kaito-adapter-digest"] == OLD


async def test_a_request_without_an_id_gets_one_that_leads_to_the_same_version(tmp_path: Path) -> None:
    async with client(Below(), aliases=write(tmp_path / "adapters.json", 50)) as ask:
        seen = set()
        for _ in range(40):
            first = await ask.post(CHAT, json={"model": "mine"})
            again = {"x-request-id": first.headers["x-request-id"]}
            second = await ask.post(CHAT, json={"model": "mine"}, headers=again)
            assert first.headers["x-kaito-adapter-digest"] == second.headers["x-kaito-adapter-digest"]
            seen.add(first.headers["x-kaito-adapter-digest"])
        base = await ask.post(CHAT, json={"model": "phi"})
    assert seen == {OLD, NEW}
    assert base.headers["x-request-id"]
    assert "x-kaito-adapter-digest" not in base.headers


async def test_each_version_s_answers_are_counted_for_themselves(tmp_path: Path) -> None:
    def told(value: Any) -> tuple[int, Any]:
        return (500 if value["model"] == "mine@bbbbbbbbbbbb" else 200), {}

    mine, canarys = "kept", canary.id_for_the_canary(10)
    assert not canary.answers(mine, 10)
    async with client(
        Below(v1__chat__completions=told), aliases=write(tmp_path / "adapters.json", 10)
    ) as ask:
        for name in (mine, mine, mine, canarys, canarys):
            await ask.post(CHAT, json={"model": "mine"}, headers={"x-request-id": name})
        await ask.post(CHAT, content=b"{")
        found = activity.read((await ask.get("/metrics")).text)
    assert found is not None
    assert (found.answered, found.failed, found.timed) == (6, 2, 3)
    assert (found.adapters[OLD].answered, found.adapters[OLD].failed, found.adapters[OLD].timed) == (3, 0, 3)
    assert found.adapters[OLD].seconds == pytest.approx(found.seconds)
    assert found.adapters[NEW] == Answers(answered=2, failed=2)
    assert found.canaries == {NEW: 10}
    assert found.refused == frozenset()


async def test_the_metrics_say_when_a_canary_has_gone_and_when_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "adapters.json"
    async with client(Below(), aliases=write(file, 10)) as ask:
        await ask.get("/metrics")
        pending = {"mine": {"image": f"r/a@{NEW}", "state": "Failed", "message": "rank 64", "since": ""}}
        write(file, None, pending=pending)
        found = activity.read((await ask.get("/metrics")).text)
    assert found is not None
    assert (found.canaries, found.refused) == ({}, frozenset({NEW}))
    whole = activity.together([found, found])
    assert whole is not None
    assert whole.refused == {NEW}


async def test_models_are_listed_without_the_canary_s_own_name(tmp_path: Path) -> None:
    below = Below(v1__models=lambda _: (200, {"object": "list", "data": LISTED}))
    async with client(below, aliases=write(tmp_path / "adapters.json", 10)) as ask:
        listed = (await ask.get("/v1/models")).json()["data"]
    assert [(one["id"], one.get("digest")) for one in listed] == [("phi", None), ("mine", OLD)]


@pytest.mark.parametrize(
    "beside", [1, {"percent": 10, "target": 3}, version(NEW), version(NEW, percent="10")]
)
def test_a_broken_canary_changes_nothing(tmp_path: Path, beside: object) -> None:
    file = tmp_path / "adapters.json"
    aliases = write(file, None)
    assert aliases.resolve("mine", "x") == Adapter("mine@aaaaaaaaaaaa", OLD)
    file.write_text(json.dumps({"adapters": {"mine": {**version(NEW), "canary": beside}}}))
    assert aliases.resolve("mine", "x") == Adapter("mine@aaaaaaaaaaaa", OLD)


def test_a_canary_on_every_server_is_one_and_elsewhere_none() -> None:
    head = "kaito_serving_requests_in_flight 0\nkaito_serving_last_request_timestamp_seconds 0\n"
    percent = f'kaito_serving_canary_percent{{adapter="{NEW}"}} 10.0\n'
    count = f'kaito_serving_requests_total{{adapter="{NEW}",endpoint="/chat",status="200"}} 2.0\n'
    forged = 'kaito_serving_failed_total{endpoint="/chat,adapter=\\"x\\""} 7.0\n'
    both, one = activity.read(head + percent + count + forged), activity.read(head + count)
    assert both is not None
    assert set(both.adapters) == {NEW}
    for servers, canaries in (([both, both], {NEW: 10.0}), ([both, one], {})):
        found = activity.together(servers)
        assert found is not None
        assert found.canaries == canaries
        assert found.adapters[NEW].answered == 4
