"""`chat` and `logs`: what they ask of a cluster, what they print, and how they end; and what completion offers."""

from __future__ import annotations

import http.server
import io
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from include.cli import chat, logs
from include.cli.arguments import DELEGATED
from include.cli.cluster import Cluster
from include.cli.completing import candidates
from include.ledger.sources import SourceError
from include.workspace.status.conditions import Phase
from tests.support.fleet import TRAINING, reached

ROOT = Path(__file__).parents[3]
SERVED = reached(*TRAINING, (Phase.INFERENCE_READY, "Ready."), (Phase.SUCCEEDED, "It answers."))
KEY = "a-key-of-the-service"


def event(text: str) -> str:
    return "data: " + json.dumps({"choices": [{"delta": {"content": text}}]})


class FakeCluster:
    """A cluster with one Workspace, whose service answers each question with the next of `answers`."""

    def __init__(
        self, live: dict[str, Any], *answers: list[str], pods: Mapping[str, str] | None = None
    ) -> None:
        self.live, self.answers = live, list(answers)
        self.models: list[dict[str, str]] = [{"id": "base"}, {"id": "phi"}]
        self.asked: list[dict[str, Any]] = []
        self._pods = pods or {}

    def __call__(self, context: str | None) -> FakeCluster:
        return self

    def workspace(self, namespace: str, name: str) -> dict[str, Any]:
        return self.live

    def service_key(self, live: Mapping[str, Any]) -> str:
        return KEY

    def ask_service(self, live: Any, path: str, body: Any, key: str, seconds: float) -> Iterator[str]:
        assert key == KEY
        if path == "v1/models":
            return iter([json.dumps({"data": self.models})])
        self.asked.append(body)
        return iter(self.answers.pop(0))

    def pods(self, namespace: str, name: str) -> list[dict[str, Any]]:
        made = [(pod, {"kaito.sh/component": step}) for pod, step in self._pods.items()]
        containers = {
            "containers": [{"name": "main"}, {"name": "follow"}],
            "initContainers": [{"name": "init"}],
        }
        return [{"metadata": {"name": pod, "labels": labels}, "spec": containers} for pod, labels in made]

    def log(self, namespace: str, pod: str, container: str, **options: Any) -> Iterator[str]:
        return iter([f"log of {pod} {container}", "GET https://data.example/x?sig=SECRET"])


def ask(cluster: FakeCluster, *words: str, lines: tuple[str, ...] = ()) -> tuple[int, str]:
    out, rest = io.StringIO(), iter(lines)
    return chat.main(["phi", *words], out, cluster, lambda prompt: next(rest, "")), out.getvalue()


def test_one_question_goes_to_the_adapter_and_its_answer_is_streamed() -> None:
    cluster = FakeCluster(SERVED, [": ping", event("A "), "", event("finalizer."), "data: [DONE]"])
    assert ask(cluster, "What", "is it?", "--system", "Be short.") == (0, "A finalizer.\n")
    (body,) = cluster.asked
    assert body["model"] == "phi"
    assert body["stream"]
    assert [one["content"] for one in body["messages"]] == ["Be short.", "What is it?"]


def test_a_conversation_remembers_and_an_empty_line_ends_it() -> None:
    cluster = FakeCluster(SERVED, [event("Paris.")], [event("2 million.")])
    code, text = ask(cluster, "--model", "base", lines=("Capital of France?", "How many people?", ""))
    assert (code, text) == (0, "Paris.\n2 million.\n")
    said = [(one["role"], one["content"]) for one in cluster.asked[-1]["messages"]]
    assert said == [("user", "Capital of France?"), ("assistant", "Paris."), ("user", "How many people?")]


def test_a_service_that_is_not_ready_or_lacks_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(FakeCluster(reached(*TRAINING)), "Hello?")[0] == 1
    assert "no service that is ready" in capsys.readouterr().err
    assert ask(FakeCluster(SERVED), "Hello?", "--model", "phii")[0] == 1
    assert "no model phii; it has: base, phi" in capsys.readouterr().err


def test_a_model_that_embeds_has_no_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = FakeCluster(SERVED)
    cluster.models = [{"id": "phi", "task": "embed"}]
    assert ask(cluster, "Hello?")[0] == 1
    assert "phi embeds texts and writes none: ask it at POST /v1/embeddings" in capsys.readouterr().err
    assert cluster.asked == []


@pytest.mark.parametrize(
    "line", ['data: {"error": {"message": "out of memory"}}', "data: <html>", "data: [1]"]
)
def test_a_failure_in_the_middle_of_a_stream_is_a_sentence(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(FakeCluster(SERVED, [event("A "), line]), "Hello?")[0] == 2
    said = capsys.readouterr().err
    assert "out of memory" in said or "not as the OpenAI API does" in said
    assert "Traceback" not in said


PODS = {"phi-g1-tuning-a": "tuning", "phi-0": "serving"}


@pytest.mark.parametrize(
    ("words", "pod"),
    [
        ((), "phi-0 main"),
        (("--step", "tuning"), "phi-g1-tuning-a main"),
        (("-c", "follow"), "phi-0 follow"),
        (("-c", "init"), "phi-0 init"),
    ],
)
def test_the_log_of_the_newest_pod_or_of_a_step_without_secrets(words: tuple[str, ...], pod: str) -> None:
    out = io.StringIO()
    assert logs.main(["phi", *words], out, FakeCluster(SERVED, pods=PODS)) == 0
    assert f"log of {pod}" in out.getvalue()
    assert "SECRET" not in out.getvalue()


@pytest.mark.parametrize(
    ("pods", "sentence"),
    [(PODS, "no pod of step dataset now; it has of: serving, tuning"), ({}, "has no pod now.")],
)
def test_a_log_that_is_not_there(
    pods: Mapping[str, str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert logs.main(["phi", "-s", "dataset"], io.StringIO(), FakeCluster(SERVED, pods=pods)) == 1
    assert sentence in capsys.readouterr().err


def test_where_the_log_of_a_step_is_whose_pod_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    run = {"id": "team.phi.uid-phi0.g1", "dag": "kaito_tune"}
    live = {**SERVED, "status": {**SERVED["status"], "run": run}}
    assert logs.main(["phi", "-s", "dataset"], io.StringIO(), FakeCluster(live, pods=PODS)) == 1
    assert "Airflow has the logs of its run team.phi.uid-phi0.g1 of kaito_tune." in capsys.readouterr().err


def test_a_container_that_is_not_there_is_answered_with_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The API server refuses a log of a pod with two containers that names none of them."""
    assert logs.main(["phi", "-c", "x"], io.StringIO(), FakeCluster(SERVED, pods=PODS)) == 1
    assert "no container x; it has: main, follow, init." in capsys.readouterr().err


class Api(http.server.BaseHTTPRequestHandler):
    """An API server that proxies to a service: it wants the key in X-Api-Key, and refuses one path."""

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(length))
        key, allowed = self.headers.get("X-Api-Key"), "services/phi:80/proxy/" in self.path
        said = (
            {"key": key, "path": self.path, "model": body["model"]} if allowed else {"message": "not yours"}
        )
        answer = json.dumps(said).encode() + b"\nlast"
        self.send_response(200 if allowed else 403)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        """Answer a log with what was asked for, as the API server refuses one that names no container of several."""
        path, _, query = self.path.partition("?")
        asked = dict(parse_qsl(query))
        answer = (
            f"{path} {asked['container']} {asked['tailLines']}\n".encode() if "container" in asked else b"{}"
        )
        self.send_response(200 if "container" in asked else 400)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config")
    )
    yield
    server.shutdown()
    server.server_close()


def test_the_service_is_asked_through_the_api_servers_proxy(kubeconfig: None) -> None:
    live = {"metadata": {"name": "phi", "namespace": "team"}}
    first, last = Cluster().ask_service(live, "v1/chat/completions", {"model": "phi"}, KEY, 5)
    assert json.loads(first) == {
        "key": KEY,
        "path": "/api/v1/namespaces/team/services/phi:80/proxy/v1/chat/completions",
        "model": "phi",
    }
    assert last == "last"
    with pytest.raises(
        SourceError, match=r"refused \(service other in namespace team\): 403 .*not yours|403"
    ):
        list(
            Cluster().ask_service(
                {"metadata": {"name": "other", "namespace": "team"}}, "x", {"model": ""}, None, 5
            )
        )


def test_a_log_is_asked_of_a_container(kubeconfig: None) -> None:
    lines = Cluster().log("team", "phi-0", "serving", lines=7, follow=False, previous=False)
    assert list(lines) == ["/api/v1/namespaces/team/pods/phi-0/log serving 7"]


def test_completion_offers_verbs_options_choices_and_workspaces() -> None:
    def workspaces(namespace: str | None) -> list[dict[str, Any]]:
        all_of_them = [("default", "a"), ("default", "ab"), ("team", "phi")]
        return [
            {"metadata": {"namespace": space, "name": name}}
            for space, name in all_of_them
            if namespace in (None, space)
        ]

    assert candidates(["sta"], workspaces) == ["status", ":4"]
    assert set(DELEGATED) < set(candidates([""], workspaces))
    assert candidates(["check", "--form"], workspaces) == ["--format", ":4"]
    assert candidates(["check", "--format", "g"], workspaces) == ["github", ":4"]
    assert candidates(["check", ""], workspaces) == [":0"]
    assert candidates(["logs", "a"], workspaces) == ["a", "ab", ":4"]
    assert candidates(["chat", "--namespace", "team", ""], workspaces) == ["phi", ":4"]
    assert candidates(["status", "--watch", "-n", ""], workspaces) == ["default", "team", ":4"]
    assert candidates(["status", "phi", ""], workspaces) == [":4"]
    assert candidates(["nonsense", ""], workspaces) == [":4"]


@pytest.mark.parametrize("verb", [*DELEGATED, "check"])
def test_every_verb_completes_its_options_and_says_how_it_was_called(verb: str) -> None:
    assert "--help" in candidates([verb, "--"])
    environment = {**os.environ, "KUBECONFIG": "/nonexistent"}
    shown = subprocess.run(
        [ROOT / "bin" / "kubectl-kaito", verb, "--help"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert f"usage: kubectl kaito {verb}" in shown.stdout
    assert "python -m" not in shown.stdout
