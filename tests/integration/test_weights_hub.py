"""Weights from a hub: a stand-in on loopback that speaks the part of the hub's protocol the client uses."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from safetensors.numpy import save

pytestmark = pytest.mark.integration

PROJECT_ROOT = Path(__file__).resolve().parents[2]
COMMIT = "c" * 40
MODEL = "team/tiny"
TOKEN = "hf_CANARYtokenCANARYtoken"
FILES = {
    "config.json": json.dumps({"model_type": "llama", "auto_map": {"AutoModel": "evil.Model"}}).encode(),
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["evil.T", null]}, "model_max_length": 5}',
    "model.safetensors": save({"w": np.zeros(1000, dtype=np.float32)}),
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"raise SystemExit(99)",
    "original/consolidated.safetensors": b"other",
    "consolidated.safetensors": b"other",
    "README.md": b"hello",
}


@dataclass
class Hub:
    """What the stand-in holds, how it answers and what it was asked."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    refuse: tuple[int, str] | None = None
    token: str | None = None
    cut: str = ""
    asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.refuse:
            status, code = self.hub.refuse
            self.reply(status, b"{}", X_Error_Code=code, X_Error_Message="refused")
        elif self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.reply(401, b"{}", X_Error_Code="GatedRepo", X_Error_Message="gated")
        elif path.startswith(f"/api/models/{MODEL}/revision/") or path == f"/api/models/{MODEL}":
            names = [{"rfilename": name} for name in self.hub.files]
            document = {"id": MODEL, "_id": "1", "sha": COMMIT, "siblings": names}
            self.reply(200, json.dumps(document).encode(), Content_Type="application/json")
        elif path.startswith(f"/api/models/{MODEL}/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.hub.files.items()
            ]
            self.reply(200, json.dumps(entries).encode(), Content_Type="application/json")
        elif path.startswith(f"/{MODEL}/resolve/"):
            self.resolve(path.split("/", 5)[5])
        else:
            self.reply(404, b"{}", X_Error_Code="RepoNotFound")

    def resolve(self, name: str) -> None:
        content = self.hub.files[name]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        start = 0
        if asked := self.headers.get("Range", "").removeprefix("bytes=").rstrip("-"):
            start = int(asked.partition("-")[0])
        if name == self.hub.cut and self.command == "GET":
            self.hub.cut = ""
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", etag)
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            self.wfile.write(content[:1000])
            self.wfile.flush()
            self.close_connection = True
            return
        span = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.reply(206 if start else 200, content[start:], ETag=etag, **span)

    do_GET = do_HEAD = answer

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": state}))
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path):
    def run(**env: str) -> tuple[int, dict, str]:
        log = tmp_path / f"log-{env.get('WEIGHTS_SHARED', '')}"
        done = subprocess.run(
            [sys.executable, "-m", "include.workloads.weights"],
            cwd=PROJECT_ROOT,
            env={
                **os.environ,
                "HOME": str(tmp_path),
                "HF_ENDPOINT": f"http://127.0.0.1:{hub.port}",
                "HF_HUB_DISABLE_XET": "1",
                "WEIGHTS_SOURCE": "hub",
                "MODEL_ID": MODEL,
                "MODEL_REVISION": COMMIT,
                "WEIGHTS_PATH": str(tmp_path / "weights"),
                "TERMINATION_LOG": str(log),
                **env,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        output = done.stdout + done.stderr
        assert "CANARY" not in output + log.read_text()
        return done.returncode, json.loads(log.read_text()), output

    return run


def test_only_harmless_files_are_fetched_once(hub: Hub, fetch, tmp_path: Path):
    code, result, output = fetch()
    assert code == 0, output
    weights = tmp_path / "weights"
    names = sorted(path.name for path in weights.iterdir())
    assert names == [
        ".weights.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (
        "auto_map"
        not in (weights / "config.json").read_text() + (weights / "tokenizer_config.json").read_text()
    )
    assert json.loads((weights / "tokenizer_config.json").read_text()) == {"model_max_length": 5}
    assert (weights / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert (result["downloaded"], result["files"]) == (True, 4)
    hub.asked.clear()
    code, result, _ = fetch()
    assert (code, result["downloaded"]) == (0, False)
    assert hub.asked == [], "a pinned revision that is here needs no hub"


def test_two_pods_that_start_at_once_share_one_download(hub: Hub, fetch, tmp_path: Path):
    folder = tmp_path / "cache" / "team--tiny" / COMMIT
    with ThreadPoolExecutor() as pods:
        ends = list(pods.map(lambda pod: fetch(WEIGHTS_PATH=str(folder), WEIGHTS_SHARED=pod), ("a", "b")))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == [COMMIT]
    whole = [one for one in hub.asked if one == f"GET /{MODEL}/resolve/{COMMIT}/model.safetensors"]
    assert len(whole) == 1, "the other one has waited for it"
    code, _, output = fetch(WEIGHTS_PATH=str(folder), WEIGHTS_SHARED="c", MODEL_REVISION="main")
    assert (code, "is for a commit" in output) == (64, True)


def test_a_download_that_breaks_off_ends_whole(hub: Hub, fetch, tmp_path: Path):
    hub.cut = "model.safetensors"
    code, _, output = fetch()
    if code == 75:  # the client may leave the rest to the next try
        code, _, output = fetch()
    assert code == 0, output
    assert (tmp_path / "weights/model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_gated_model_asks_for_the_token_by_its_names(hub: Hub, fetch):
    hub.token = TOKEN
    code, result, _ = fetch()
    assert (code, result["class"]) == (64, "config")
    assert "gated" in result["error"]
    assert "HF_TOKEN" in result["error"]
    assert "modelAccessSecret" in result["error"]
    assert "none was given" in result["error"]
    code, result, _ = fetch(HF_TOKEN="hf_CANARYwrong")
    assert code == 64
    assert "has no access" in result["error"]
    code, result, output = fetch(HF_TOKEN=TOKEN)
    assert code == 0, output


@pytest.mark.parametrize(
    ("refuse", "code", "words"),
    [
        ((404, "RepoNotFound"), 64, "has no model team/tiny"),
        ((401, ""), 64, "HF_TOKEN"),
        ((404, "RevisionNotFound"), 64, "no revision"),
    ],
)
def test_refusals_are_sentences(refuse, code, words, hub: Hub, fetch):
    hub.refuse = refuse
    found, result, _ = fetch()
    assert found == code
    assert words in result["error"]


def test_a_hub_that_is_away_is_to_be_tried_again(fetch):
    code, result, _ = fetch(HF_ENDPOINT="http://127.0.0.1:1")
    assert (code, result["class"]) == (75, "transient")


def test_weights_that_are_pickles_only_are_refused(hub: Hub, fetch):
    del hub.files["model.safetensors"]
    code, result, _ = fetch()
    assert code == 65
    assert "pickles" in result["error"]


def test_a_forged_file_is_refused(hub: Hub, fetch):
    hub.files["model.safetensors"] = FILES["model.safetensors"][:-1]
    code, result, _ = fetch()
    assert code == 65
    assert "cut short" in result["error"]
