"""OpenAI's own client against this project's server: answers as it expects, and every refusal as its exceptions."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from include.workloads.serving.app import Holder, build_app
from include.workloads.serving.gateway.environment import parts_of
from include.workloads.serving.generation import Request, Worker
from include.workloads.serving.metrics import Metrics
from include.workloads.serving.service import Service
from include.workloads.tuning.standin import _tokenizer
from tests.support.serving_model import WholeAnswers, live

openai = pytest.importorskip("openai")

KEY = "s3cret"
HELLO: dict[str, Any] = {"model": "phi", "messages": [{"role": "user", "content": "Hello"}]}


class Words(WholeAnswers):
    """Answers "one two three"."""

    context = 64

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = _tokenizer()

    def decoder(self) -> Callable[[int], str]:
        return lambda token: ("one", " two", " three")[token - 1]

    def generate(self, batch: list[Request]) -> None:
        for request in batch:
            for token in (1, 2, 3, 0):
                request.take(token, frozenset({0}))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    model, holder = Words(), Holder()
    worker = Worker(model)
    holder.service = Service(model, worker, "phi", live(model, worker, "tuned"), None)
    app = build_app(holder, Metrics(), parts_of({"API_KEY": KEY, "KAITO_BODY_SECONDS": "1"}))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = server.force_exit = True
    thread.join(10)
    worker.close(5)


@pytest.fixture(scope="module")
def client(url: str) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=30)


def test_chat_whole_and_streamed(client: Any) -> None:
    whole = client.chat.completions.create(**HELLO)
    assert whole.choices[0].message.content == "one two three"
    parts = client.chat.completions.create(**HELLO, stream=True, stream_options={"include_usage": True})
    texts = [one.choices[0].delta.content or "" if one.choices else one.usage for one in parts]
    assert "".join(texts[:-1]) == "one two three"
    assert texts[-1].completion_tokens == whole.usage.completion_tokens


def test_models_are_listed_and_found(client: Any) -> None:
    assert [one.id for one in client.models.list().data] == ["phi", "tuned"]
    assert client.models.retrieve("tuned").parent == "phi"
    with pytest.raises(openai.NotFoundError, match="there are phi, tuned"):
        client.models.retrieve("nobody")


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"model": "nobody"}, "NotFoundError", "there are phi, tuned"),
        ({"messages": [{"role": "user", "content": "word " * 100}]}, "BadRequestError", "at most 64"),
        ({"messages": []}, "BadRequestError", "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "BadRequestError", "role"),
        ({"temperature": 9}, "BadRequestError", "temperature"),
        ({"max_tokens": 0}, "BadRequestError", "max_tokens"),
        ({"n": 2}, "BadRequestError", "n: "),
        ({"logprobs": True}, "BadRequestError", "logprobs"),
        ({"response_format": {"type": "json_object"}}, "BadRequestError", "response_format"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
            "BadRequestError",
            "tools",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "BadRequestError",
            "only parts of type text",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_cannot_be_answered_is_an_exception_with_a_sentence(
    client: Any, change: dict[str, Any], kind: str, said: str, stream: bool
) -> None:
    with pytest.raises(getattr(openai, kind)) as caught:
        client.chat.completions.create(**{**HELLO, **change, "stream": stream})
    assert said in caught.value.body["message"]
    assert set(caught.value.body) == {"message", "type", "param", "code"}


def test_what_it_does_not_have_is_not_found(client: Any) -> None:
    for ask in (
        lambda: client.completions.create(model="phi", prompt="x"),
        lambda: client.embeddings.create(model="phi", input="x"),
        lambda: client.responses.create(model="phi", input="x"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert set(caught.value.body) == {"message", "type", "param", "code"}


def test_a_wrong_key(url: str) -> None:
    other = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="wants its key"):
        other.chat.completions.create(**HELLO)


def refused(answer: httpx.Response, status: int, said: str) -> None:
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]["message"]
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat"])
def test_broken_bodies(url: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}

    def post(content: bytes) -> httpx.Response:
        return httpx.post(f"{url}{path}", content=content, headers=headers, timeout=60)

    refused(post(b"{"), 400, "not valid JSON")
    refused(post(b"\xff\xfe"), 400, "not valid JSON")
    refused(post(b"[]"), 400, "must be a JSON object")
    refused(post(b"[" * 100_000), 400, "nested too deeply")
    refused(post(b"x" * 50_000_000), 413, "longer than the 16 MiB")


def test_a_slow_client_is_told_and_holds_nobody_up(url: str, client: Any) -> None:
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), 10) as slow:
        head = (
            f"POST /chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100\r\n\r\n{{"
        )
        slow.sendall(head.encode())
        assert client.chat.completions.create(**HELLO).choices[0].message.content == "one two three"
        slow.settimeout(10)
        told = slow.recv(2000)
    assert b" 408 " in told
    assert b"did not arrive within 1 s" in told
