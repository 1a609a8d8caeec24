"""Upstream's vLLM behind our gateway, as one pod: OpenAI's own client, changing adapters, bad input, a graceful end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from demo.scenario import prepare_weights
from include.reconcile import activity
from include.workloads.adapter.engine import VllmEngine
from include.workloads.adapter.follow import Follower
from tests.support.vllm_pod import (
    MARKS,
    MODEL,
    PROJECT_ROOT,
    SMALL,
    Pod,
    ask,
    openai_client,
    serving,
    user,
)

pytestmark = [*MARKS, pytest.mark.timeout(1200)]

KEY, TOKEN = "s3cret-key", "inside-the-pod"
AUTH = {"Authorization": f"bearer {KEY}"}
DIGEST, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64
ADDRESS = "127.78.0.1"

ADAPTERS = """
import sys, torch
from transformers import AutoModelForCausalLM
from peft import LoraConfig, get_peft_model
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
for seed, (folder, rank) in enumerate(zip(sys.argv[2::2], sys.argv[3::2])):
    torch.manual_seed(seed)
    config = LoraConfig(r=int(rank), lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = get_peft_model(model, config)
    tuned.save_pretrained(folder)
    model = tuned.unload()
"""


def make_adapters(model: Path, ranks: dict[Path, int]) -> None:
    """An adapter of random weights in each folder, of the rank given; one process makes all of them."""
    arguments = [str(part) for folder, rank in ranks.items() for part in (folder, rank)]
    command = [sys.executable, "-c", ADAPTERS, str(model), *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("vllm")
    model = prepare_weights(PROJECT_ROOT / ".sandbox" / "weights")
    make_adapters(model, {folder / "adapters" / "mine": 4, folder / "next": 4, folder / "large": 32})
    (folder / "key").write_text(KEY)
    (folder / "token").write_text(TOKEN)
    environment = {
        "WEIGHTS_PATH": str(model),
        "ADAPTERS_DIR": str(folder / "adapters"),
        "API_KEY_FILE": str(folder / "key"),
        "KAITO_ADMIN_TOKEN_FILE": str(folder / "token"),
        "KAITO_ADAPTERS_FILE": str(folder / "names.json"),
        "KAITO_ADAPTER_DIGESTS": json.dumps({"mine": DIGEST}),
        "KAITO_BODY_SECONDS": "3",
        "DRAIN_SECONDS": "60",
    }
    flags = [f"--served-model-name={MODEL}", "--enable-lora", "--max-loras=1", "--max-cpu-loras=3"]
    flags += ["--enable-auto-tool-choice", "--tool-call-parser=hermes", "--", *SMALL]
    with serving(folder, ADDRESS, flags, environment) as made:
        yield made


@pytest.fixture
def openai(pod: Pod) -> Any:
    return openai_client(pod, KEY)


# --- OpenAI's own client ----------------------------------------------------------------------------------------------


def test_chat_whole_and_streamed_are_the_same(openai: Any) -> None:
    question: dict[str, Any] = {
        "model": MODEL,
        "messages": user("What is the capital of France?"),
        "temperature": 0,
        "max_tokens": 16,
    }
    whole = openai.chat.completions.create(**question).choices[0].message.content
    parts = openai.chat.completions.create(**question, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == whole
    assert "Paris" in whole


def test_models_are_listed_and_found(openai: Any) -> None:
    assert [model.id for model in openai.models.list().data] == [MODEL, "mine"]
    assert openai.models.retrieve("mine").model_dump()["digest"] == DIGEST
    assert openai.models.retrieve(MODEL).id == MODEL


def test_completions_with_logprobs(openai: Any) -> None:
    answer = openai.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0, logprobs=2
    )
    assert len(answer.choices[0].logprobs.token_logprobs) == 4


def test_responses(openai: Any) -> None:
    answer = openai.responses.create(model=MODEL, input="Say hello.", max_output_tokens=8, temperature=0)
    assert answer.output_text


TOOL = {
    "type": "function",
    "function": {
        "name": "gpus_of",
        "description": "How many GPUs a machine type has",
        "parameters": {
            "type": "object",
            "properties": {"machine": {"type": "string", "maxLength": 20}},
            "required": ["machine"],
        },
    },
}


def test_tools_are_called_and_offered(openai: Any) -> None:
    answer = openai.chat.completions.create(
        model=MODEL,
        messages=user("How many GPUs has Standard_NC24?"),
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "gpus_of"}},
        temperature=0,
        max_tokens=64,
    )
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "gpus_of"
    # vLLM 0.32 does not hold a named tool's arguments to their schema: this model says "nvm", which is JSON too.
    assert json.loads(call.function.arguments)
    offered = openai.chat.completions.create(
        model=MODEL, messages=user("Hello"), tools=[TOOL], temperature=0, max_tokens=8
    )
    assert offered.choices[0].message is not None


MACHINE = {
    "type": "object",
    "properties": {
        "machine": {"type": "string", "maxLength": 24},
        "gpus": {"type": "integer", "minimum": 1, "maximum": 8},
        "spot": {"type": "boolean"},
    },
    "required": ["machine", "gpus", "spot"],
    "additionalProperties": False,
}


def test_an_answer_keeps_to_a_schema(openai: Any) -> None:
    """Unlike a named tool's arguments: this model would not write JSON by itself."""
    question: dict[str, Any] = {
        "model": MODEL,
        "messages": user("Describe the machine Standard_NC24ads_A100_v4."),
        "temperature": 0,
        "max_tokens": 96,
    }
    form = {"type": "json_schema", "json_schema": {"name": "machine", "schema": MACHINE, "strict": True}}
    kept = openai.chat.completions.create(**question, response_format=form).choices[0]
    assert kept.finish_reason == "stop"
    jsonschema.validate(json.loads(kept.message.content), MACHINE)
    free = openai.chat.completions.create(**question).choices[0].message.content
    with pytest.raises(json.JSONDecodeError):
        json.loads(free)


# --- KAITO's words, use, adapters -------------------------------------------------------------------------------------


def test_the_quick_start_s_question(pod: Pod) -> None:
    answer = httpx.post(
        f"{pod.url}/chat", json={"prompt": "What is the capital of France?"}, headers=AUTH, timeout=300
    )
    assert answer.status_code == 200
    assert answer.json()["Result"].startswith("What is the capital of France?\n")
    assert "Paris" in answer.json()["Result"]
    short = {"prompt": "What is the capital of France?", "generate_kwargs": {"max_length": 45}}
    assert httpx.post(f"{pod.url}/chat", json=short, headers=AUTH, timeout=300).status_code == 200


def test_the_use_is_told(pod: Pod) -> None:
    before = time.time()
    assert ask(pod.url, {"messages": user("Hello")}, AUTH).status_code == 200
    used = activity.read(httpx.get(f"{pod.url}/metrics", timeout=10).text)
    assert used is not None
    assert used.last is not None
    assert (used.in_flight, used.last >= before) == (0, True)


def test_an_adapter_is_replaced_without_a_restart_and_without_a_failed_request(pod: Pod) -> None:
    question = {"messages": user("What is the capital of France?"), "model": "mine"}
    base = ask(pod.url, {**question, "model": MODEL}, AUTH)
    first = ask(pod.url, question, AUTH)
    assert first.headers["x-kaito-adapter-digest"] == DIGEST
    text = [one.json()["choices"][0]["message"]["content"] for one in (base, first)]
    assert text[0] != text[1], "the adapter does something"
    folder = pod.log.parent
    statuses: list[int] = []
    done = threading.Event()

    def clients() -> None:
        while not done.is_set():
            statuses.append(ask(pod.url, {**question, "max_tokens": 4}, AUTH).status_code)

    threads = [threading.Thread(target=clients) for _ in range(2)]
    for thread in threads:
        thread.start()
    engine = VllmEngine(pod.address, pod.port, TOKEN)
    sidecar = follower(folder, {"mine": f"r.example.com/next@{OTHER}"})
    sidecar.step(engine)
    second = ask(pod.url, question, AUTH)
    done.set()
    for thread in threads:
        thread.join()
    assert second.headers["x-kaito-adapter-digest"] == OTHER
    assert second.json()["choices"][0]["message"]["content"] not in text, "no stale answer"
    assert statuses
    assert set(statuses) == {200}
    listed = httpx.get(f"{pod.url}/v1/models", headers=AUTH, timeout=10).json()["data"]
    assert [(one["id"], one.get("digest")) for one in listed] == [(MODEL, None), ("mine", OTHER)]
    told = httpx.get(f"{pod.url}/kaito/adapters", headers=AUTH, timeout=10).json()
    assert told["adapters"]["mine"]["image"] == f"r.example.com/next@{OTHER}"
    # What the engine cannot take leaves this one in place, and says why.
    sidecar = follower(folder, {"mine": f"r.example.com/large@{DIGEST}"})
    sidecar.step(engine)
    told = httpx.get(f"{pod.url}/kaito/adapters", headers=AUTH, timeout=10).json()
    assert told["pending"]["mine"]["state"] == "Failed"
    assert "rank" in told["pending"]["mine"]["message"]
    assert ask(pod.url, question, AUTH).headers["x-kaito-adapter-digest"] == OTHER


def follower(folder: Path, images: dict[str, str]) -> Follower:
    """The sidecar of this pod, over a registry that is a folder: r.example.com/NAME is NAME in it."""

    def pull(image: str, target: Path) -> str:
        name, _, digest = image.removeprefix("r.example.com/").partition("@")
        for file in (folder / name).iterdir():
            shutil.copy(file, target / file.name)
        return digest

    wanted = [{"name": name, "image": image} for name, image in images.items()]
    (folder / "wanted.json").write_text(json.dumps({"adapters": wanted}))
    return Follower(folder / "adapters", folder / "wanted.json", folder / "names.json", pull)


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(answer: httpx.Response, status: int, said: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert said in error["message"]
    assert {"message", "type", "code"} <= set(error)


def test_bad_input_is_said_and_the_server_stays_up_and_fast(pod: Pod) -> None:
    chat = f"{pod.url}/v1/chat/completions"
    json_headers = {**AUTH, "Content-Type": "application/json"}
    refused(
        httpx.post(chat, content=b"x" * 50_000_000, headers=json_headers, timeout=60),
        413,
        "longer than the 16 MiB",
    )
    refused(httpx.post(chat, content=b"{", headers=json_headers, timeout=60), 400, "not valid JSON")
    refused(ask(pod.url, {"messages": user("?"), "temperature": 9}, AUTH), 400, "temperature")
    refused(ask(pod.url, {"messages": user("?")}, {"Authorization": "Bearer wrong"}), 401, "wants its key")
    refused(ask(pod.url, {"messages": user("?")}), 401, "wants its key")
    refused(ask(pod.url, {"messages": user("?"), "model": "nobody"}, AUTH), 404, "nobody")
    refused(ask(pod.url, {"messages": user("word " * 3000)}, AUTH), 400, "1024")
    refused(httpx.post(f"{pod.url}/v1/load_lora_adapter", json={}, headers=AUTH, timeout=10), 401, "key")
    assert ask(pod.url, {"messages": user("?"), "temperature": 1e-40}, AUTH).status_code == 200
    began = time.monotonic()
    assert pod.healthy()
    assert time.monotonic() - began < 1


def test_more_than_can_wait_is_told_to_come_again(pod: Pod) -> None:
    """Four run together and four may wait."""
    body = {"model": MODEL, "messages": user("Count to fifty."), "max_tokens": 150, "ignore_eos": True}
    answers: list[httpx.Response] = []
    with httpx.Client(headers=AUTH, timeout=300) as client:  # one, so that all are there at once

        def question() -> None:
            answers.append(client.post(f"{pod.url}/v1/chat/completions", json=body))

        threads = [threading.Thread(target=question) for _ in range(16)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    statuses = [one.status_code for one in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 8
    told = next(one for one in answers if one.status_code == 429)
    refused(told, 429, "of at most 4")
    assert int(told.headers["retry-after"]) > 0
    assert pod.healthy()


def test_a_half_sent_request_is_not_in_use(pod: Pod) -> None:
    with socket.create_connection((pod.address, pod.port), 10) as half:
        head = (
            f"POST /chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100\r\n\r\n{{"
        )
        half.sendall(head.encode())
        time.sleep(0.5)
        used = activity.read(httpx.get(f"{pod.url}/metrics", timeout=10).text)
        assert used is not None
        assert used.in_flight == 0
        half.settimeout(10)
        assert b"408" in half.recv(200)


# --- the end: the last test, for the server is gone after it ----------------------------------------------------------


def test_told_to_end_it_finishes_what_it_answers(pod: Pod) -> None:
    assert pod.process is not None
    lines: list[str] = []
    begun = threading.Event()

    def read() -> None:
        body = {
            "model": MODEL,
            "messages": user("Count to fifty."),
            "max_tokens": 150,
            "stream": True,
            "ignore_eos": True,
        }
        with httpx.stream(
            "POST", f"{pod.url}/v1/chat/completions", json=body, headers=AUTH, timeout=300
        ) as answer:
            for line in answer.iter_lines():
                lines.append(line)
                begun.set()

    reading = threading.Thread(target=read)
    reading.start()
    assert begun.wait(120)
    os.kill(pod.process.pid, signal.SIGTERM)
    reading.join(120)
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]", lines[-3:]
    assert pod.process.wait(60) == 0
