"""A cluster that looks after its Workspaces: sandbox, Airflow with the reconciler on, and words to drive it."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import psutil

from demo.airflow_api import AirflowApi
from demo.processes import PROJECT_ROOT, DemoError
from demo.stack import start_sandbox, stop_sandbox
from include.workloads.tuning.standin import make_standin
from sandbox.control import FAULTS, Control
from tests.support.airflow_parts import AirflowParts
from tests.support.airflow_run import PRESET, Stack, dataset_server, wait
from tests.support.doors import Door, door

DAGS = {"kaito_tune", "kaito_serve", "kaito_release", "kaito_reconcile"}
LOOPS = {"kaito_reconcile", "kaito_janitor"}
FINALIZER = "workspace.finalizer.kaito.sh"
#: Everything namespaced that a Workspace may own.
CHILDREN = ("pods", "statefulsets", "services", "persistentvolumeclaims", "configmaps", "controllerrevisions")
T = TypeVar("T")

LONG = """\
training_config:
  QuantizationConfig: {load_in_4bit: true, bnb_4bit_quant_type: nf4}
  LoraConfig: {r: 4, lora_alpha: 8}
  TrainingArguments: {max_steps: STEPS, per_device_train_batch_size: 1, save_strategy: steps, save_steps: 50}
"""
#: A provider of machines that this installation adds.
ADDED_PROVIDER = "labelled-nodes=examples.pool_providers.labelled_nodes:LabelledNodes"


@dataclass
class ReconciledStack(Stack):
    """`Stack`, with a reconciler in Airflow and its processes in reach."""

    airflow: AirflowParts = field(kw_only=True)
    #: Address of something that takes connections and never answers.
    hanging: str = field(kw_only=True)
    #: The dataset's server and the registry, behind doors that are shut at first.
    data_door: Door = field(kw_only=True)
    registry_door: Door = field(kw_only=True)

    def fault(self, kind: str, **what: Any) -> None:
        """Break something of the sandbox (`sandbox/faults.py`)."""
        Control(self.sandbox.kubeconfig).call("POST", FAULTS, {"kind": kind, **what})

    def heal(self, kind: str | None = None) -> None:
        """End all faults, or those of one kind."""
        Control(self.sandbox.kubeconfig).call("DELETE", FAULTS, kind=kind)

    # what a user applies

    def tuning(
        self, name: str, *, steps: int = 6, roll_out: bool = False, machine: str = "Standard_NC6s_v3"
    ) -> dict[str, Any]:
        """Apply a tuning Workspace of so many steps and return it as it was written."""
        document = self.quick_start(name)
        document["metadata"]["annotations"] = {"kaito.sh/rollout": "true" if roll_out else "false"}
        document["resource"] |= {"instanceType": machine, "labelSelector": {"matchLabels": {"app": name}}}
        document["tuning"]["config"] = f"{name}-config"
        config = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{name}-config"},
            "data": {"training_config.yaml": LONG.replace("STEPS", str(steps))},
        }
        self.kubectl.apply(config)
        return document

    # what is there

    def children(self, name: str) -> list[str]:
        """Return everything in the cluster that belongs to a Workspace, `<kind>/<name>`."""
        selector = f"kaito.sh/workspace={name}"
        found = self.kubectl("get", ",".join(CHILDREN), "-l", selector, "-o", "name", "--ignore-not-found")
        machines = self.kubectl("get", "nodeclaims,nodes", "-l", selector, "-o", "name", "--ignore-not-found")
        return [*found.split(), *machines.split()]

    def pods(self, name: str, component: str) -> list[dict[str, Any]]:
        labels = f"kaito.sh/workspace={name},kaito.sh/component={component}"
        found: list[dict[str, Any]] = self.get("pods", "-l", labels)["items"]
        return found

    def running_pod(self, name: str, component: str, seconds: float = 240) -> dict[str, Any]:
        """Wait for a component's pod to run."""

        def look() -> dict[str, Any] | None:
            failed = self.condition(name, "WorkspaceSucceeded")
            if failed.get("reason") == "workspaceFailed":
                raise AssertionError(failed["message"])
            return next((p for p in self.pods(name, component) if p["status"]["phase"] == "Running"), None)

        return wait(look, seconds, f"the {component} pod of {name}")

    def reaches(self, name: str, type_: str, status: str = "True", seconds: float = 240) -> dict[str, Any]:
        """Wait until a condition says so; a failure of the Workspace ends the wait."""

        def look() -> dict[str, Any] | None:
            failed = self.condition(name, "WorkspaceSucceeded")
            if failed.get("reason") == "workspaceFailed" and type_ != "WorkspaceSucceeded":
                raise AssertionError(failed["message"])
            found = self.condition(name, type_)
            return found if found.get("status") == status else None

        return wait(look, seconds, f"{type_}={status} of {name}")

    def gone(self, name: str, seconds: float = 90) -> None:
        """Wait until a Workspace and everything of it is gone."""
        wait(lambda: self.get("workspace", name) is None, seconds, f"the end of Workspace {name}")
        wait(lambda: not self.children(name), 30, f"the end of what {name} owned")

    def in_flight(self) -> list[tuple[str, str]]:
        """Return (DAG, run id) of the runs that are not over, those of the control loops aside."""
        query = {"state": ["queued", "running"], "limit": 100}
        reply = patiently(lambda: self.api._http.get("/api/v2/dags/~/dagRuns", params=query))
        runs = reply.raise_for_status().json()["dag_runs"]
        return [(r["dag_id"], r["dag_run_id"]) for r in runs if r["dag_id"] not in LOOPS]

    def run_states(self) -> dict[str, str]:
        """Return the state of the newest runs by id, those of the control loops aside."""
        found = {}
        for dag in sorted(DAGS - LOOPS):
            query: dict[str, str | int] = {"limit": 50, "order_by": "-run_after"}
            path = f"/api/v2/dags/{dag}/dagRuns"
            reply = patiently(lambda path=path, query=query: self.api._http.get(path, params=query))
            found |= {run["dag_run_id"]: run["state"] for run in reply.raise_for_status().json()["dag_runs"]}
        return found

    def events(self, name: str) -> list[tuple[str, str, str]]:
        """Return (type, reason, message) of the Events about a Workspace, oldest first."""
        found = self.get("events", "--field-selector", f"involvedObject.name={name}")["items"]
        found = [e for e in found if e["involvedObject"]["kind"] == "Workspace"]
        found.sort(key=lambda e: e["firstTimestamp"] or "")
        return [(e["type"], e["reason"], e["message"]) for e in found]

    def kill_sandbox(self) -> None:
        """`kill -9` the cluster: its API server and all that runs on it."""
        process = psutil.Process(int(json.loads((self.sandbox.state_dir / "sandbox.pid").read_text())["pid"]))
        process.kill()
        process.wait(20)

    def start_sandbox(self) -> None:
        """Start a cluster that was killed again, with its state."""
        start_sandbox(self.sandbox.state_dir)

    def kubectl_in_background(self, *arguments: str) -> subprocess.Popen[str]:
        """Start kubectl and return its process, output piped; the caller ends it."""
        from demo.cluster import KUBECTL

        environment = {"KUBECONFIG": str(self.sandbox.kubeconfig), "NO_PROXY": "127.0.0.1", "HOME": "/tmp"}
        return subprocess.Popen(
            [str(KUBECTL), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def patiently(ask: Callable[[], T], seconds: float = 60) -> T:
    """Ask again while a server that was killed is on its way back."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except (httpx.HTTPError, DemoError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@contextmanager
def hanging_server() -> Iterator[str]:
    """Something that takes connections and never answers: a dataset or a registry that a step waits for."""
    server = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def hold() -> None:
        with suppress(OSError):
            while True:
                held.append(server.accept()[0])

    threading.Thread(target=hold, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        for connection in (server, *held):
            connection.close()


@contextmanager
def reconciled_stack(folder: Path, **more: str) -> Iterator[ReconciledStack]:
    """Start everything below ``folder`` and stop it at the end; ``more``: further environment of Airflow's parts."""
    state, weights = folder / "state", folder / "weights"
    weights.mkdir(parents=True)
    make_standin(weights / PRESET)
    folder.chmod(0o755)
    weights.chmod(0o755)
    sandbox = start_sandbox(state)
    with ExitStack() as held:
        held.callback(stop_sandbox, state)
        registry_door = held.enter_context(door(sandbox.registry))
        settings = {
            "AIRFLOW__KAITO__INSECURE_REGISTRIES": f"{sandbox.registry},{registry_door.address}",
            "AIRFLOW__KAITO__POOL_PROVIDERS": ADDED_PROVIDER,
            **more,
        }
        airflow = AirflowParts(folder / "airflow", sandbox, weights, settings)
        held.callback(airflow.stop)
        airflow.migrate()
        airflow.start()
        server = airflow.wait(DAGS)
        url = held.enter_context(dataset_server(folder / "data"))
        found = ReconciledStack(
            sandbox,
            held.enter_context(AirflowApi(server)),
            url,
            airflow=airflow,
            hanging=held.enter_context(hanging_server()),
            data_door=held.enter_context(door(urlsplit(url).netloc)),
            registry_door=registry_door,
        )
        found.kubectl("apply", "-f", str(PROJECT_ROOT / "presets" / "crds"))
        found.kubectl("wait", "--for=condition=Established", "crd/workspaces.kaito.sh", "--timeout=20s")
        found.apply_push_secret(registry_door.address)
        unpause(found)
        yield found


def unpause(stack: ReconciledStack) -> None:
    """Switch the reconciler on."""
    reply = stack.api._http.patch("/api/v2/dags/kaito_reconcile", json={"is_paused": False})
    reply.raise_for_status()


__all__ = ["DAGS", "ReconciledStack", "hanging_server", "patiently", "reconciled_stack", "unpause"]
