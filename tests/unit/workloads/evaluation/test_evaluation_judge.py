"""The judge is asked as OpenAI's servers are, its key goes to it alone, and only a number of it counts."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from include.contracts.evaluation import Matcher
from include.contracts.golden_set import GoldenPrompt
from include.workloads.contract import TryAgain, UserConfigError
from include.workloads.evaluation.judge import ATTEMPTS, Judge

ROW = GoldenPrompt("r", ({"role": "user", "content": "Why?"},), Matcher.JUDGE, "is polite")


class Server(http.server.ThreadingHTTPServer):
    replies: list[tuple[int, bytes]]
    seen: list[tuple[str, str | None, dict[str, Any]]]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        status, content = self.server.replies.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.replies, made.seen = [], []
    monkeypatch.setenv("INSECURE_REGISTRIES", f"127.0.0.1:{made.server_port}")
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def judge(server: Server) -> Judge:
    return Judge(f"http://127.0.0.1:{server.server_port}/v1/", "big", "secret-key", sleep=lambda _: None)


def said(text: str) -> tuple[int, bytes]:
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@pytest.mark.parametrize(
    ("text", "score"), [("8", 0.8), ("Score: 10/10", 1.0), ("0", 0.0), ("7.5", 0.75), ("<b>9</b>", 0.9)]
)
def test_the_first_number_is_the_score(server: Server, text: str, score: float) -> None:
    server.replies = [said(text)]
    assert judge(server).score(ROW, "Because.") == (score, "")
    path, authorization, body = server.seen[0]
    assert (path, authorization) == ("/v1/chat/completions", "Bearer secret-key")
    assert (body["model"], body["temperature"]) == ("big", 0)
    assert json.loads(body["messages"][1]["content"])["answer"] == "Because."


def test_no_number_is_no_score(server: Server) -> None:
    server.replies = [said("I cannot say")]
    score, why = judge(server).score(ROW, "x")
    assert score == 0
    assert "gave no number" in why


def test_a_judge_that_is_busy_is_asked_again_and_one_that_is_away_is_not_the_users_fault(
    server: Server,
) -> None:
    server.replies = [(503, b""), (429, b""), said("5")]
    assert judge(server).score(ROW, "x")[0] == 0.5
    server.replies = [(503, b"")] * ATTEMPTS
    with pytest.raises(TryAgain, match="503"):
        judge(server).score(ROW, "x")


@pytest.mark.parametrize("reply", [(401, b"secret-key"), (200, b"{}"), (200, b"no json")])
def test_a_judge_that_refuses_is_a_fault_of_the_policy(server: Server, reply: tuple[int, bytes]) -> None:
    server.replies = [reply]
    with pytest.raises(UserConfigError) as refused:
        judge(server).score(ROW, "x")
    assert "secret-key" not in str(refused.value)


def test_a_judge_inside_the_network_is_not_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSECURE_REGISTRIES")
    with pytest.raises(UserConfigError):
        judge(server).score(ROW, "x")
    assert server.seen == []
