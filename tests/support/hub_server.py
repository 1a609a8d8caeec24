"""A model hub of one thread: answers in the shapes of huggingface.co, and as hubs and mirrors misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "9e3f5a1c" * 5
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
}


def model_info(hf_id: str, **changes: Any) -> dict[str, Any]:
    """What `/api/models/ORG/MODEL/revision/REV?blobs=true` answers."""
    return {
        "_id": "66e6d31d3a4b9c6f5e1f0a11",
        "id": hf_id,
        "modelId": hf_id,
        "author": hf_id.split("/")[0],
        "sha": COMMIT,
        "private": False,
        "disabled": False,
        "gated": False,
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["transformers", "safetensors", "llama", "license:apache-2.0", "region:us"],
        "cardData": {"license": "apache-2.0"},
        "safetensors": {"parameters": {"BF16": 1235814400}, "total": 1235814400},
        "siblings": [
            {"rfilename": ".gitattributes", "size": 1519},
            {"rfilename": "README.md", "size": 40958},
            {"rfilename": "config.json", "size": 877},
            {
                "rfilename": "model-00001-of-00002.safetensors",
                "size": 2000000000,
                "lfs": {"sha256": "0" * 64},
            },
            {"rfilename": "model-00002-of-00002.safetensors", "size": 471645608, "lfs": {"sha256": "1" * 64}},
            {"rfilename": "original/consolidated.00.pth", "size": 2471677246},
            {"rfilename": "onnx/model.safetensors", "size": 99},
            {"rfilename": "consolidated.safetensors", "size": 77},
            {"rfilename": "tokenizer.json", "size": 9085657},
        ],
        **changes,
    }


@dataclass
class HubServer:
    """What it answers by path: (status, headers, body); what it was asked: (path with query, headers)."""

    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    endpoint: str = ""

    def answer(self, path: str, body: Any = b"", status: int = 200, **headers: str) -> None:
        """Answer this path; a body that is no bytes is sent as JSON, and `x_y` is the header x-y."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = (status, named, content)

    def model(self, hf_id: str, config: Any = None, **changes: Any) -> None:
        """Hold a model; its config comes as on the hub, by a redirect to the same host."""
        self.answer(f"/api/models/{hf_id}/revision/main", model_info(hf_id, **changes))
        self.answer(
            f"/{hf_id}/resolve/{COMMIT}/config.json",
            status=307,
            location=f"/api/resolve-cache/{hf_id}/c.json",
        )
        self.answer(f"/api/resolve-cache/{hf_id}/c.json", CONFIG if config is None else config)


@contextmanager
def running() -> Iterator[HubServer]:
    """A hub on a free port of this machine, until the end of the block."""
    hub = HubServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer; a HEAD is answered alike, without the body."""
            hub.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            unknown = (401, {"x-error-code": "RepoNotFound"}, b'{"error":"Invalid username or password."}')
            status, headers, body = hub.answers.get(urlsplit(self.path).path, unknown)
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
