"""The gateway inside vLLM: how much its engines run, and how much waits, read from where vLLM itself keeps both."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY, Gauge

from include.workloads.serving.vllm_middleware import KaitoMiddleware, sequences, task, waiting
from tests.support.model_server import Below

CHAT = "/v1/chat/completions"


def vllm(most: Any = 2, copies: Any = 1) -> Any:
    """vLLM's application as far as it is read."""
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=most),
        parallel_config=SimpleNamespace(data_parallel_size=copies),
    )
    return SimpleNamespace(state=SimpleNamespace(vllm_config=config))


@pytest.mark.parametrize(
    ("application", "most"),
    [
        (vllm(256, 1), 256),
        (vllm(256, 8), 2048),
        (vllm(256, None), 256),
        (vllm(None), None),
        (vllm(0), None),
        (SimpleNamespace(state=SimpleNamespace()), None),
        (None, None),
    ],
)
def test_each_copy_of_the_model_runs_its_own_number(application: Any, most: int | None) -> None:
    assert sequences(application) == most


@pytest.mark.parametrize(
    ("runner", "handlers", "found"),
    [
        ("generate", {}, ""),
        ("pooling", {"serving_embedding": object(), "serving_classification": None}, "embed"),
        ("pooling", {"serving_embedding": None, "serving_classification": object()}, "classify"),
        ("pooling", {"serving_embedding": None, "serving_classification": None}, "pooling"),
        (None, {}, ""),
    ],
)
def test_what_a_model_does_that_writes_nothing(runner: str | None, handlers: Any, found: str) -> None:
    application = vllm()
    application.state.vllm_config.model_config = SimpleNamespace(runner_type=runner)
    vars(application.state).update(handlers)
    assert task(application) == found
    assert task(None) == ""


async def test_the_list_says_what_it_does_and_a_question_for_text_is_turned_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("API_KEY", raising=False)
    below, application = Below(v1__models=lambda _: (200, {"data": [{"id": "m"}]})), vllm()
    application.state.vllm_config.model_config = SimpleNamespace(runner_type="pooling")
    application.state.serving_embedding = object()
    middleware = KaitoMiddleware(below)

    async def served(scope: Any, receive: Any, send: Any) -> None:
        await middleware({**scope, "app": application}, receive, send)

    transport = httpx.ASGITransport(app=served)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as ask:
        listed = (await ask.get("/v1/models")).json()
        assert {one["task"] for one in listed["data"]} == {"embed"}
        for path in (CHAT, "/chat", "/v1/completions", "/v1/responses"):
            refused = await ask.post(path, json={"messages": []})
            assert refused.status_code == 404
            assert "ask it at POST /v1/embeddings" in refused.json()["error"]["message"]
        assert (await ask.post("/v1/embeddings", json={"input": "x"})).status_code == 200


async def test_as_many_as_run_may_wait_and_the_next_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_KEY", raising=False)
    below = Below()
    below.go_on.clear()
    middleware = KaitoMiddleware(below)

    async def served(scope: Any, receive: Any, send: Any) -> None:
        await middleware({**scope, "app": vllm(1, 2)}, receive, send)

    transport = httpx.ASGITransport(app=served)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as ask:
        running = [asyncio.ensure_future(ask.post(CHAT, json={})) for _ in range(4)]
        await asyncio.sleep(0.05)
        refused = await ask.post(CHAT, json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) > 0
        below.go_on.set()
        assert {one.status_code for one in await asyncio.gather(*running)} == {200}


def test_what_waits_is_the_sum_over_the_engines() -> None:
    gauge = Gauge("vllm:num_requests_waiting", "Waiting.", ("engine",))
    try:
        gauge.labels("0").set(3)
        gauge.labels("1").set(4)
        assert waiting() == 7
    finally:
        REGISTRY.unregister(gauge)
    assert waiting() == 0
