"""One sandbox and one `airflow standalone` for all tests that drive real runs, and the words to drive them with."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from demo.airflow_api import TERMINAL_RUN_STATES, AirflowApi
from demo.cluster import Kubectl
from demo.processes import DemoError
from demo.stack import Sandbox
from include.workspace.api import names
from sandbox.cloud.ledger import Ledger, Rental
from tests.support.dataset_server import folder_server
from tests.support.quick_start import QUICK_START

SECRET = "push"
PRESET = "phi-3-mini-128k-instruct"
RUN_SECONDS = 420
T = TypeVar("T")


def write_sums(folder: Path, rows: int) -> None:
    """A dataset of so many rows, in one piece, since somebody may be reading."""
    said = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} plus {n}?"},
                {"role": "assistant", "content": f"It is {n + n}."},
            ]
        }
        for n in range(rows)
    ]
    pq.write_table(pa.Table.from_pylist(said), folder / "next.parquet")
    (folder / "next.parquet").replace(folder / "train.parquet")


@contextmanager
def dataset_server(folder: Path) -> Iterator[str]:
    """Serve a small Parquet file as a hub would; yields its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    write_sums(folder, 24)
    (folder / "empty.jsonl").write_text("")
    with folder_server(folder) as url:
        yield f"{url}/train.parquet"


@dataclass
class Stack:
    """What a test drives: the cluster with kubectl, Airflow through its REST API."""

    sandbox: Sandbox
    api: AirflowApi
    dataset_url: str

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(self.sandbox.kubeconfig)

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get ... -o json` says; None when there is no such object."""
        try:
            return json.loads(self.kubectl("get", *arguments, "-o", "json"))
        except DemoError as error:
            if "not found" in str(error):
                return None
            raise

    def apply_push_secret(self, *more: str) -> None:
        """Apply the login of the sandbox's registry; ``more`` addresses of it have the same login."""
        login = f"{self.sandbox.registry_user}:{self.sandbox.registry_password}"
        auth = base64.b64encode(login.encode()).decode()
        known = {address: {"auth": auth} for address in (self.sandbox.registry, *more)}
        self.kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": SECRET},
                "type": "kubernetes.io/dockerconfigjson",
                "stringData": {".dockerconfigjson": json.dumps({"auths": known})},
            }
        )

    def quick_start(self, name: str = "workspace-tuning-phi-3") -> dict[str, Any]:
        """Return the quick start's Workspace with this machine's dataset, registry and secret."""
        document: dict[str, Any] = yaml.safe_load(QUICK_START)
        document["metadata"]["name"] = name
        document["tuning"]["input"]["urls"] = [self.dataset_url]
        document["tuning"]["output"] = {
            "image": f"{self.sandbox.registry}/{name}:0.0.1",
            "imagePushSecret": SECRET,
        }
        return document

    def service(
        self, name: str, *, machine: str = "Standard_NC6s_v3", adapter: str = "", config: str = ""
    ) -> dict[str, Any]:
        """Return an inference Workspace.

        :param adapter: image of an adapter to serve.
        :param config: the ConfigMap that it names.
        """
        inference: dict[str, Any] = {"preset": {"name": PRESET}, **({"config": config} if config else {})}
        if adapter:
            source = {"name": "adapter", "image": adapter, "imagePullSecrets": [SECRET]}
            inference["adapters"] = [{"source": source}]
        return {
            "apiVersion": "kaito.sh/v1alpha1",
            "kind": "Workspace",
            "metadata": {"name": name},
            "resource": {"instanceType": machine, "labelSelector": {"matchLabels": {"app": name}}},
            "inference": inference,
        }

    def run_id(self, name: str) -> str:
        metadata = self.get("workspace", name)["metadata"]
        return f"default.{name}.{metadata['uid'][:8]}.g{metadata['generation']}"

    def start(self, name: str, dag: str = "kaito_tune") -> str:
        """Start the run of a Workspace that is in the cluster; returns the run's id."""
        run_id = self.run_id(name)
        self.api.trigger(dag, run_id, {"workspace": {"metadata": {"name": name, "namespace": "default"}}})
        return run_id

    def states(self, run_id: str, dag: str = "kaito_tune") -> dict[str, str | None]:
        return {task["task_id"]: task["state"] for task in self.api.tasks(dag, run_id)}

    def follow(self, run_id: str, dag: str = "kaito_tune") -> str:
        """Wait until a run has ended and return its state."""
        return wait(lambda: _ended(self.api.run(dag, run_id)), RUN_SECONDS, f"the end of {run_id}")

    def log(self, run_id: str, task_id: str, dag: str = "kaito_tune") -> str:
        task = next(task for task in self.api.tasks(dag, run_id) if task["task_id"] == task_id)
        return "\n".join(self.api.log_tail(dag, run_id, task, lines=400))

    def condition(self, name: str, type_: str) -> dict[str, Any]:
        status = self.get("workspace", name).get("status") or {}
        return next((c for c in status.get("conditions") or [] if c["type"] == type_), {})

    def claims_of(self, name: str) -> list[str]:
        """Return the names of a Workspace's NodeClaims."""
        return self.kubectl("get", "nodeclaims", "-l", f"kaito.sh/workspace={name}", "-o", "name").split()

    def pods_of(self, name: str) -> list[str]:
        return self.kubectl("get", "pods", "-l", f"kaito.sh/workspace={name}", "-o", "name").split()

    def rentals(self, name: str) -> list[Rental]:
        """What the cloud charges for a Workspace's machines, the oldest first."""
        billed = Ledger(self.sandbox.state_dir / "ledger.jsonl").rentals()
        mine = [one for one in billed if one.labels.get(names.WORKSPACE) == name]
        return sorted(mine, key=lambda one: one.started)

    def registry_digest(self, repository: str, tag: str) -> str:
        """Return an image's digest as the registry itself reports it."""
        return str(self._manifest("HEAD", repository, tag).headers["Docker-Content-Digest"])

    def another_version(self, repository: str, tag: str, new_tag: str) -> str:
        """Give an image's content another digest, by an annotation, and a tag of its own; returns the digest."""
        manifest = self._manifest("GET", repository, tag).json()
        manifest["annotations"] = {**(manifest.get("annotations") or {}), "version": new_tag}
        made = self._manifest("PUT", repository, new_tag, json.dumps(manifest).encode())
        return str(made.headers["Docker-Content-Digest"])

    def _manifest(
        self, method: str, repository: str, tag: str, content: bytes | None = None
    ) -> httpx.Response:
        kind = "application/vnd.oci.image.manifest.v1+json"
        reply = httpx.request(
            method,
            f"http://{self.sandbox.registry}/v2/{repository}/manifests/{tag}",
            headers={"Accept": kind, **({"Content-Type": kind} if content else {})},
            content=content,
            auth=(self.sandbox.registry_user, self.sandbox.registry_password),
            trust_env=False,
        )
        return reply.raise_for_status()


def _ended(run: dict[str, Any]) -> str | None:
    return str(run["state"]) if run["state"] in TERMINAL_RUN_STATES else None


def wait(look: Callable[[], T | None], seconds: float, what: str) -> T:
    """Look until there is something to see.

    :raises TimeoutError: nothing came within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if seen := look():
            return seen
        time.sleep(0.3)
    raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
