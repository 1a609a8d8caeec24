"""What a new server can do at most: the load, the figures, and every way in which there are none."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from include.workloads.serving import benchmark
from include.workloads.serving.benchmark import Load, Server, Unmeasurable, load_of
from include.workloads.serving.gateway.environment import parts_of
from include.workloads.serving.gateway.use import RUNNING_LIMIT

CACHE = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="%d",engine="0"} 1.0\n'


@pytest.mark.parametrize(
    ("blocks", "longest", "expected"),
    [
        (9000, 131072, Load(2048, 256, 62, 60.0)),
        (9000, 1024, Load(911, 113, 140, 60.0)),
        (10**6, 131072, Load(2048, 256, 256, 60.0)),
    ],
)
def test_as_many_at_once_as_the_cache_holds(blocks: int, longest: int, expected: Load) -> None:
    assert load_of(CACHE % blocks, longest, 60.0) == expected


def test_the_caches_of_all_engines_count() -> None:
    assert benchmark.cache_tokens(CACHE % 100 + CACHE % 50) == 150 * 16


@pytest.mark.parametrize("text", ["", "vllm:cache_config_info{} 1", CACHE % 1, "not metrics at all {"])
def test_a_cache_that_holds_nothing_or_is_not_told(text: str) -> None:
    with pytest.raises(Unmeasurable):
        load_of(text, 4096, 60.0)


class _Vllm(BaseHTTPRequestHandler):
    state: dict[str, Any]

    def do_GET(self) -> None:
        state = self.state
        content = {
            "/health": "ok",
            "/version": '{"version": "0.32.0"}',
            "/v1/models": json.dumps({"data": [{"id": "m", "max_model_len": 64, **state["more"]}]}),
            "/metrics": CACHE % 8
            + f"vllm:prompt_tokens_total {state['prompt']}\nvllm:generation_tokens_total {state['out']}\n",
        }[self.path]
        self._answer(200, content)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.state
        with state["lock"]:
            state["running"] += 1
            full = state["running"] > state["most"]
        if full:
            with state["lock"]:
                state["running"] -= 1
            return self._answer(429, "{}")
        time.sleep(0.05)  # long enough for the other client to come
        with state["lock"]:
            state["running"] -= 1
            state["bodies"].append(body)
            state["keys"].add(self.headers.get("X-Api-Key"))
            if state["counts"]:
                state["prompt"] += len(body["prompt"])
                state["out"] += body["max_tokens"]
        return self._answer(state["status"], 'data: {"choices": []}\n\ndata: [DONE]\n\n')

    def _answer(self, status: int, content: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content.encode())))
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def vllm() -> Iterator[tuple[Server, dict[str, Any]]]:
    state: dict[str, Any] = {
        "lock": threading.Lock(),
        "bodies": [],
        "more": {},
        "keys": set(),
        "prompt": 0,
        "out": 0,
        "status": 200,
        "running": 0,
        "most": 99,
        "counts": True,
    }
    handler = type("Handler", (_Vllm,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield Server("127.0.0.1", server.server_port, "key"), state
    server.shutdown()
    server.server_close()


def test_the_places_where_requests_wait_are_left_to_the_users() -> None:
    told = f"{RUNNING_LIMIT} 4.0\n"
    assert load_of(CACHE % 8000 + told, 64, 60.0).at_once == 4


def test_a_run_gives_kaito_s_metric_lines_and_config(
    vllm: tuple[Server, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    server, state = vllm
    found = benchmark.run(server, {benchmark.SECONDS: "0.3", "KAITO_QUANTIZATION": "fp8"})
    assert found["state"] == "done"
    peak = found["metrics"]["peakTokensPerMinute"]
    assert float(peak["value"]) > 0
    assert (peak["unit"], peak["description"]) == ("tokens/min", "stress/high-concurrency")
    assert {key: peak["config"][key] for key in ("inputTokens", "outputTokens", "maxConcurrency")} == {
        "inputTokens": "57",
        "outputTokens": "7",
        "maxConcurrency": "2",
    }
    # KAITO's clients decode each value of a metric as a text.
    for metric in found["metrics"].values():
        assert set(map(type, (metric["value"], *metric["config"].values()))) == {str}
    assert (peak["config"]["engineVersion"], peak["config"]["quantization"]) == ("0.32.0", "fp8")
    assert float(found["metrics"]["timeToFirstToken"]["value"]) >= 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["KAITO_BENCHMARK_CONFIG", "KAITO_BENCHMARK_RESULT"]
    assert state["keys"] == {"key"}
    prompts = [tuple(body["prompt"]) for body in state["bodies"]]
    assert len(set(prompts)) == len(prompts), "nothing comes from the prefix cache"


def test_a_server_that_answers_nothing_is_a_failure_with_one_result_line(
    vllm: tuple[Server, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    server, state = vllm
    state["status"] = 500
    found = benchmark.run(server, {benchmark.SECONDS: "0.2"})
    assert found["state"] == "failed"
    assert "was answered" in found["message"]
    assert '"vllm_total_tpm": -1' in capsys.readouterr().out.splitlines()[-1]


def test_a_server_too_slow_for_the_time_given_is_not_called_one_that_answers_nothing(
    vllm: tuple[Server, dict[str, Any]],
) -> None:
    server, state = vllm
    state["counts"] = False
    found = benchmark.run(server, {benchmark.SECONDS: "0.2"})
    assert found == {
        "state": "failed",
        "message": "The server counted no token in the first 0.2 s of the load.",
    }


def test_a_model_that_embeds_is_not_measured(vllm: tuple[Server, dict[str, Any]]) -> None:
    server, state = vllm
    state["more"] = {"task": "embed"}
    found = benchmark.run(server, {benchmark.SECONDS: "0.2"})
    assert found["state"] == "failed"
    assert "m embeds texts and writes none" in found["message"]
    assert state["bodies"] == []


def test_a_server_that_runs_fewer_at_once_is_measured_with_so_many(
    vllm: tuple[Server, dict[str, Any]],
) -> None:
    server, state = vllm
    state["most"] = 1
    found = benchmark.run(server, {benchmark.SECONDS: "0.5"})
    assert found["state"] == "done"
    assert found["metrics"]["peakTokensPerMinute"]["config"]["maxConcurrency"] == "1"
    assert found["failedRequests"] == 0


def test_the_gateway_says_how_far_it_is(tmp_path: Path) -> None:
    file = tmp_path / "benchmark.json"
    assert parts_of({}).performance() == {"state": "off"}
    parts = parts_of({"KAITO_BENCHMARK_FILE": str(file)})
    assert parts.performance() == {"state": "running"}
    file.write_text('{"state": "done", "metrics": {}}')
    assert parts.performance() == {"state": "done", "metrics": {}}
