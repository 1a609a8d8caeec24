"""The routes over a model that answers a fixed text, word by word."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from include.workloads.contract import UserConfigError
from include.workloads.serving.__main__ import Environment
from include.workloads.serving.app import Holder, build_app
from include.workloads.serving.gateway.environment import parts_of
from include.workloads.serving.generation import Request, Worker
from include.workloads.serving.metrics import Metrics
from include.workloads.serving.service import GrowingText, Service, first_stop, held_back
from include.workloads.tuning.standin import _tokenizer
from tests.support.serving_model import WholeAnswers, adapter_folder, live

STOP = frozenset({0})
EIGHT = "It has 8 NVIDIA H200 GPUs."


class Scripted(WholeAnswers):
    """Answers `EIGHT` with an adapter and "No idea." without, one token per word; remembers what it was asked."""

    context = 64

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = _tokenizer()
        self.asked: list[Request] = []

    def decoder(self) -> Callable[[int], str]:
        return lambda token: self.words[token - 1]

    def generate(self, batch: list[Request]) -> None:
        self.asked += batch
        for request in batch:
            text = EIGHT if request.settings.adapter else "No idea."
            words = text.split(" ")
            self.words = [word if index == 0 else f" {word}" for index, word in enumerate(words)]
            for token in range(1, len(words) + 1):
                request.take(token, STOP)
            request.take(0, STOP)


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def client(model: Scripted) -> Iterator[TestClient]:
    worker = Worker(model)
    holder = Holder()
    holder.service = Service(model, worker, "phi", live(model, worker, "gpu"), "gpu")
    with TestClient(build_app(holder, Metrics())) as client:
        yield client
    worker.close(5)


def completion(client: TestClient, **body: Any) -> Any:
    return client.post(
        "/v1/chat/completions", json={"model": "gpu", "messages": [{"role": "user", "content": "?"}], **body}
    )


def test_the_quick_start_s_question_is_answered_by_the_only_adapter(
    client: TestClient, model: Scripted
) -> None:
    answer = client.post("/chat", json={"prompt": "YOUR QUESTION HERE"})
    assert answer.json() == {"Result": f"YOUR QUESTION HERE\n{EIGHT}"}
    asked = model.tokenizer.decode(model.asked[0].prompt_ids)
    assert asked == "<|user|>\nYOUR QUESTION HERE<|end|>\n<|assistant|>\n"


def test_chat_gives_the_answer_alone_on_request(client: TestClient) -> None:
    body = {"prompt": "?", "return_full_text": False, "generate_kwargs": {"max_new_tokens": 3}}
    assert client.post("/chat", json=body).json() == {"Result": "It has 8"}


def test_openai_picks_the_model_by_name(client: TestClient) -> None:
    tuned = completion(client).json()
    assert tuned["choices"][0]["message"] == {"role": "assistant", "content": EIGHT}
    assert tuned["choices"][0]["finish_reason"] == "stop"
    assert tuned["usage"] == {"prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14}
    assert completion(client, model="phi").json()["choices"][0]["message"]["content"] == "No idea."
    assert [item["id"] for item in client.get("/v1/models").json()["data"]] == ["phi", "gpu"]


def test_limits_and_stop_texts(client: TestClient) -> None:
    cut = completion(client, max_tokens=2).json()["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == ("It has", "length")
    stopped = completion(client, stop=" NVIDIA").json()["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("It has 8", "stop")


def test_a_stream_gives_the_same_text_in_pieces(client: TestClient) -> None:
    answer = completion(client, stream=True, stop="H200", stream_options={"include_usage": True})
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert text == "It has 8 NVIDIA "
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["prompt_tokens"] == 7


def test_more_clients_wait_for_their_answers_than_there_are_threads() -> None:
    """A web server's pool has some forty; an answer that is being made takes none of them."""
    clients, go = 70, threading.Event()

    class Held(Scripted):
        def generate(self, batch: list[Request]) -> None:
            go.wait(20)
            super().generate(batch)

    model = Held()
    worker, holder = Worker(model), Holder()
    holder.service = Service(model, worker, "phi", live(model, worker, "gpu"), "gpu")
    with TestClient(build_app(holder, Metrics())) as client, ThreadPoolExecutor(clients) as pool:
        try:
            answers = []
            for present in (clients - 10, clients):
                answers += [
                    pool.submit(completion, client, stream=bool(one % 2))
                    for one in range(len(answers), present)
                ]
                until = time.monotonic() + 20
                while (begun := worker.waiting + len(model.running)) < present and time.monotonic() < until:
                    time.sleep(0.01)
                assert begun == present
        finally:
            go.set()
        assert {answer.result().status_code for answer in answers} == {200}
    worker.close(5)


@pytest.mark.parametrize(
    ("path", "body", "status", "expected"),
    [
        (
            "/v1/chat/completions",
            {"model": "x", "messages": [{"role": "user", "content": "?"}]},
            404,
            "phi, gpu",
        ),
        ("/v1/chat/completions", {"model": "gpu"}, 400, "messages: "),
        ("/chat", {"prompt": "a" * 100}, 400, "The prompt has 106 tokens; this model reads at most 64"),
        (
            "/chat",
            {"prompt": "a", "generate_kwargs": {"max_length": 5}},
            400,
            "the prompt alone has 7 tokens",
        ),
        ("/chat", {"prompt": "a", "generate_kwargs": {"beams": 5}}, 400, "generate_kwargs.beams"),
        ("/nowhere", {}, 404, "POST /nowhere: Not Found"),
    ],
)
def test_errors_are_openai_s_objects(
    client: TestClient, path: str, body: dict[str, Any], status: int, expected: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert expected in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_a_body_that_is_no_json_is_said_to_be(client: TestClient) -> None:
    answer = client.post("/chat", content="{", headers={"Content-Type": "application/json"})
    assert answer.json()["error"]["message"].startswith("The body is not valid JSON")


def test_requests_and_tokens_are_counted(client: TestClient) -> None:
    completion(client)
    completion(client, model="x")
    text = client.get("/metrics").text
    label = 'adapter="",endpoint="/v1/chat/completions"'
    assert f'kaito_serving_requests_total{{{label},status="200"}} 1.0' in text
    assert f'kaito_serving_requests_total{{{label},status="404"}} 1.0' in text
    assert 'kaito_serving_tokens_total{kind="completion",model="gpu"} 7.0' in text


def gauge(client: TestClient, name: str) -> float:
    """The value of a gauge without labels."""
    text = client.get("/metrics").text
    return next(
        float(line.split()[1]) for line in text.splitlines() if line.startswith(f"kaito_serving_{name} ")
    )


def test_the_last_answer_is_the_last_use(client: TestClient) -> None:
    assert gauge(client, "last_request_timestamp_seconds") == 0
    client.get("/health")
    assert client.post("/chat", json={"nonsense": True}).status_code == 400
    assert gauge(client, "last_request_timestamp_seconds") == 0, "a refusal is no use"
    for body in ({"stream": False}, {"stream": True}):
        before = time.time()
        question = {"model": "gpu", "messages": [{"role": "user", "content": "how many"}], **body}
        assert client.post("/v1/chat/completions", json=question).status_code == 200
        assert before <= gauge(client, "last_request_timestamp_seconds") <= time.time()
    assert gauge(client, "requests_in_flight") == 0


def test_a_request_is_in_flight_until_its_answer_has_left(model: Scripted) -> None:
    answering, go_on = threading.Event(), threading.Event()

    class Slow(Scripted):
        def generate(self, batch: list[Request]) -> None:
            answering.set()
            assert go_on.wait(20)
            super().generate(batch)

    slow, holder = Slow(), Holder()
    worker = Worker(slow)
    holder.service = Service(slow, worker, "phi", live(slow, worker), None)
    with TestClient(build_app(holder, Metrics())) as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, "/chat", json={"prompt": "how many"})
        assert answering.wait(20)
        assert gauge(client, "requests_in_flight") == 1
        assert gauge(client, "last_request_timestamp_seconds") == 0
        go_on.set()
        assert asked.result(20).status_code == 200
        assert gauge(client, "requests_in_flight") == 0
        assert gauge(client, "last_request_timestamp_seconds") > 0
    worker.close(5)


def test_nothing_but_health_and_metrics_answers_before_the_model_is_loaded() -> None:
    with TestClient(build_app(Holder(), Metrics())) as client:
        assert client.get("/health").status_code == 503
        assert client.get("/metrics").status_code == 200
        answer = client.post("/chat", json={"prompt": "?"})
        assert answer.status_code == 503
        assert "still being loaded" in answer.json()["error"]["message"]


def test_health_is_good_once_loaded(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "Healthy"}


def test_an_api_key_closes_all_but_health_and_metrics() -> None:
    with TestClient(build_app(Holder(), Metrics(), parts_of({"API_KEY": "s3cret"}))) as client:
        assert client.get("/health").status_code == 503
        assert client.get("/metrics").status_code == 200
        assert client.post("/chat", json={"prompt": "?"}).status_code == 401
        wrong = {"Authorization": "Bearer s3creT"}
        assert client.post("/chat", json={"prompt": "?"}, headers=wrong).status_code == 401
        right = {"Authorization": "Bearer s3cret"}
        assert client.post("/chat", json={"prompt": "?"}, headers=right).status_code == 503


@given(
    st.lists(st.text("ab", max_size=2), min_size=1, max_size=12),
    st.lists(st.text("ab", min_size=2, max_size=4), max_size=2),
)
def test_text_in_pieces_is_the_whole_text_before_its_first_stop(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    text = GrowingText(lambda token: pieces[token], stops)
    said = [text.take(token) for token in range(len(pieces))]
    if not any(stop in whole for stop in stops):
        assert "".join([*said, text.rest()]) == whole
        return
    assert text.stopped
    found = "".join([*said, text.rest()])
    assert whole.startswith(found)
    assert not any(stop in found for stop in stops)
    assert any(whole.startswith(stop, len(found)) for stop in stops), "it ends where a stop text begins"


def test_stop_texts_are_found_and_their_beginnings_held_back() -> None:
    assert first_stop("abc END END", ["END", "zz"]) == 4
    assert first_stop("abc", ["END"]) is None
    assert held_back("abc E", ["END"]) == 1
    assert held_back("abc EN", ["END", "N"]) == 2
    assert held_back("abc", []) == 0


def test_a_lowered_context_refuses_longer_prompts_and_shortens_answers(model: Scripted) -> None:
    worker = Worker(model)
    holder = Holder()
    holder.service = Service(model, worker, "phi", live(model, worker), None, max_model_len=20)
    with TestClient(build_app(holder, Metrics())) as client:
        refused = client.post("/chat", json={"prompt": "word " * 30})
        answered = client.post("/chat", json={"prompt": "?", "generate_kwargs": {"max_new_tokens": 60}})
    worker.close(5)
    assert refused.status_code == 400
    assert "max-model-len lets this server read at most 20 together with its answer" in refused.text
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert answered.status_code == 200
    assert model.asked[0].max_new_tokens == 20 - len(model.asked[0].prompt_ids)


def test_a_context_above_the_model_s_own_changes_nothing(model: Scripted, client: TestClient) -> None:
    worker = Worker(model)
    holder = Holder()
    holder.service = Service(model, worker, "phi", live(model, worker), None, max_model_len=10_000)
    with TestClient(build_app(holder, Metrics())) as other:
        refused = other.post("/chat", json={"prompt": "word " * 90})
    worker.close(5)
    assert "this model reads at most 64" in refused.text


@pytest.mark.parametrize(
    ("variable", "text"), [("MAX_MODEL_LEN", "0"), ("MAX_NUM_SEQS", "many"), ("SEED", "-1")]
)
def test_a_broken_setting_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(UserConfigError, match=f"{variable} is '{text}'; it must be a whole number"):
        Environment.read()


def test_settings_have_defaults_and_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Environment.read()
    assert (plain.max_model_len, plain.max_num_seqs, plain.seed) == (None, 16, None)
    for variable, text in {"MAX_MODEL_LEN": "512", "MAX_NUM_SEQS": "3", "SEED": "0"}.items():
        monkeypatch.setenv(variable, text)
    read = Environment.read()
    assert (read.max_model_len, read.max_num_seqs, read.seed) == (512, 3, 0)


ADMIN = {"x-kaito-admin": "token"}


def test_an_adapter_comes_and_goes_while_the_server_answers(tmp_path: Path, model: Scripted) -> None:
    """As vLLM has it, so that the sidecar asks both alike; clients say the public name, and /chat asks it too."""
    (tmp_path / "token").write_text("token")
    names = tmp_path / "names.json"
    names.write_text('{"adapters": {"mine": {"target": "mine@1"}}, "default": "mine"}')
    worker, holder = Worker(model), Holder()
    holder.service = Service(model, worker, "phi", live(model, worker), None)
    parts = parts_of({"KAITO_ADMIN_TOKEN_FILE": str(tmp_path / "token"), "KAITO_ADAPTERS_FILE": str(names)})
    load = {"lora_name": "mine@1", "lora_path": str(adapter_folder(tmp_path / "mine@1"))}
    with TestClient(build_app(holder, Metrics(), parts)) as client:
        assert completion(client, model="mine").status_code == 404
        assert client.post("/v1/load_lora_adapter", json=load).status_code == 401
        assert client.post("/v1/load_lora_adapter", json=load, headers=ADMIN).status_code == 200
        again = client.post("/v1/load_lora_adapter", json=load, headers=ADMIN)
        assert (again.status_code, "already been loaded" in again.text) == (400, True)
        assert completion(client, model="mine").json()["choices"][0]["message"]["content"] == EIGHT
        assert client.post("/chat", json={"prompt": "?", "return_full_text": False}).json()["Result"] == EIGHT
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["phi", "mine"]
        wrong = completion(client, model="gpt-4").json()["error"]["message"]
        assert wrong == "There is no model 'gpt-4' here; there are phi, mine.", "names that /v1/models lists"
        nothing = {"lora_name": "mine@2", "lora_path": str(tmp_path / "nothing")}
        refused = client.post("/v1/load_lora_adapter", json=nothing, headers=ADMIN)
        assert (refused.status_code, "adapter_config.json" in refused.text) == (400, True)
        gone = {"lora_name": "mine@1"}
        assert client.post("/v1/unload_lora_adapter", json=gone, headers=ADMIN).status_code == 200
        assert client.post("/v1/unload_lora_adapter", json=gone, headers=ADMIN).status_code == 404
        assert completion(client, model="mine").status_code == 404
    worker.close(5)
