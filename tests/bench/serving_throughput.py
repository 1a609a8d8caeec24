"""Output tokens/s and time to first token of each server, in turn in one run, on this machine's processors.

    make bench-serving                                             # what there are goals for, about 10 minutes
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from demo.scenario import prepare_weights

ROOT = Path(__file__).resolve().parents[2]
VLLM = ROOT / ".venv-vllm" / "bin"
HOST = "127.0.0.1"
MODEL, ADAPTER = "smollm2", "tuned"
NEW_TOKENS = 64
ROUNDS = {1: 3, 4: 3}  # requests of each client, one after the other; two of more clients
START_SECONDS = 400
ONCE = ("transformers", "continuous")  # too slow for more than one cycle
#: What the first is to be of the second at so many clients: (ours, theirs, tokens/s or first token, with LoRA).
GOALS: dict[tuple[str, str, str, bool], dict[int, float]] = {
    ("light", "vllm", "speed", False): {4: 0.8, 16: 0.8},
    ("light", "transformers", "speed", False): {16: 6},
    ("vllm-kaito", "vllm", "speed", False): {1: 0.97, 4: 0.97, 16: 0.97},
    ("vllm-kaito", "vllm", "first", False): {1: 1.03, 4: 1.03, 16: 1.03},
    ("light", "vllm", "speed", True): {16: 2},
}
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


@dataclass(frozen=True)
class Load:
    """What one load on one server gave."""

    speed: float  # output tokens a second
    first: float  # seconds to the first token, the median of its answers


#: By server and number of clients, a load each cycle.
Loads = dict[str, dict[int, list[Load]]]


def measured(
    names: list[str], clients: list[int], cycles: int, weights: Path, adapters: Path | None, folder: Path
) -> Loads:
    """Print each load's row. All servers are up at once, and their loads take turns: what disturbs meets all alike."""
    found: Loads = {name: {number: [] for number in clients} for name in names}
    with ExitStack() as stack:
        ups = _started(names, weights, adapters, folder, stack)
        models = {name: ADAPTER if adapters else SERVERS[name].names(weights) for name in ups}
        for name, (url, _, _) in list(ups.items()):
            if answered(name, url, models[name], 1, 0) is None:  # the first answer makes what the others find
                del ups[name]
        for cycle in range(cycles):
            for number in clients:
                for name, (url, process, start) in ups.items():
                    if cycle and name in ONCE:
                        continue
                    cpu, began = cpu_seconds(process), time.monotonic()
                    if (got := answered(name, url, models[name], number, 100 * cycle + number)) is None:
                        continue
                    speed, firsts = got
                    spent = 1000 * (cpu_seconds(process) - cpu) / (speed * (time.monotonic() - began))
                    first = statistics.median(firsts)
                    row = f"{name:<14}{number:>8}{speed:>10.0f}{first:>12.2f}{max(firsts):>12.2f}"
                    print(f"{row}{spent:>14.1f}{start:>10.1f}", flush=True)
                    found[name][number].append(Load(speed, first))
    return found


def answered(name: str, url: str, model: str, clients: int, seed: int) -> tuple[float, list[float]] | None:
    """What `load` gives; None, and a line that says why, where the server fails: the others go on."""
    try:
        return asyncio.run(load(url, model, clients, seed))
    except (RuntimeError, httpx.HTTPError) as error:
        print(f"{name:<14}{clients:>8} failed: {type(error).__name__}: {str(error)[-300:]}", flush=True)
        return None


def _started(
    names: list[str], weights: Path, adapters: Path | None, folder: Path, stack: ExitStack
) -> dict[str, tuple[str, psutil.Process, float]]:
    """The servers that serve, started together: address, process, seconds until it was healthy."""

    def start(name: str) -> tuple[str, psutil.Process, float] | None:
        began = time.monotonic()
        kind = "lora" if adapters else "base"
        try:
            up = running(SERVERS[name], weights, adapters, folder / f"{name}-{kind}.log")
            return *stack.enter_context(up), time.monotonic() - began
        except RuntimeError as error:
            print(f"{name:<14} did not serve: {str(error)[-600:]}", flush=True)
            return None

    with ThreadPoolExecutor(len(names)) as pool:
        ups = dict(zip(names, pool.map(start, names), strict=True))
    return {name: up for name, up in ups.items() if up is not None}


def ratio(loads: Loads, ours: str, theirs: str, number: int, what: str) -> float | None:
    """The median over the cycles of one server's figure by the other's; None where either is missing."""
    pairs = zip(loads.get(ours, {}).get(number, ()), loads.get(theirs, {}).get(number, ()), strict=False)
    found = [getattr(mine, what) / getattr(other, what) for mine, other in pairs]
    return statistics.median(found) if found else None


def print_ratios(loads: Loads, clients: list[int], lora: bool) -> None:
    """Each pair's ratios, and the goals beside those that have one."""
    for ours, theirs in (("light", "vllm"), ("light", "transformers"), ("vllm-kaito", "vllm")):
        for what, word, better in (("speed", "tokens/s", ">="), ("first", "TTFT", "<=")):
            goals = GOALS.get((ours, theirs, what, lora), {})
            said = []
            for number in clients:
                found = ratio(loads, ours, theirs, number, what)
                goal = goals.get(number)
                if found is not None:
                    aim = "" if goal is None else f" (goal {better} {goal}: {_met(found, goal, better)})"
                    said.append(f"{found:.2f}x at {number}{aim}")
            if said:
                print(f"{ours} / {theirs}{' with one LoRA' * lora}, {word}: {', '.join(said)}")
    if not lora and (firsts := [one.first for one in loads.get("light", {}).get(4, ())]):
        first = statistics.median(firsts)
        print(f"light, TTFT at 4 clients: {first:.2f} s (goal <= 0.6 s: {_met(first, 0.6, '<=')})")


def _met(found: float, goal: float, better: str) -> str:
    return "met" if (found >= goal if better == ">=" else found <= goal) else "NOT met"


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
    parser.add_argument("--cycles", type=int, default=1, help="loads of each server and number of clients")
    parser.add_argument("--lora", action="store_true", help="all requests ask one LoRA adapter")
    parser.add_argument("--goals", action="store_true", help="all that there is a goal for, LoRA too")
    arguments = parser.parse_args()
    clients = [int(one) for one in arguments.clients.split(",")]
    runs = [(arguments.servers.split(","), clients, arguments.cycles, arguments.lora)]
    if arguments.goals:
        runs = [(["light", "vllm", "vllm-kaito", "transformers"], [1, 4, 16], 3, False)]
        runs += [(["light", "vllm"], [16], 1, True)]
    weights = prepare_weights(ROOT / ".sandbox" / "weights")
    folder = Path(tempfile.mkdtemp(prefix="serving-"))
    heads = ("server", "clients", "tokens/s", "TTFT p50", "TTFT max", "CPU ms/token", "start s")
    for names, numbers, cycles, lora in runs:
        names = [name for name in names if SERVERS[name].lora or not lora]
        adapters = make_adapter(weights, folder / "adapters") if lora else None
        print(
            ("One LoRA adapter\n" if lora else "")
            + "{:<14}{:>8}{:>10}{:>12}{:>12}{:>14}{:>10}".format(*heads)
        )
        print_ratios(measured(names, numbers, cycles, weights, adapters, folder), numbers, lora)


if __name__ == "__main__":
    main()
