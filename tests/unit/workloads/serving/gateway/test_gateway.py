"""The queue guard, use and health, public adapter names, and KAITO's /chat, over a server that only remembers."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from include.reconcile import activity
from include.workloads.serving.gateway.aliases import Adapter, Aliases, immutable_name, read_aliases
from include.workloads.serving.gateway.gateway import Gateway, Parts
from include.workloads.serving.gateway.queue_guard import QueueGuard
from include.workloads.serving.gateway.use import RUNNING_LIMIT, ClientStalled, Use
from tests.support.model_server import Below, client, value_of

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
DIGEST = "sha256:0123456789abcdef"


# --- queue guard ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("waiting", "status"), [(0, 200), (4, 200), (5, 429)])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/v1/responses", "/v1/embeddings", "/tokenize", "/chat"])
async def test_more_waiting_than_running_is_refused(waiting: int, status: int, path: str) -> None:
    async with client(Below(), guard=QueueGuard(lambda: 4, lambda: waiting)) as ask:
        answer = await ask.post(path, json={})
        assert answer.status_code == status
        for free in ("/health", "/metrics", "/v1/models"):
            assert (await ask.get(free)).status_code == 200
        metrics = (await ask.get("/metrics")).text
    if status == 429:
        found = answer.json()["error"]
        assert (found["type"], found["code"]) == ("requests", "rate_limit_exceeded")
        assert "5 of at most 4" in found["message"]
        assert int(answer.headers["retry-after"]) > 0
    assert value_of(metrics, "kaito_ratelimit_rejected_total") == (status == 429)
    assert value_of(metrics, "kaito_serving_requests_total") == 1, "counted once"


async def test_t_running_and_t_waiting_pass_and_the_next_is_refused_though_the_gauge_lags() -> None:
    below = Below()
    below.go_on.clear()
    async with client(below, guard=QueueGuard(lambda: 2, lambda: 0)) as ask:
        running = [asyncio.ensure_future(ask.post(CHAT, json={})) for _ in range(4)]
        await asyncio.sleep(0.05)
        assert (await ask.post(CHAT, json={})).status_code == 429
        below.go_on.set()
        assert [answer.status_code for answer in await asyncio.gather(*running)] == [200] * 4
        assert (await ask.post(CHAT, json={})).status_code == 200


@pytest.mark.parametrize(("running", "told"), [(4, 4.0), (None, 0.0)])
async def test_the_metrics_say_how_many_requests_run_together(running: int | None, told: float) -> None:
    async with client(Below(), guard=QueueGuard(lambda: running, lambda: 0)) as ask:
        text = (await ask.get("/metrics")).text
    assert f"{RUNNING_LIMIT} {told}" in text.splitlines()


async def test_nothing_is_refused_before_the_engine_says_how_much_it_can() -> None:
    async with client(Below(), guard=QueueGuard(lambda: None, lambda: 100)) as ask:
        assert (await ask.post(CHAT, json={})).status_code == 200


# --- use and health ---------------------------------------------------------------------------------------------------


async def test_the_reconciler_reads_the_use_beside_vllm_s_own_metrics() -> None:
    below = Below()
    async with client(below) as ask:
        text = (await ask.get("/metrics", headers={"Accept": "application/openmetrics-text"})).text
        assert "vllm:num_requests_running 0.0" in text
        idle = activity.read(text)
        assert idle is not None
        assert (idle.in_flight, idle.answered, idle.last) == (0, 0, 0)
        below.go_on.clear()
        below.begun.clear()
        asked = asyncio.ensure_future(ask.post(CHAT, json={}))
        await below.begun.wait()
        below.go_on.set()
        assert (await asked).status_code == 200
        used = activity.read((await ask.get("/metrics")).text)
    assert used is not None
    assert used.in_flight == 0
    assert used.answered == 1
    assert used.last is not None
    assert abs(used.last - time.time()) < 10


async def test_in_flight_while_it_is_answered() -> None:
    below = Below()
    use = Use()
    below.go_on.clear()
    async with client(below, use=use) as ask:
        asked = asyncio.ensure_future(ask.post(CHAT, json={}))
        await below.begun.wait()
        assert value_of(use.text().decode(), "kaito_serving_requests_in_flight") == 1
        below.go_on.set()
        await asked
    assert value_of(use.text().decode(), "kaito_serving_requests_in_flight") == 0


async def test_a_pod_that_is_told_to_go_answers_and_keeps_no_connection() -> None:
    going: list[bool] = []
    async with client(Below(), told_to_go=lambda: bool(going)) as ask:
        assert "connection" not in (await ask.post(CHAT, json={})).headers
        going.append(True)
        answer = await ask.post(CHAT, json={})
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


async def test_a_refusal_is_no_use() -> None:
    use = Use()
    async with client(Below(v1__completions=lambda _: (404, {})), use=use) as ask:
        await ask.post(COMPLETIONS, json={})
        await ask.post(COMPLETIONS, content=b"{")
        await ask.get("/health")
    assert value_of(use.text().decode(), "kaito_serving_last_request_timestamp_seconds") == 0


STREAM_BROKE = [b'data: {"choices": []}\n\n', b'data: {"error": {"message": "engine"}}\n\n']


@pytest.mark.parametrize("content", [{"error": {}}, STREAM_BROKE, "raises"])
async def test_health_turns_bad_when_answers_fail_one_after_the_other(content: Any) -> None:
    broken = True

    def told(_: Any) -> tuple[int, Any]:
        if not broken:
            return 200, {}
        if content == "raises":
            raise RuntimeError("CUDA error")
        return (200 if isinstance(content, list) else 500), content

    async with client(Below(v1__completions=told), use=Use(failures=3)) as ask:
        for _ in range(2):
            await ask.post(COMPLETIONS, json={})
        assert (await ask.get("/health")).status_code == 200
        broken = False
        await ask.post(COMPLETIONS, json={})
        broken = True
        for _ in range(2):
            await ask.post(COMPLETIONS, json={})
        assert (await ask.get("/health")).status_code == 200, "one good answer between them"
        await ask.post(COMPLETIONS, json={})
        for path in ("/health", "/healthz"):
            answer = await ask.get(path)
            assert answer.status_code == 503
            assert "The last 3 answers failed" in answer.text
        broken = False
        await ask.post(COMPLETIONS, json={})
        assert (await ask.get("/health")).status_code == 200


async def test_a_client_s_fault_says_nothing_of_health() -> None:
    async with client(Below(v1__completions=lambda _: (400, {})), use=Use(failures=1)) as ask:
        await ask.post(COMPLETIONS, json={})
        await ask.post(COMPLETIONS, content=b"{")
        assert (await ask.get("/health")).status_code == 200


async def test_a_client_that_reads_nothing_is_given_up() -> None:
    async def never(_: Any) -> None:
        await asyncio.sleep(60)

    use = Use(failures=1, send_seconds=0.05)
    with pytest.raises(ClientStalled), use.watched(CHAT, never) as answering:
        await answering.send({"type": "http.response.body", "body": b"x"})
    assert value_of(use.text().decode(), "kaito_serving_requests_in_flight") == 0
    assert use.trouble() is None, "the client's doing"


Event = dict[str, Any]


def streaming(ends: Exception | None, hears: bool = False) -> Any:
    """A server that streams, until the client's end reaches it in one of the ways that servers have."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if hears and (await receive())["type"] == "http.disconnect":
            return  # vLLM: the request is aborted, and nothing is answered
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
        except OSError as error:
            raise ends or error from None

    return app


@pytest.mark.parametrize(
    "app",
    [streaming(None), streaming(ExceptionGroup("task group", [OSError()])), streaming(None, hears=True)],
)
async def test_clients_that_go_away_say_nothing_of_health(app: Any) -> None:
    use = Use(failures=2)
    gateway = Gateway(app, Parts(use=use))
    scope = {"type": "http", "method": "POST", "path": COMPLETIONS, "headers": [], "query_string": b""}
    for _ in range(3):
        events: list[Event] = [{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}]

        async def receive(events: list[Event] = events) -> Event:
            return events.pop(0)

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                raise OSError("the client is gone")

        await gateway(scope, receive, send)
    assert use.trouble() is None
    assert value_of(use.text().decode(), "kaito_serving_requests_in_flight") == 0


async def test_a_client_that_stalls_is_dropped_also_out_of_a_task_group() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(send({"type": "http.response.start", "status": 200, "headers": []}))

    async def never(_: Any) -> None:
        await asyncio.sleep(60)

    async def receive() -> Event:
        return {"type": "http.request", "body": b"{}"}

    use = Use(failures=1, send_seconds=0.05)
    scope = {"type": "http", "method": "POST", "path": COMPLETIONS, "headers": [], "query_string": b""}
    await Gateway(app, Parts(use=use))(scope, receive, never)
    assert use.trouble() is None


# --- adapters ---------------------------------------------------------------------------------------------------------


def write(file: Path, **adapters: str) -> None:
    content = {
        name: {"target": immutable_name(name, digest), "digest": digest} for name, digest in adapters.items()
    }
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"adapters": content}))
    new.rename(file)


async def test_a_public_name_moves_to_another_version_at_once(tmp_path: Path) -> None:
    file = tmp_path / "adapters.json"
    below = Below()
    async with client(below, aliases=Aliases(file=file)) as ask:
        await ask.post(CHAT, json={"model": "mine"})
        write(file, mine=DIGEST)
        first = await ask.post(CHAT, json={"model": "mine", "messages": [{"content": "é"}]})
        write(file, mine="sha256:fedcba9876543210")
        second = await ask.post(CHAT, json={"model": "mine"})
        base = await ask.post(CHAT, json={"model": "phi"})
    asked = [value["model"] for _, value in below.asked]
    assert asked == ["mine", "mine@0123456789ab", "mine@fedcba987654", "phi"]
    assert below.asked[1][1]["messages"] == [{"content": "é"}]
    assert first.headers["x-kaito-adapter-digest"] == DIGEST
    assert second.headers["x-kaito-adapter-digest"] == "sha256:fedcba9876543210"
    assert "x-kaito-adapter-digest" not in base.headers


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"adapters": []}', b'{"adapters": {"mine": 1}}', b"[" * 100_000]
)
async def test_a_broken_file_of_names_changes_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "adapters.json"
    write(file, mine=DIGEST)
    aliases = Aliases(file=file)
    assert aliases.resolve("mine") == Adapter("mine@0123456789ab", DIGEST)
    file.write_bytes(content)
    assert aliases.resolve("mine") == Adapter("mine@0123456789ab", DIGEST)


def test_an_adapter_that_leaves_the_file_goes(tmp_path: Path) -> None:
    file = tmp_path / "adapters.json"
    write(file, mine=DIGEST, yours=DIGEST)
    aliases = Aliases(file=file)
    assert set(aliases.now()) == {"mine", "yours"}
    write(file, yours=DIGEST)
    assert set(aliases.now()) == {"yours"}
    assert read_aliases(b'{"adapters": {"a": {}}}') == {"a": Adapter("a")}


LISTED = {
    "object": "list",
    "data": [
        {"id": "phi", "parent": None},
        {"id": "mine@0123456789ab", "parent": "phi"},
        {"id": "mine@olderolder00", "parent": "phi"},
        {"id": "fixed", "parent": "phi"},
    ],
}


async def test_models_are_listed_and_found_under_public_names(tmp_path: Path) -> None:
    file = tmp_path / "adapters.json"
    write(file, mine=DIGEST)
    aliases = Aliases({"fixed": Adapter("fixed", "sha256:ff")}, file)
    async with client(Below(v1__models=lambda _: (200, LISTED)), aliases=aliases) as ask:
        listed = (await ask.get("/v1/models")).json()["data"]
        one = await ask.get("/v1/models/mine")
        none = await ask.get("/v1/models/nobody")
    assert [(entry["id"], entry.get("digest")) for entry in listed] == [
        ("phi", None),
        ("fixed", "sha256:ff"),
        ("mine", DIGEST),
    ]
    assert one.json() == {"id": "mine", "parent": "phi", "digest": DIGEST}
    assert none.status_code == 404
    assert none.json()["error"]["code"] == "model_not_found"
    assert "phi, fixed, mine" in none.json()["error"]["message"]


# --- KAITO's /chat ----------------------------------------------------------------------------------------------------


def said(text: str) -> Any:
    return lambda _: (200, {"choices": [{"message": {"content": text}}]})


async def test_the_quick_start_s_question_is_translated() -> None:
    below = Below(v1__chat__completions=said("42"))
    async with client(below, translates_chat=True) as ask:
        answer = await ask.post("/chat", json={"prompt": "YOUR QUESTION HERE"})
        assert answer.json() == {"Result": "YOUR QUESTION HERE\n42"}
        assert below.asked[-1] == (
            CHAT,
            {
                "messages": [{"role": "user", "content": "YOUR QUESTION HERE"}],
                "temperature": 0,
                "max_tokens": 200,
            },
        )
        bare = {
            "prompt": "?",
            "return_full_text": False,
            "prefix": "P: ",
            "generate_kwargs": {"max_new_tokens": 3},
        }
        assert (await ask.post("/chat", json=bare)).json() == {"Result": "42"}
        assert below.asked[-1][1]["messages"][0]["content"] == "P: ?"
        assert below.asked[-1][1]["max_tokens"] == 3
        sampled = {
            "messages": [{"role": "user", "content": "?"}],
            "generate_kwargs": {"temperature": 0.5, "top_k": 5},
        }
        assert (await ask.post("/chat", json=sampled)).json() == {"Result": "42"}
        assert (below.asked[-1][1]["temperature"], below.asked[-1][1]["top_k"]) == (0.5, 5)


async def test_chat_asks_the_only_adapter_s_current_version(tmp_path: Path) -> None:
    write(tmp_path / "a", mine=DIGEST)
    below = Below(v1__chat__completions=said("42"))
    parts: dict[str, Any] = {
        "aliases": Aliases(file=tmp_path / "a"),
        "chat_adapter": "mine",
        "translates_chat": True,
    }
    async with client(below, **parts) as ask:
        answer = await ask.post("/chat", json={"prompt": "?"})
    assert below.asked[-1][1]["model"] == "mine@0123456789ab"
    assert answer.headers["x-kaito-adapter-digest"] == DIGEST


async def test_chat_that_the_server_answers_itself_comes_to_it_as_it_was_asked(tmp_path: Path) -> None:
    """Its /chat knows no field for a model: the quick start's question was refused for one that the gateway added."""
    write(tmp_path / "a", mine=DIGEST)
    below = Below()
    async with client(below, aliases=Aliases(file=tmp_path / "a"), chat_adapter="mine") as ask:
        answer = await ask.post("/chat", json={"prompt": "?"})
    assert below.asked == [("/chat", {"prompt": "?"})]
    assert answer.headers["x-kaito-adapter-digest"] == DIGEST


async def test_max_length_counts_the_prompt() -> None:
    below = Below(v1__chat__completions=said("42"), tokenize=lambda _: (200, {"count": 7}))
    async with client(below, translates_chat=True) as ask:
        answer = await ask.post("/chat", json={"prompt": "?", "generate_kwargs": {"max_length": 10}})
        assert answer.status_code == 200
        assert below.asked[-1][1]["max_tokens"] == 3
        short = await ask.post("/chat", json={"prompt": "?", "generate_kwargs": {"max_length": 7}})
    assert short.status_code == 400
    assert "the prompt alone has 7 tokens" in short.json()["error"]["message"]


async def test_a_model_without_a_chat_template_gets_the_prompt_as_it_is() -> None:
    refused = (400, {"error": {"message": "default chat template is no longer allowed"}})
    below = Below(
        v1__chat__completions=lambda _: refused,
        v1__completions=lambda _: (200, {"choices": [{"text": "42"}]}),
    )
    async with client(below, translates_chat=True) as ask:
        assert (await ask.post("/chat", json={"prompt": "?"})).json() == {"Result": "?\n42"}
    assert below.asked[-1] == (COMPLETIONS, {"prompt": "?", "temperature": 0, "max_tokens": 200})


async def test_less_room_than_asked_for_is_used_up() -> None:
    def told(value: Any) -> tuple[int, Any]:
        if "max_tokens" in value:
            return 400, {"error": {"message": "max_tokens=200 is more than is left"}}
        return 200, {"choices": [{"message": {"content": "42"}}]}

    async with client(Below(v1__chat__completions=told), translates_chat=True) as ask:
        assert (await ask.post("/chat", json={"prompt": "?"})).status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "give either prompt (text) or messages"),
        ({"prompt": "?", "generate_kwargs": {"beams": 1}}, "generate_kwargs.beams"),
        ({"prompt": "?", "generate_kwargs": {"typical_p": 0.5}}, "the runtime vllm has no such setting"),
    ],
)
async def test_what_chat_cannot_do_is_refused(body: dict[str, Any], said: str) -> None:
    below = Below()
    async with client(below, translates_chat=True) as ask:
        answer = await ask.post("/chat", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert below.asked == []


async def test_an_error_of_the_engine_comes_through() -> None:
    refused = {"error": {"message": "too long", "code": 400}}
    async with client(Below(v1__chat__completions=lambda _: (400, refused)), translates_chat=True) as ask:
        answer = await ask.post("/chat", json={"prompt": "?"})
    assert (answer.status_code, answer.json()) == (400, refused)


async def test_what_is_no_http_passes_untouched() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await Gateway(app, Parts())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]
