"""The real kubectl and both official Python clients against the sandbox's API server.

There is no node agent here: the tests play it, through `Cluster`, so that each sees exactly the states it is about.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from include.sandbox.api import certificates, server
from include.sandbox.api.store import ApiError, Cluster
from include.sandbox.faults import Fault, FaultKind, Faults

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

_BESIDE_PYTHON = Path(sys.executable).with_name("kubectl")
KUBECTL = str(_BESIDE_PYTHON) if _BESIDE_PYTHON.exists() else shutil.which("kubectl") or "kubectl"
TOKEN = "not-a-secret"
NOW = "2026-11-23T13:00:00Z"


@dataclass
class Result:
    code: int
    out: str
    err: str


@dataclass
class Sandbox:
    cluster: Cluster
    kubeconfig: Path
    folder: Path
    url: str
    ca: Path
    faults: Faults

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
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 30)
        result = Result(process.returncode or 0, out.decode(), err.decode())
        assert (result.code != 0) is fails, f"kubectl {' '.join(arguments)}: {result}"
        return result

    async def json(self, *arguments: str) -> Any:
        return json.loads((await self.kubectl(*arguments, "-o", "json")).out)

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


@pytest_asyncio.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    cluster, faults = Cluster(tmp_path), Faults()
    tls = certificates.ensure(tmp_path / "pki")
    runner = await server.serve(cluster, "127.0.0.1", 0, tls, {TOKEN: "admin"}, tmp_path / "logs", faults)
    url = f"https://127.0.0.1:{server.bound_port(runner)}"
    certificates.write_kubeconfig(tmp_path / "kubeconfig", url, tls.ca, TOKEN)
    yield Sandbox(cluster, tmp_path / "kubeconfig", tmp_path, url, tls.ca, faults)
    await runner.cleanup()
    cluster.close()


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
DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: workspaces.kaito.sh}
spec:
  group: kaito.sh
  scope: Namespaced
  names: {plural: workspaces, kind: Workspace, shortNames: [wk], categories: [kaito]}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Instance, type: string, jsonPath: .resource.instanceType}
    - {name: WorkspaceReady, type: string, jsonPath: '.status.conditions[?(@.type=="WorkspaceReady")].status'}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        required: [resource]
        properties:
          resource:
            type: object
            required: [instanceType]
            properties:
              instanceType: {type: string}
              count: {type: integer, minimum: 1, default: 1}
          tuning:
            type: object
            properties:
              method: {type: string, enum: [lora, qlora]}
            x-kubernetes-validations:
            - {rule: "!has(oldSelf.method) || self.method == oldSelf.method", message: method is immutable}
          status:
            type: object
            x-kubernetes-preserve-unknown-fields: true
"""
WORKSPACE = """
apiVersion: kaito.sh/v1alpha1
kind: Workspace
metadata: {name: w1}
resource: {instanceType: Standard_NC6s_v3}
tuning: {method: qlora}
"""
STATEFUL_SET = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: busybox}]}
"""


async def test_create_get_and_print_columns(sandbox: Sandbox) -> None:
    assert (await sandbox.kubectl("create", "-f", "-", stdin=POD)).out == "pod/web created\n"
    pod = await sandbox.json("get", "pod", "web")
    assert pod["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}
    assert pod["status"] == {"phase": "Pending", "qosClass": "Burstable"}
    await sandbox.run_pod("web", ip="127.9.9.9")
    header, row = (await sandbox.kubectl("get", "pods", "-o", "wide")).out.splitlines()
    assert header.split() == [
        "NAME",
        "READY",
        "STATUS",
        "RESTARTS",
        "AGE",
        "IP",
        "NODE",
        "NOMINATED",
        "NODE",
        "READINESS",
        "GATES",
    ]
    assert row.split()[:4] == ["web", "1/1", "Running", "0"]
    assert row.split()[5:7] == ["127.9.9.9", "node-0"]


async def test_the_quick_starts_service_line(sandbox: Sandbox) -> None:
    await sandbox.kubectl("apply", "-f", "-", stdin=SERVICE)
    lines = (await sandbox.kubectl("get", "svc", "workspace-tuning-phi-3")).out.splitlines()
    assert lines[0].split() == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    name, kind, address, external, ports, _ = lines[1].split()
    assert (name, kind, external, ports) == (
        "workspace-tuning-phi-3",
        "ClusterIP",
        "<none>",
        "80/TCP,29500/TCP",
    )
    path = "jsonpath={.spec.clusterIPs[0]}"
    assert (await sandbox.kubectl("get", "svc", name, "-o", path)).out == address
    assert address.startswith("127.96.")


@pytest.mark.parametrize("server_side", [False, True])
async def test_apply_is_idempotent_and_removes_what_is_left_out(sandbox: Sandbox, server_side: bool) -> None:
    flags = ["--server-side"] if server_side else []
    first = POD.replace("labels: {app: web}", "labels: {app: web, extra: x}")
    await sandbox.kubectl("apply", *flags, "-f", "-", stdin=first)
    await sandbox.kubectl("label", "pod", "web", "mine=1")
    await sandbox.kubectl("apply", *flags, "-f", "-", stdin=POD)
    pod = await sandbox.json("get", "pod", "web")
    assert pod["metadata"]["labels"] == {"app": "web", "mine": "1"}
    await sandbox.kubectl("apply", *flags, "-f", "-", stdin=POD)
    assert (await sandbox.json("get", "pod", "web"))["metadata"]["resourceVersion"] == pod["metadata"][
        "resourceVersion"
    ]


async def test_server_side_conflict_and_force(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=STATEFUL_SET)
    other = STATEFUL_SET.replace("serviceName", "replicas: 3\n  serviceName")
    refused = await sandbox.kubectl("apply", "--server-side", "-f", "-", stdin=other, fails=True)
    assert 'conflict with "kubectl-create" using apps/v1: .spec.replicas' in refused.err
    await sandbox.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=other)
    assert (await sandbox.json("get", "sts", "web"))["spec"]["replicas"] == 3


async def test_custom_resources(sandbox: Sandbox) -> None:
    await sandbox.kubectl("apply", "-f", "-", stdin=DEFINITION)
    await sandbox.kubectl("wait", "--for=condition=Established", "crd/workspaces.kaito.sh", "--timeout=5s")
    await sandbox.kubectl("apply", "-f", "-", stdin=WORKSPACE)
    again = await sandbox.kubectl("apply", "-f", "-", stdin=WORKSPACE)
    assert again.out == "workspace.kaito.sh/w1 unchanged\n"
    workspace = await sandbox.json("get", "wk", "w1")
    assert workspace["resource"]["count"] == 1
    status = {
        "status": {"conditions": [{"type": "WorkspaceReady", "status": "True"}]},
        "resource": {"count": 9},
    }
    await sandbox.kubectl(
        "patch", "wk", "w1", "--subresource=status", "--type=merge", "-p", json.dumps(status)
    )
    header, row = (await sandbox.kubectl("get", "workspace", "w1")).out.splitlines()
    assert header.split() == ["NAME", "INSTANCE", "WORKSPACEREADY", "AGE"]
    assert row.split()[:3] == ["w1", "Standard_NC6s_v3", "True"]
    workspace = await sandbox.json("get", "wk", "w1")
    assert (workspace["metadata"]["generation"], workspace["resource"]["count"]) == (1, 1)
    listed = await sandbox.kubectl("get", "kaito")
    assert listed.out.splitlines()[1].startswith("w1")
    explained = await sandbox.kubectl("explain", "workspace.resource")
    assert "instanceType\t<string> -required-" in explained.out
    await sandbox.kubectl("delete", "crd", "workspaces.kaito.sh", "--timeout=5s")
    gone = await sandbox.kubectl("get", "workspaces", fails=True)
    assert "could not find the requested resource" in gone.err  # kubectl still has it in its discovery cache


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("qlora", "foo"), 'tuning.method: Unsupported value: "foo": supported values: "lora", "qlora"'),
        (("qlora", "lora"), "method is immutable"),
        (("instanceType:", "instancetype:"), 'unknown field "resource.instancetype"'),
        (
            ("Standard_NC6s_v3}", "x, count: 0}"),
            "resource.count in body should be greater than or equal to 1",
        ),
        (
            ("Standard_NC6s_v3}", "x, count: many}"),
            'resource.count in body must be of type integer: "string"',
        ),
    ],
)
async def test_custom_resources_are_validated(
    sandbox: Sandbox, change: tuple[str, str], message: str
) -> None:
    await sandbox.kubectl("apply", "-f", "-", stdin=DEFINITION)
    await sandbox.kubectl("apply", "-f", "-", stdin=WORKSPACE)
    refused = await sandbox.kubectl("apply", "-f", "-", stdin=WORKSPACE.replace(*change), fails=True)
    assert message in refused.err


async def test_unknown_fields_are_named(sandbox: Sandbox) -> None:
    wrong = POD.replace("image: busybox:1.36", "image: busybox:1.36\n    imagee: x")
    refused = await sandbox.kubectl("apply", "-f", "-", stdin=wrong, fails=True)
    assert 'strict decoding error: unknown field "spec.containers[0].imagee"' in refused.err
    warned = await sandbox.kubectl("apply", "--validate=warn", "-f", "-", stdin=wrong)
    assert 'Warning: unknown field "spec.containers[0].imagee"' in warned.err


async def test_logs_follow_until_the_container_ends(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    waiting = await sandbox.kubectl("logs", "web")
    assert waiting.out == ""
    await sandbox.run_pod("web", logs="one\ntwo\nthree")
    assert (await sandbox.kubectl("logs", "web", "--tail=2")).out == "two\nthree\n"
    stamped = await sandbox.kubectl("logs", "web", "--timestamps", "--tail=1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z three\n", stamped.out)
    assert (await sandbox.kubectl("logs", "web", "--since=1h")).out == "one\ntwo\nthree\n"
    assert (await sandbox.kubectl("logs", "web", "--since-time=2100-01-01T00:00:00Z")).out == ""
    process = await sandbox.start("logs", "-f", "web")
    assert process.stdout is not None
    assert [await process.stdout.readline() for _ in range(3)] == [b"one\n", b"two\n", b"three\n"]
    await sandbox.run_pod("web", logs="four", ends=True)
    rest, _ = await asyncio.wait_for(process.communicate(), 10)
    assert rest == b"four\n"
    previous = await sandbox.kubectl("logs", "web", "--previous", fails=True)
    assert 'previous terminated container "main" in pod "web" not found' in previous.err


async def test_graceful_deletion_waits_for_the_node(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    await sandbox.run_pod("web")
    process = await sandbox.start("delete", "pod", "web", "--grace-period=20")
    assert process.stdout is not None
    assert b'pod "web" deleted' in await process.stdout.readline()
    listed = await sandbox.kubectl("get", "pods")
    assert listed.out.splitlines()[1].split()[2] == "Terminating"
    pod = await sandbox.cluster.get("pods", "web", "default")
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 20
    assert process.returncode is None
    await sandbox.cluster.delete("pods", "web", "default", {"gracePeriodSeconds": 0})
    await asyncio.wait_for(process.wait(), 10)
    with pytest.raises(ApiError, match='pods "web" not found'):
        await sandbox.cluster.get("pods", "web", "default")


async def test_wait_and_watch_see_changes(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    watch = await sandbox.start("get", "pods", "-w", "--output-watch-events")
    waiting = await sandbox.start("wait", "--for=condition=Ready", "pod/web", "--timeout=20s")
    assert watch.stdout is not None
    lines = [await watch.stdout.readline() for _ in range(2)]
    assert lines[1].split()[:2] == [b"ADDED", b"web"]
    await sandbox.run_pod("web")
    out, _ = await asyncio.wait_for(waiting.communicate(), 10)
    assert out == b"pod/web condition met\n"
    states = [(await asyncio.wait_for(watch.stdout.readline(), 5)).split() for _ in range(2)]
    assert [state[0] for state in states] == [b"MODIFIED", b"MODIFIED"]
    assert states[1][3] == b"Running"
    watch.terminate()
    await watch.wait()


async def test_describe_shows_events(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    pod = await sandbox.run_pod("web")
    for _ in range(2):
        await sandbox.cluster.event(
            pod, "Warning", "BackOff", "Back-off restarting failed container", "kubelet"
        )
    described = (await sandbox.kubectl("describe", "pod", "web")).out
    assert "QoS Class:" in described
    assert "Warning  BackOff  " in described
    assert "(x2 over " in described
    events = (await sandbox.kubectl("get", "events")).out.splitlines()
    assert events[0].split() == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert "pod/web" in events[1]
    for kind in ("node", "namespace", "service", "secret"):
        await sandbox.kubectl("describe", kind)


async def test_scale_and_rollout_status(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=STATEFUL_SET)
    await sandbox.kubectl("scale", "statefulset/web", "--replicas=2")
    rollout = await sandbox.start("rollout", "status", "statefulset/web", "--timeout=20s")
    stateful_set = await sandbox.cluster.get("statefulsets.apps", "web", "default")
    assert (stateful_set["spec"]["replicas"], stateful_set["metadata"]["generation"]) == (2, 2)
    stateful_set["status"] = {
        "replicas": 2,
        "readyReplicas": 2,
        "availableReplicas": 2,
        "updatedReplicas": 2,
        "currentReplicas": 2,
        "currentRevision": "web-1",
        "updateRevision": "web-1",
        "observedGeneration": 2,
    }
    await sandbox.cluster.update("statefulsets.apps", stateful_set, "status")
    out, _ = await asyncio.wait_for(rollout.communicate(), 20)
    assert b"partitioned roll out complete: 2 new pods have been updated" in out
    assert (await sandbox.kubectl("get", "sts")).out.splitlines()[1].split()[:2] == ["web", "2/2"]


async def test_owner_deletion_takes_dependents(sandbox: Sandbox) -> None:
    owner = await sandbox.cluster.create("configmaps", {"metadata": {"name": "owner"}})
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "owner",
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": True,
    }
    await sandbox.cluster.create("secrets", {"metadata": {"name": "child", "ownerReferences": [reference]}})
    await sandbox.kubectl("delete", "configmap", "owner", "--cascade=foreground", "--timeout=10s")
    listed = await sandbox.json("get", "configmap,secret")
    assert listed["items"] == []


async def test_namespace_deletion_empties_it(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "namespace", "extra")
    await sandbox.kubectl("create", "configmap", "c", "--from-literal=a=b", "-n", "extra")
    await sandbox.kubectl("delete", "namespace", "extra", "--timeout=10s")
    gone = await sandbox.kubectl("get", "configmap", "c", "-n", "extra", fails=True)
    assert 'configmaps "c" not found' in gone.err or 'namespaces "extra" not found' in gone.err
    refused = await sandbox.kubectl("create", "configmap", "c", "-n", "extra", fails=True)
    assert 'namespaces "extra" not found' in refused.err


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n")
    await writer.drain()
    writer.close()


async def _asked(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


@pytest.mark.parametrize("websockets", ["true", "false"])
async def test_port_forward(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, websockets: str) -> None:
    monkeypatch.setenv("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
    echo = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = echo.sockets[0].getsockname()[1]
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    await sandbox.run_pod("web")
    process = await sandbox.start("port-forward", "pod/web", f":{port}")
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 10)).decode()
    local = int(line.split("127.0.0.1:")[1].split()[0])
    answers = await asyncio.gather(_asked(local), _asked(local))
    process.terminate()
    await process.wait()
    echo.close()
    assert all(answer.endswith(b"hello\n") for answer in answers)


async def test_proxies(sandbox: Sandbox) -> None:
    echo = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = echo.sockets[0].getsockname()[1]
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    await sandbox.kubectl("create", "-f", "-", stdin=SERVICE)
    path = "/api/v1/namespaces/default/services/workspace-tuning-phi-3:http/proxy/chat"
    refused = await sandbox.kubectl("get", "--raw", path, fails=True)
    assert 'no endpoints available for service "workspace-tuning-phi-3"' in refused.err
    await sandbox.run_pod("web")
    endpoints = {
        "metadata": {"name": "workspace-tuning-phi-3"},
        "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "http", "port": port}]}],
    }
    await sandbox.cluster.create("endpoints", endpoints, "default")
    assert (await sandbox.kubectl("get", "--raw", path)).out == "hello\n"
    pod_path = f"/api/v1/namespaces/default/pods/web:{port}/proxy/"
    assert (await sandbox.kubectl("get", "--raw", pod_path)).out == "hello\n"
    echo.close()


async def test_run_attaches_prints_and_removes(sandbox: Sandbox) -> None:
    """`kubectl run -i --rm --restart=Never`, the quick start's last line."""
    process = await sandbox.start(
        "run", "curl", "-i", "--rm", "--restart=Never", "--image=curlimages/curl", "--", "curl", "http://x"
    )
    async for kind, pod in sandbox.cluster.watch("pods"):
        if kind == "ADDED" and pod["metadata"]["name"] == "curl":
            break
    await sandbox.run_pod("curl", logs="an answer")
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 10) == b"an answer\n"
    await sandbox.run_pod("curl", logs="its end", ends=True)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert b"its end\n" in out, err
    assert b'pod "curl" deleted' in out
    assert process.returncode == 0


async def test_small_commands(sandbox: Sandbox) -> None:
    who = await sandbox.kubectl("auth", "whoami")
    assert "admin" in who.out
    assert (await sandbox.kubectl("auth", "can-i", "create", "pods")).out == "yes\n"
    resources = (await sandbox.kubectl("api-resources", "--verbs=list")).out
    assert "statefulsets" in resources
    versions = (await sandbox.kubectl("api-versions")).out.split()
    assert {"v1", "apps/v1", "batch/v1", "apiextensions.k8s.io/v1"} <= set(versions)
    assert "v1.36" in (await sandbox.kubectl("version")).out
    assert (await sandbox.kubectl("get", "--raw", "/readyz")).out == "ok"
    await sandbox.kubectl("create", "secret", "generic", "s", "--from-literal=a=b")
    assert (await sandbox.json("get", "secret", "s"))["data"] == {"a": "Yg=="}
    await sandbox.kubectl("cluster-info")
    await sandbox.kubectl("create", "token", "default")
    refused = await sandbox.kubectl("--token=wrong", "get", "pods", fails=True)
    assert "You must be logged in to the server" in refused.err


async def test_exec_says_why_not(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    await sandbox.run_pod("web")
    refused = await sandbox.kubectl("exec", "web", "--", "ls", fails=True)
    assert "the sandbox cannot run commands in a container" in refused.err


async def test_faults_strike_and_clear(sandbox: Sandbox) -> None:
    sandbox.faults.set(Fault(FaultKind.API_ERROR, "GET /api/v1/namespaces/*/pods", value=500))
    failed = await sandbox.kubectl("get", "pods", fails=True)
    assert "the sandbox was told to fail this request" in failed.err
    sandbox.faults.clear()
    sandbox.faults.set(Fault(FaultKind.API_THROTTLE, "GET */pods", value=1, count=1))
    await sandbox.kubectl("get", "pods")  # client-go waits for Retry-After and asks again


def _sync_round(kubeconfig: str) -> list[str]:
    from kubernetes import client, config, watch

    api = client.CoreV1Api(config.new_client_from_config(kubeconfig))
    spec = {"containers": [{"name": "c", "image": "busybox"}]}
    api.create_namespaced_pod("default", {"metadata": {"name": "py", "labels": {"a": "b"}}, "spec": spec})
    found = api.list_namespaced_pod("default", label_selector="a in (b,c)", limit=1)
    assert [pod.metadata.name for pod in found.items] == ["py"]
    seen = []
    watcher = watch.Watch()
    api.patch_namespaced_pod("py", "default", {"metadata": {"labels": {"x": "y"}}})
    api.delete_namespaced_pod("py", "default")
    version = found.metadata.resource_version
    for event in watcher.stream(
        api.list_namespaced_pod, "default", resource_version=version, timeout_seconds=2
    ):
        seen.append(f"{event['type']} {event['object'].metadata.name}")
    try:
        api.read_namespaced_pod("py", "default")
    except client.ApiException as error:
        seen.append(f"{error.status} {json.loads(error.body)['reason']}")
    return seen


async def test_the_official_sync_client(sandbox: Sandbox) -> None:
    seen = await asyncio.to_thread(_sync_round, str(sandbox.kubeconfig))
    assert seen == ["MODIFIED py", "DELETED py", "404 NotFound"]


async def test_the_official_async_client(sandbox: Sandbox) -> None:
    from kubernetes_asyncio import client, config, watch

    await config.load_kube_config(str(sandbox.kubeconfig))
    async with client.ApiClient() as connection:
        api = client.CoreV1Api(connection)
        spec = {"containers": [{"name": "c", "image": "busybox"}]}
        await api.create_namespaced_pod("default", {"metadata": {"generateName": "py-"}, "spec": spec})
        pod = (await api.list_namespaced_pod("default")).items[0]
        await sandbox.run_pod(pod.metadata.name, logs="hello")
        assert await api.read_namespaced_pod_log(pod.metadata.name, "default") == "hello\n"
        pod = await api.read_namespaced_pod(pod.metadata.name, "default")
        assert pod.status.container_statuses[0].state.running is not None
        names = []
        async with watch.Watch() as watcher:
            async for event in watcher.stream(api.list_namespaced_pod, "default", timeout_seconds=1):
                names.append(event["object"].metadata.name)
        assert names == [pod.metadata.name]


def _sync_forward(kubeconfig: str, port: int) -> bytes:
    from kubernetes import client, config
    from kubernetes.stream import portforward

    api = client.CoreV1Api(config.new_client_from_config(kubeconfig))
    forward = portforward(api.connect_get_namespaced_pod_portforward, "web", "default", ports=str(port))
    socket = forward.socket(port)
    socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while data := socket.recv(1024):
        answer += data
    assert forward.error(port) is None
    return answer


async def test_the_official_client_forwards_ports(sandbox: Sandbox) -> None:
    echo = await asyncio.start_server(_echo, "127.0.0.1", 0)
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    await sandbox.run_pod("web")
    port = echo.sockets[0].getsockname()[1]
    answer = await asyncio.wait_for(asyncio.to_thread(_sync_forward, str(sandbox.kubeconfig), port), 20)
    echo.close()
    assert answer.endswith(b"hello\n")
