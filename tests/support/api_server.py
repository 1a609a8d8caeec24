"""The sandbox's API server on a free port, and a real kubectl that talks to it.

There is no node agent here: the tests play it, through `Cluster`, so that each sees exactly the states it is about.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest_asyncio

from sandbox.api.cluster import Cluster
from sandbox.api.http import certificates, server
from sandbox.faults import Faults

_BESIDE_PYTHON = Path(sys.executable).with_name("kubectl")
KUBECTL = str(_BESIDE_PYTHON) if _BESIDE_PYTHON.exists() else shutil.which("kubectl") or "kubectl"
TOKEN = "not-a-secret"
NOW = "2026-11-23T13:00:00Z"


POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: main
    image: busybox:1.36
    command: [sleep, "60"]
    ports: [{containerPort: 8080}]
    resources: {requests: {cpu: 0.5, memory: 1024Mi}}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: workspace-tuning-phi-3}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 5000}, {name: torch, port: 29500}]
"""


@dataclass
class Result:
    code: int
    out: str
    err: str


@dataclass
class ApiServer:
    """Any API server, asked by kubectl."""

    kubeconfig: Path
    folder: Path

    def _command(self, *arguments: str) -> list[str]:
        cache = str(self.folder / "cache")
        return [KUBECTL, "--kubeconfig", str(self.kubeconfig), "--cache-dir", cache, *arguments]

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *self._command(*arguments), stdin=pipe, stdout=pipe, stderr=pipe
        )

    async def kubectl(self, *arguments: str, stdin: str = "", fails: bool = False) -> Result:
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 120)
        result = Result(process.returncode or 0, out.decode(), err.decode())
        assert (result.code != 0) is fails, f"kubectl {' '.join(arguments)}: {result}"
        return result

    async def json(self, *arguments: str) -> Any:
        return json.loads((await self.kubectl(*arguments, "-o", "json")).out)


@dataclass
class Sandbox(ApiServer):
    """The sandbox's, in this process: tests reach behind the API."""

    cluster: Cluster
    url: str
    ca: Path
    faults: Faults

    async def run_pod(
        self, name: str, *, ip: str = "127.0.0.1", logs: str = "", ends: bool = False
    ) -> dict[str, Any]:
        """What a scheduler and a node agent would do for a one-container pod."""
        pod = await self.cluster.get("pods", name, "default")
        if not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": "node-0"}
            binding = {"metadata": {"name": name, "namespace": "default"}, "target": target}
            await self.cluster.create("pods/binding", binding, "default")
        pod = await self.cluster.get("pods", name, "default")
        container = pod["spec"]["containers"][0]["name"]
        folder = self.folder / "logs" / pod["metadata"]["uid"] / container
        folder.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        with (folder / "0.log").open("a") as file:
            file.writelines(f"{stamp} stdout F {line}\n" for line in logs.splitlines())
        running, ended = (
            {"running": {"startedAt": NOW}},
            {"terminated": {"exitCode": 0, "reason": "Completed"}},
        )
        status = {
            **pod["status"],
            "phase": "Succeeded" if ends else "Running",
            "podIP": ip,
            "conditions": [
                {"type": kind, "status": "False" if ends else "True", "lastTransitionTime": NOW}
                for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
            "containerStatuses": [
                {
                    "name": container,
                    "ready": not ends,
                    "started": not ends,
                    "restartCount": 0,
                    "image": "busybox",
                    "imageID": "",
                    "state": ended if ends else running,
                }
            ],
        }
        return await self.cluster.update("pods", {**pod, "status": status}, "status")


@pytest_asyncio.fixture(name="sandbox")
async def served_sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    cluster, faults = Cluster(tmp_path), Faults()
    tls = certificates.ensure(tmp_path / "pki")
    runner = await server.serve(cluster, "127.0.0.1", 0, tls, {TOKEN: "admin"}, tmp_path / "logs", faults)
    url = f"https://127.0.0.1:{server.bound_port(runner)}"
    certificates.write_kubeconfig(tmp_path / "kubeconfig", url, tls.ca, TOKEN)
    yield Sandbox(tmp_path / "kubeconfig", tmp_path, cluster, url, tls.ca, faults)
    await runner.cleanup()
    cluster.close()


async def answer_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A web server that says hello once, for whatever forwards connections."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n")
    await writer.drain()
    writer.close()
