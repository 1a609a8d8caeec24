"""This project's own server under bad input: long bodies, half-sent ones, numbers that break sums, a sick model."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from transformers import LogitsProcessorList
from transformers.generation import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper

from include.workloads.serving.app import Holder, build_app
from include.workloads.serving.dialects import ChatCompletion, GenerateKwargs
from include.workloads.serving.gateway.environment import parts_of
from include.workloads.serving.generation import Busy, Request, Worker
from include.workloads.serving.metrics import Metrics
from include.workloads.serving.service import Service
from include.workloads.tuning.standin import _tokenizer
from tests.support.serving_model import WholeAnswers, live

QUESTION = {"model": "phi", "messages": [{"role": "user", "content": "?"}]}
CHAT = "/v1/chat/completions"


class Model(WholeAnswers):
    """Answers "No idea.", or fails while it is `sick`."""

    context = 64

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = _tokenizer()
        self.sick = False

    def decoder(self) -> Any:
        return lambda token: "No idea."

    def generate(self, batch: list[Request]) -> None:
        if self.sick:
            raise RuntimeError("CUDA error: device-side assert triggered")
        for request in batch:
            request.take(1, frozenset({0}))
            request.take(0, frozenset({0}))


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def holder(model: Model) -> Iterator[Holder]:
    worker, holder = Worker(model), Holder()
    holder.service = Service(model, worker, "phi", live(model, worker), None)
    yield holder
    worker.close(5)


@contextmanager
def listening(app: Any) -> Iterator[int]:
    """The application on a real socket; gives its port."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = server.force_exit = True
    thread.join(10)


def gauge(text: str, name: str) -> float:
    return next(
        float(line.split()[1]) for line in text.splitlines() if line.startswith(f"kaito_serving_{name} ")
    )


@pytest.mark.parametrize("field", ["messages", "ignored"])
def test_a_long_body_is_refused_at_once_and_health_stays_fast(holder: Holder, field: str) -> None:
    long = "a " * 12_500_000
    body = QUESTION | (
        {"messages": [{"role": "user", "content": long}]} if field == "messages" else {"user": long}
    )
    with TestClient(build_app(holder, Metrics())) as client:
        began = time.monotonic()
        answer = client.post(CHAT, json=body)
        assert answer.status_code == 413
        assert "longer than the 16 MiB" in answer.json()["error"]["message"]
        assert client.get("/health").status_code == 200
        assert time.monotonic() - began < 5


def test_a_half_sent_request_is_not_in_flight_and_ends(holder: Holder) -> None:
    app = build_app(holder, Metrics(), parts_of({"KAITO_BODY_SECONDS": "1"}))
    with listening(app) as port, socket.create_connection(("127.0.0.1", port), 10) as half:
        half.sendall(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.3)
        metrics = get(port, "/metrics")
        assert gauge(metrics, "requests_in_flight") == 0
        assert gauge(metrics, "last_request_timestamp_seconds") == 0
        half.settimeout(10)
        assert b"408" in half.recv(100)
        assert gauge(get(port, "/metrics"), "last_request_timestamp_seconds") == 0


def get(port: int, path: str) -> str:
    import httpx

    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=10).text


def test_a_full_queue_asks_to_come_again(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Request) -> None:
        raise Busy

    assert holder.service is not None
    monkeypatch.setattr(holder.service._worker, "submit", full)
    client = TestClient(build_app(holder, Metrics(), parts_of({})))
    for path, body in ((CHAT, QUESTION), (CHAT, {**QUESTION, "stream": True}), ("/chat", {"prompt": "?"})):
        answer = client.post(path, json=body)
        assert answer.status_code == 429
        assert "try again in a moment" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) > 0
    assert client.get("/health").status_code == 200


def test_health_turns_bad_while_every_answer_fails(holder: Holder, model: Model) -> None:
    model.sick = True
    with TestClient(build_app(holder, Metrics()), raise_server_exceptions=False) as client:
        for stream in (False, True, False, True, False):
            client.post(CHAT, json={**QUESTION, "stream": stream})
        assert client.get("/health").status_code == 503
        model.sick = False
        assert client.post(CHAT, json=QUESTION).status_code == 200
        assert client.get("/health").status_code == 200


def test_the_scheme_of_the_key_is_case_blind(holder: Holder) -> None:
    with TestClient(build_app(holder, Metrics(), parts_of({"API_KEY": "s3cret"}))) as client:
        for scheme in ("Bearer", "bearer", "BEARER"):
            headers = {"Authorization": f"{scheme} s3cret"}
            assert client.post(CHAT, json=QUESTION, headers=headers).status_code == 200
        assert client.post(CHAT, json=QUESTION).status_code == 401


NUMBERS = [1e-320, 1e-40, 1e-7, 0.001, 0.01, 0.5, 1.0, 2.0, 1e9, 1e38, math.inf, math.nan]


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("name", ["temperature", "repetition_penalty"])
def test_no_accepted_number_breaks_the_probabilities(name: str, value: float) -> None:
    """Whatever /chat lets through leaves a distribution that can be drawn from, in the precision of the logits."""
    try:
        arguments = GenerateKwargs.model_validate({name: value, "do_sample": True}).sampling()
    except ValueError:
        return  # refused
    chain = LogitsProcessorList()
    if "repetition_penalty" in arguments:
        chain.append(RepetitionPenaltyLogitsProcessor(arguments["repetition_penalty"]))
    if arguments.get("do_sample"):
        chain.append(TemperatureLogitsWarper(arguments["temperature"]))
    logits = torch.tensor([[30.0, 29.0, -30.0, 5.0]], dtype=torch.float32)
    shares = torch.softmax(chain(torch.tensor([[0, 1, 2, 3]]), logits), dim=-1)
    assert torch.isfinite(shares).all(), (arguments, shares)


@pytest.mark.parametrize("value", [1e-320, 1e-40, 1e-7, 0.001])
def test_next_to_no_temperature_is_greedy(value: float) -> None:
    body = ChatCompletion.model_validate({**QUESTION, "temperature": value})
    assert body.sampling() == {}
    assert GenerateKwargs.model_validate({"temperature": value}).sampling() == {}


def test_numbers_that_are_none_are_refused(holder: Holder) -> None:
    with TestClient(build_app(holder, Metrics())) as client:
        for text in ("NaN", "Infinity", "1e999"):
            content = (
                '{"model": "phi", "messages": [{"role": "user", "content": "?"}], "temperature": '
                + text
                + "}"
            )
            answer = client.post(CHAT, content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400, text
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
