"""Measures what a new vLLM server can do at most, once, beside it in its pod: KAITO's benchmark, after the start.

As many requests at once as the server's cache holds, of 2048 random tokens in and 256 out, for a minute; tokens in and
out by the server's own counters. The result is a file that the gateway shows at /kaito/performance, and KAITO's two
lines in the pod's log. The service answers meanwhile. It must never end the server, nor measure twice.
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from include.contracts import pooling
from include.workloads.contract import atomic_write
from include.workloads.serving.gateway.use import RUNNING_LIMIT

log = logging.getLogger("workload")

FILE, SECONDS = "KAITO_BENCHMARK_FILE", "KAITO_BENCHMARK_SECONDS"
DURATION = 60.0
DESCRIPTION = "stress/high-concurrency"  # KAITO's word for this load
INPUT, OUTPUT = 2048, 256  # tokens; KAITO's
START_SECONDS, DRAIN_SECONDS, REQUEST_SECONDS = 10800.0, 300.0, 600.0
MOST_AT_ONCE = 256
#: Ids that every vocabulary has and none of whose tokens ends an answer.
TOKENS = range(1000, 8000)
COUNTERS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
WAITING, RUNNING = "vllm:num_requests_waiting", "vllm:num_requests_running"
CACHE = "vllm:cache_config_info"
_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?[ \t]+(?P<value>\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class TooMany(Exception):
    """The server takes no more requests at once."""


class Unmeasurable(Exception):
    """The server cannot be measured; the text says why."""


@dataclass(frozen=True)
class Server:
    """The gateway in this pod."""

    host: str
    port: int
    key: str = ""

    def get(self, path: str) -> tuple[int, str]:
        """GET as (status, text); (0, "") when nothing answers."""
        try:
            connection, answer = self._send("GET", path, None, 30.0)
        except (OSError, http.client.HTTPException):
            return 0, ""
        with connection:
            return answer.status, answer.read().decode(errors="replace")

    def complete(self, model: str, tokens: list[int], output: int) -> float | None:
        """One streamed completion; seconds to its first token, None when it fails. Raises TooMany."""
        body = {
            "model": model,
            "prompt": tokens,
            "max_tokens": output,
            "ignore_eos": True,
            "stream": True,
            "temperature": 0,
        }
        began = time.monotonic()
        first: float | None = None
        try:
            connection, answer = self._send("POST", "/v1/completions", body, REQUEST_SECONDS)
            with connection:
                if answer.status == 429:
                    raise TooMany
                if answer.status != 200:
                    return None
                while line := answer.readline():
                    if first is None and line.startswith(b"data: {"):
                        first = time.monotonic() - began
        except (OSError, http.client.HTTPException):
            return None
        return first

    def _send(
        self, method: str, path: str, body: Any, seconds: float
    ) -> tuple[_Closing, http.client.HTTPResponse]:
        connection = _Closing(self.host, self.port, timeout=seconds)
        headers = {"Content-Type": "application/json", **({"X-Api-Key": self.key} if self.key else {})}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        return connection, connection.getresponse()


class _Closing(http.client.HTTPConnection):
    def __enter__(self) -> _Closing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Load:
    """What is sent: tokens in and out of each request, how many at once, for how many seconds."""

    input: int
    output: int
    at_once: int
    seconds: float


@dataclass
class Result:
    """What was measured; -1 tokens a minute for a failure, as in KAITO."""

    tokens_per_minute: float = -1.0
    first_token_ms: float = -1.0
    requests: int = 0
    failed: int = 0
    turned_away: int = 0  # clients that the server had no place for
    seconds: float = 0.0
    firsts: list[float] = field(default_factory=list, repr=False)


def samples(text: str) -> dict[str, float]:
    """Prometheus' text as sums by name."""
    found: dict[str, float] = {}
    for sample in _SAMPLE.finditer(text):
        try:
            found[sample["name"]] = found.get(sample["name"], 0.0) + float(sample["value"])
        except ValueError:
            continue
    return found


def cache_tokens(text: str) -> int:
    """How many tokens the caches of all engines hold. Raises Unmeasurable when the server does not say."""
    total = 0
    for sample in _SAMPLE.finditer(text):
        if sample["name"] == CACHE:
            labels = dict(_LABEL.findall(sample["labels"] or ""))
            try:
                total += int(labels["num_gpu_blocks"]) * int(labels["block_size"])
            except (KeyError, ValueError):
                continue
    if total <= 0:
        raise Unmeasurable("The server does not tell how large its cache is.")
    return total


def load_of(metrics: str, longest: int, seconds: float) -> Load:
    """The load for a server of this cache and context: KAITO's, shorter where the context is.

    It fills the places where requests are worked on and none of those where they wait, so that the service goes on
    answering its users.
    """
    whole = min(INPUT + OUTPUT, longest)
    output = max(1, whole * OUTPUT // (INPUT + OUTPUT))
    at_once = cache_tokens(metrics) // whole
    if at_once < 1:
        raise Unmeasurable(f"The cache holds no request of {whole} tokens.")
    limit = int(samples(metrics).get(RUNNING_LIMIT, 0)) or MOST_AT_ONCE
    return Load(whole - output, output, min(at_once, limit, MOST_AT_ONCE), seconds)


def measure(server: Server, model: str, load: Load, clock: Callable[[], float] = time.monotonic) -> Result:
    """Send the load. Raises Unmeasurable when no request succeeds, or none gets on."""
    result, lock = Result(), threading.Lock()
    begun = clock()
    before = samples(server.get("/metrics")[1])

    def client(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - tokens of a prompt
        while clock() - begun < load.seconds:
            try:
                first = server.complete(model, chance.choices(TOKENS, k=load.input), load.output)
            except TooMany:  # the server runs fewer at once than its cache holds: so many are its peak
                with lock:
                    result.turned_away += 1
                return
            with lock:
                result.requests += 1
                if first is None:
                    result.failed += 1
                else:
                    result.firsts.append(first)
            if first is None:
                time.sleep(0.5)

    threads = [threading.Thread(target=client, args=(seed,), daemon=True) for seed in range(load.at_once)]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, load.seconds - (clock() - begun)))
    result.seconds = clock() - begun
    after = samples(server.get("/metrics")[1])
    for thread in threads:
        thread.join(DRAIN_SECONDS)
    tokens = sum(after.get(name, 0.0) - before.get(name, 0.0) for name in COUNTERS)
    if not result.firsts:
        raise Unmeasurable(f"None of {result.requests} requests was answered.")
    if tokens <= 0:
        raise Unmeasurable(f"The server counted no token in the first {result.seconds:.1f} s of the load.")
    result.tokens_per_minute = tokens * 60 / result.seconds
    result.first_token_ms = 1000 * fmean(result.firsts)
    return result


def performance(load: Load, result: Result, version: str, quantization: str | None) -> dict[str, Any]:
    """`status.performance.metrics`: KAITO's metric in KAITO's types, where each value is a text, and the time to the
    first token beside it.
    """
    at_once = load.at_once - result.turned_away
    config = {
        "durationSec": str(round(result.seconds)),
        "inputTokens": str(load.input),
        "outputTokens": str(load.output),
        "maxConcurrency": str(at_once),
        "engine": "vllm",
        "engineVersion": version,
        "quantization": quantization or "",
    }
    return {
        "peakTokensPerMinute": {
            "description": DESCRIPTION,
            "value": str(round(result.tokens_per_minute)),
            "unit": "tokens/min",
            "config": config,
        },
        "timeToFirstToken": {
            "description": DESCRIPTION,
            "value": str(round(result.first_token_ms)),
            "unit": "ms",
            "config": config,
        },
    }


def run(server: Server, environment: Mapping[str, str]) -> dict[str, Any]:
    """Wait for the server, measure it; what the file is to hold."""
    deadline = time.monotonic() + START_SECONDS
    while server.get("/health")[0] != 200:
        if time.monotonic() > deadline:
            return {"state": "failed", "message": "The server did not become healthy."}
        time.sleep(1.0)
    load, result = None, Result()
    try:
        listed = json.loads(server.get("/v1/models")[1])["data"][0]
        if task := pooling.task_of(listed):
            raise Unmeasurable(
                f"There are no written tokens to count: {pooling.told(task, str(listed['id']))}"
            )
        longest = int(listed.get("max_model_len") or INPUT + OUTPUT)
        load = load_of(server.get("/metrics")[1], longest, float(environment.get(SECONDS) or DURATION))
        _line("CONFIG", asdict(load))
        result = measure(server, str(listed["id"]), load)
    except Unmeasurable as error:
        return _failed(str(error))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return _failed(f"The server's answers are not understood ({error}).")
    _line("RESULT", {"vllm_total_tpm": result.tokens_per_minute, "ttft_avg_ms": result.first_token_ms})
    version = json.loads(server.get("/version")[1] or "{}").get("version", "")
    found = performance(load, result, str(version), environment.get("KAITO_QUANTIZATION"))
    return {"state": "done", "metrics": found, "failedRequests": result.failed}


def _failed(message: str) -> dict[str, Any]:
    _line("RESULT", {"vllm_total_tpm": -1, "ttft_avg_ms": -1})
    return {"state": "failed", "message": message}


def _line(kind: str, values: Mapping[str, Any]) -> None:
    """KAITO's line in the pod's log."""
    rounded = {
        key: round(value, 1) if isinstance(value, float) and math.isfinite(value) else value
        for key, value in values.items()
    }
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    sys.stdout.write(f"KAITO_BENCHMARK_{kind} {moment} {json.dumps(rounded)}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, write the file, end."""
    logging.basicConfig(level=logging.INFO)
    file = Path(os.environ[FILE])
    key_file = os.environ.get("API_KEY_FILE")
    key = Path(key_file).read_text(encoding="utf-8").strip() if key_file else os.environ.get("API_KEY", "")
    host = os.environ.get("POD_IP") or "127.0.0.1"
    server = Server(host, int(os.environ.get("PORT") or 5000), key)
    try:
        found = run(server, os.environ)
    except Exception as error:  # told, and the server goes on
        log.exception("the benchmark failed")
        found = {"state": "failed", "message": f"{type(error).__name__}: {error}"}
    atomic_write(file, json.dumps(found).encode())


if __name__ == "__main__":
    main()
