"""A server that is told to stop, as a process with real signals and sockets: answers under way end whole.

The model alone is stood in for: its answer stops in the middle until the test lets it go on.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from include.workloads.serving.__main__ import CLOSE_SECONDS
from include.workloads.serving.gateway.use import Leave, Use

PROJECT = Path(__file__).parents[4]
SERVER = """
import asyncio, sys, threading
from pathlib import Path
from types import SimpleNamespace
from include.workloads import contract
from include.workloads.serving import __main__ as serving

go_on = Path(sys.argv[1])

async def pieces():
    yield "one "
    while not go_on.exists():
        await asyncio.sleep(0.02)
    yield "two"

def ask(asked):
    request = SimpleNamespace(cancelled=threading.Event(), prompt_ids=[1], produced=2, first_token_seconds=0.1)
    return SimpleNamespace(request=request, model="m", pieces=pieces, usage={}, finish_reason="stop")

def load(env, adapters):
    worker = SimpleNamespace(waiting=0, close=lambda timeout: None)
    return SimpleNamespace(ask=ask, models=["m"], adapters=(), name="m"), worker

serving.load = load
if len(sys.argv) > 2:
    serving.GRACE_SECONDS = float(sys.argv[2])
server = serving.Server()
contract.run(server.main, on_stop=server.stop)
"""
QUESTION = {"model": "m", "messages": [{"role": "user", "content": "Count."}], "stream": True}
WAIT = 60.0  # seconds; every wait ends as soon as it can


@dataclass
class Running:
    """The process, its address, and the file that lets answers go on."""

    process: subprocess.Popen[bytes]
    http: httpx.Client
    go_on: Path

    def ask(self) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=QUESTION)

    def until(self, status: int) -> httpx.Response:
        """Ask for its health until it is this."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            try:
                if (answer := self.http.get("/health")).status_code == status:
                    return answer
            except httpx.TransportError:
                assert self.process.poll() is None, "the server is gone"
            time.sleep(0.02)
        raise AssertionError(f"/health did not become {status}")


def start(folder: Path, *arguments: str) -> Running:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "adapters").mkdir()
    environment = {
        **os.environ,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "ADAPTERS_DIR": str(folder / "adapters"),
        "PYTHONPATH": str(PROJECT),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder / "go-on"), *arguments], env=environment, cwd=PROJECT
    )
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT, trust_env=False)
    return Running(process, http, folder / "go-on")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    running = start(tmp_path)
    try:
        yield running
    finally:
        running.http.close()
        running.process.kill()
        running.process.wait(10)


def test_an_answer_under_way_ends_whole_and_new_questions_are_sent_elsewhere(server: Running) -> None:
    server.until(200)
    with server.http.stream("POST", "/v1/chat/completions", json=QUESTION) as answer:
        lines = answer.iter_lines()
        assert any("one " in line for line in lines)
        server.process.send_signal(signal.SIGTERM)
        server.until(503)
        refused = server.ask()
        assert refused.status_code == 503
        assert "being stopped" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"]
        assert server.http.get("/metrics").status_code == 200
        end = time.monotonic() + 2 * CLOSE_SECONDS  # longer than connections without a question are kept
        while time.monotonic() < end:
            assert server.ask().status_code == 503
            time.sleep(0.1)
        server.go_on.touch()
        rest = [line for line in lines if line]
    assert any("two" in line for line in rest)
    assert rest[-1] == "data: [DONE]"
    assert server.process.wait(WAIT) == 0


def test_a_server_that_nobody_asks_ends_at_once(server: Running) -> None:
    server.until(200)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(WAIT) == 0


def test_an_answer_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    running = start(tmp_path, "0.2")
    try:
        running.until(200)
        with running.http.stream("POST", "/v1/chat/completions", json=QUESTION) as answer:
            lines = answer.iter_lines()
            assert any("one " in line for line in lines)
            running.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
        running.go_on.touch()  # the thread that computes is not stopped by this stand-in
        assert running.process.wait(WAIT) == 0
    finally:
        running.process.kill()
        running.process.wait(10)


def test_leaving_is_over_when_nobody_waits_or_the_time_is() -> None:
    use = Use()
    leave, late = Leave(1000), Leave(0)
    assert not leave.is_begun()
    assert not leave.is_over(use)
    for one in (leave, late):
        one.begin()
    assert leave.is_over(use)
    use.current = 1
    assert not leave.is_over(use)
    assert late.is_over(use)
