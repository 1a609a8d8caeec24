"""The sandbox as its users meet it: `up`, the Kubernetes API over TLS, real processes behind bubblewrap, `down`."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client import ApiException

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).resolve().parents[2]
FAST = ["--boot-seconds", "0.5", "--restart-backoff-seconds", "0.3", "--node-monitor-grace-seconds", "8"]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
HTTP_SERVER = (
    "import http.server, os\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "  def do_GET(self):\n"
    "    self.send_response(200); self.end_headers(); self.wfile.write(os.environ['HOSTNAME'].encode())\n"
    "  def log_message(self, *a): pass\n"
    "http.server.ThreadingHTTPServer((os.environ['POD_IP'], 5000), Handler).serve_forever()\n"
)


def cli(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sandbox", *words, "--state-dir", str(state)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)


def processes_of(state: Path) -> list[str]:
    """Command lines of living processes that mention the state folder: the sandbox, its registry, its containers."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(state) in line:
                found.append(line[:200])
    return found


def until(check: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for: {what}"
        time.sleep(0.03)
    return found


class Sandbox:
    """A running sandbox with the official client, and waits in the words of its objects."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.connect()

    def connect(self) -> None:
        api = config.new_client_from_config(str(self.state / "kubeconfig"))
        self.core, self.apps, self.custom = (
            client.CoreV1Api(api),
            client.AppsV1Api(api),
            client.CustomObjectsApi(api),
        )

    @property
    def description(self) -> dict[str, Any]:
        return json.loads((self.state / "sandbox.json").read_text())

    def run(
        self, name: str, command: list[str], *, container: dict[str, Any] | None = None, **spec: Any
    ) -> Any:
        main = {"name": "main", "image": "busybox", "command": command, **(container or {})}
        body = {
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"restartPolicy": "Never", "containers": [main], **spec},
        }
        return self.core.create_namespaced_pod("default", body)

    def pod(self, name: str) -> Any:
        return self.core.read_namespaced_pod(name, "default")

    def phase(self, name: str, *phases: str, seconds: float = 60.0) -> Any:
        def reached() -> Any:
            pod = self.pod(name)
            return pod if pod.status.phase in phases else None

        return until(reached, f"pod {name} to be {' or '.join(phases)}", seconds)

    def logs(self, name: str) -> str:
        answer = self.core.read_namespaced_pod_log(name, "default", _preload_content=False)
        return str(answer.data.decode())

    def gone(self, read: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
        def is_gone() -> bool:
            try:
                read()
            except ApiException as error:
                return bool(error.status == 404)
            return False

        until(is_gone, f"{what} to be gone", seconds)

    def events(self, name: str) -> list[str]:
        found = self.core.list_namespaced_event("default", field_selector=f"involvedObject.name={name}").items
        return [event.reason for event in found]

    def claim(self, name: str, instance_type: str = "Standard_NC6s_v3") -> None:
        requirement = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [instance_type]}
        body = {
            "apiVersion": "karpenter.sh/v1",
            "kind": "NodeClaim",
            "metadata": {"name": name},
            "spec": {
                "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
                "requirements": [requirement],
                "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
            },
        }
        self.custom.create_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", body)

    def read_claim(self, name: str) -> Any:
        return self.custom.get_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", name)

    def claim_is_ready(self, name: str) -> bool:
        conditions = (self.read_claim(name).get("status") or {}).get("conditions") or []
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def delete_claim(self, name: str) -> None:
        self.custom.delete_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", name)
        self.gone(lambda: self.read_claim(name), f"claim {name}")

    def nodes(self) -> list[str]:
        return [node.metadata.name for node in self.core.list_node().items]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory):
    state = tmp_path_factory.mktemp("sandbox")
    done = cli(state, "up", *FAST)
    assert done.returncode == 0, done.stderr
    assert f"export KUBECONFIG={state / 'kubeconfig'}" in done.stdout
    yield Sandbox(state)
    assert cli(state, "down").returncode == 0
    assert processes_of(state) == []


GPU_POD = {
    "container": {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
    "tolerations": [{"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}],
}


def test_up_again_keeps_the_running_one(sandbox):
    before = sandbox.description
    assert cli(sandbox.state, "up", *FAST).returncode == 0
    assert sandbox.description == before
    status = json.loads(cli(sandbox.state, "status").stdout)
    assert status["pid"] == before["pid"]
    assert "sandbox-cpu-0" in status["nodes"]


def test_a_pod_is_bound_within_a_moment(sandbox):
    sandbox.run("quick", ["true"])
    began = time.monotonic()
    until(lambda: sandbox.pod("quick").spec.node_name, "a node")
    assert (
        time.monotonic() - began < 0.5
    )  # 50 ms on an idle machine; the client's own requests take most of it


def test_a_container_sees_its_volumes_its_environment_and_nothing_else_is_writable(sandbox):
    core = sandbox.core
    core.create_namespaced_config_map(
        "default", {"metadata": {"name": "cm"}, "data": {"training_config.yaml": "a: 1"}}
    )
    core.create_namespaced_secret(
        "default", {"metadata": {"name": "sec"}, "stringData": {"config.json": "{}"}}
    )
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    core.create_namespaced_persistent_volume_claim("default", {"metadata": {"name": "work"}, "spec": spec})
    script = """
    test "$(id -u)" = 1000 && echo user-ok
    test "$(cat /mnt/config/training_config.yaml)" = "a: 1" && echo config-ok
    test "$(cat /etc/kaito/registry/config.json)" = "{}" && echo secret-ok
    test -f /etc/passwd && echo etc-still-there
    test "$(cat /mnt/data/from-init)" = hello && echo init-ok
    touch /mnt/data/x 2>/dev/null || echo data-read-only
    touch /mnt/results/x && echo results-writable
    touch /workspace/weights/x 2>/dev/null || echo weights-read-only
    touch /tmp/x && touch /dev/shm/x && echo scratch-writable
    touch /x 2>/dev/null || touch /etc/x 2>/dev/null || echo root-read-only
    test "$POD_IP" = "$(grep -w "$HOSTNAME" /etc/hosts | head -1 | cut -f1)" && echo address-ok
    ls -A "$STATE_DIR" | grep -q . || echo state-hidden
    test $$$$ = 1 && echo first-process
    echo '{"rows": 3}' > /dev/termination-log
    exit 65
    """
    mount = {"name": "work", "mountPath": "/mnt/data", "subPath": "data"}
    sandbox.run(
        "walls",
        ["sh", "-c", script],
        container={
            "env": [
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "STATE_DIR", "value": str(sandbox.state)},
            ],
            "securityContext": {"readOnlyRootFilesystem": True},
            "volumeMounts": [
                {**mount, "readOnly": True},
                {"name": "work", "mountPath": "/mnt/results", "subPath": "results"},
                {"name": "config", "mountPath": "/mnt/config"},
                {"name": "login", "mountPath": "/etc/kaito/registry", "readOnly": True},
                {"name": "weights", "mountPath": "/workspace/weights", "readOnly": True},
                {"name": "tmp", "mountPath": "/tmp"},
                {"name": "shm", "mountPath": "/dev/shm"},
            ],
        },
        securityContext={"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
        initContainers=[
            {
                "name": "fill",
                "image": "busybox",
                "command": ["sh", "-c", "echo hello > /mnt/data/from-init"],
                "volumeMounts": [mount],
            }
        ],
        volumes=[
            {"name": "work", "persistentVolumeClaim": {"claimName": "work"}},
            {"name": "config", "configMap": {"name": "cm"}},
            {"name": "login", "secret": {"secretName": "sec"}},
            {"name": "weights", "hostPath": {"path": "/usr/share", "type": "Directory"}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    )
    pod = sandbox.phase("walls", "Failed", "Succeeded")
    ended = pod.status.container_statuses[0].state.terminated
    said = """user-ok config-ok secret-ok etc-still-there init-ok data-read-only results-writable weights-read-only
    scratch-writable root-read-only address-ok state-hidden first-process"""
    assert sandbox.logs("walls").split() == said.split()
    assert (ended.exit_code, ended.reason, json.loads(ended.message)) == (65, "Error", {"rows": 3})
    assert pod.status.phase == "Failed"
    assert {"Scheduled", "Pulled", "Created", "Started"} <= set(sandbox.events("walls"))
    core.delete_namespaced_pod("walls", "default")
    core.delete_namespaced_persistent_volume_claim("work", "default")
    until(lambda: not list((sandbox.state / "volumes").iterdir()), "the volume's folder to be gone")


def test_the_last_words_of_a_crash_are_its_message_and_it_is_restarted_with_back_off(sandbox):
    container = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    sandbox.run(
        "crash", ["sh", "-c", "echo out of luck >&2; exit 7"], container=container, restartPolicy="Always"
    )

    def looping() -> Any:
        status = (sandbox.pod("crash").status.container_statuses or [None])[0]
        return status if status and status.restart_count >= 2 and status.state.waiting else None

    status = until(looping, "a crash loop")
    assert status.state.waiting.reason == "CrashLoopBackOff"
    assert (status.last_state.terminated.exit_code, status.last_state.terminated.message) == (
        7,
        "out of luck",
    )
    assert "BackOff" in sandbox.events("crash")
    sandbox.core.delete_namespaced_pod("crash", "default")
    sandbox.gone(lambda: sandbox.pod("crash"), "the crashing pod", seconds=20)


def test_a_killed_process_and_an_unknown_command_have_the_runtimes_codes(sandbox):
    sandbox.run("missing", ["frobnicate"])
    ended = sandbox.phase("missing", "Failed").status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (128, "StartError")
    sandbox.run(
        "eater",
        ["sh", "-c", "x=a; while true; do x=$x$x; done"],
        container={"resources": {"limits": {"memory": "64Mi"}}},
    )
    ended = sandbox.phase("eater", "Failed").status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")


def test_an_unknown_image_says_what_to_do(sandbox):
    sandbox.run("foreign", ["true"], container={"image": "nginx:1"})

    def waiting() -> Any:
        status = (sandbox.pod("foreign").status.container_statuses or [None])[0]
        return (
            status
            and status.state.waiting
            and status.state.waiting.reason == "ImagePullBackOff"
            and status.state.waiting
        )

    assert "images.yaml" in until(waiting, "ImagePullBackOff").message
    sandbox.core.delete_namespaced_pod("foreign", "default")
    sandbox.gone(lambda: sandbox.pod("foreign"), "the pod without image", seconds=20)


def test_a_deletion_asks_first_and_kills_after_the_grace_period(sandbox):
    polite = "trap 'echo bye > /mnt/note/said; exit 0' TERM; echo up; while true; do sleep 0.05; done"
    note = sandbox.state.parent / f"{sandbox.state.name}-note"
    volume = {"name": "note", "hostPath": {"path": str(note), "type": "DirectoryOrCreate"}}
    mounts = {"volumeMounts": [{"name": "note", "mountPath": "/mnt/note"}]}
    sandbox.run(
        "polite", ["sh", "-c", polite], container=mounts, volumes=[volume], terminationGracePeriodSeconds=3600
    )
    sandbox.run("stubborn", ["sleep", "1000"], terminationGracePeriodSeconds=1)
    sandbox.phase("stubborn", "Running")
    until(
        lambda: "up" in sandbox.logs("polite") if sandbox.phase("polite", "Running") else False,
        "its first line",
    )
    began = time.monotonic()
    sandbox.core.delete_namespaced_pod("polite", "default")
    sandbox.gone(lambda: sandbox.pod("polite"), "the polite pod")
    assert (note / "said").read_text() == "bye\n"
    sandbox.core.delete_namespaced_pod("stubborn", "default")
    sandbox.gone(lambda: sandbox.pod("stubborn"), "the stubborn pod", seconds=20)
    assert time.monotonic() - began >= 1


def test_probes_decide_about_readiness_and_restarts(sandbox):
    # Ready once the file is there, restarted once the second file is there.
    touch = "sleep 0.6; touch /tmp/ready; sleep 1.2; touch /tmp/sick; sleep 1000"
    mount = {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
    probes = {
        "readinessProbe": {"exec": {"command": ["test", "-f", "/tmp/ready"]}, "periodSeconds": 1},
        "livenessProbe": {
            "exec": {"command": ["test", "!", "-f", "/tmp/sick"]},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
    }
    spec = {
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 0,
    }
    sandbox.run("probed", ["sh", "-c", touch], container={**mount, **probes}, **spec)
    pod = sandbox.phase("probed", "Running")
    assert not pod.status.container_statuses[0].ready
    until(lambda: sandbox.pod("probed").status.container_statuses[0].ready, "readiness")
    until(lambda: sandbox.pod("probed").status.container_statuses[0].restart_count >= 1, "a restart")
    assert {"Unhealthy", "Killing"} <= set(sandbox.events("probed"))
    sandbox.core.delete_namespaced_pod("probed", "default", grace_period_seconds=0)


def test_a_statefulset_answers_through_its_service_by_address_and_by_name(sandbox):
    labels = {"kaito.sh/workspace": "ws"}
    ports = [{"name": "http", "port": 8080, "targetPort": 5000}]
    selector = {**labels, "statefulset.kubernetes.io/pod-name": "ws-0"}
    sandbox.core.create_namespaced_service(
        "default", {"metadata": {"name": "ws"}, "spec": {"selector": selector, "ports": ports}}
    )
    headless = {"clusterIP": "None", "selector": labels, "publishNotReadyAddresses": True}
    sandbox.core.create_namespaced_service("default", {"metadata": {"name": "ws-headless"}, "spec": headless})
    container = {
        "name": "main",
        "image": "python:3.11",
        "command": ["python3", "-c", HTTP_SERVER],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "http", "containerPort": 5000}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
    }
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
    spec = {
        "serviceName": "ws-headless",
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": template,
    }
    sandbox.apps.create_namespaced_stateful_set("default", {"metadata": {"name": "ws"}, "spec": spec})
    until(
        lambda: sandbox.apps.read_namespaced_stateful_set("ws", "default").status.ready_replicas == 2,
        "two ready pods",
        30,
    )
    address = sandbox.core.read_namespaced_service("ws", "default").spec.cluster_ip
    until(lambda: sandbox.core.read_namespaced_endpoints("ws", "default").subsets, "endpoints")
    assert DIRECT.open(f"http://{address}:8080/", timeout=60).read() == b"ws-0"
    urls = ["http://ws:8080/", "http://ws.default.svc.cluster.local:8080/", "http://ws-1.ws-headless:5000/"]
    sandbox.run("asks", [], container={"image": "curlimages/curl", "command": None, "args": ["-sS", *urls]})
    sandbox.phase("asks", "Succeeded")
    assert sandbox.logs("asks").strip() == "ws-0ws-0ws-1"
    sandbox.apps.delete_namespaced_stateful_set("ws", "default")
    sandbox.gone(lambda: sandbox.pod("ws-0"), "the set's pods")
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        DIRECT.open(f"http://{address}:8080/", timeout=60)


def test_a_node_claim_becomes_a_gpu_node_and_leaves_nothing_behind(sandbox):
    before = sandbox.nodes()
    sandbox.run("tune", ["sleep", "1000"], **GPU_POD, terminationGracePeriodSeconds=1)
    until(lambda: sandbox.pod("tune").status.conditions, "a verdict of the scheduler")
    condition = sandbox.pod("tune").status.conditions[0]
    assert condition.reason == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in condition.message
    sandbox.claim("wsgpu")
    pod = sandbox.phase("tune", "Running")
    assert pod.spec.node_name == sandbox.read_claim("wsgpu")["status"]["nodeName"]
    sandbox.delete_claim("wsgpu")
    assert sandbox.nodes() == before
    sandbox.gone(lambda: sandbox.pod("tune"), "the pod")
    until(
        lambda: not [line for line in processes_of(sandbox.state) if "sleep 1000" in line],
        "its processes to end",
    )
    lines = [json.loads(line) for line in (sandbox.state / "ledger.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines if line.get("claim") == "wsgpu"] == ["start", "stop"]


def test_faults_from_the_command_line(sandbox):
    assert cli(sandbox.state, "fault", "set", "no-capacity", "--target", "*A100*").returncode == 0
    sandbox.claim("wsfull", "Standard_NC24ads_A100_v4")

    def launched() -> Any:
        conditions = (sandbox.read_claim("wsfull").get("status") or {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == "Launched"), None)

    assert "AllocationFailed" in until(launched, "the cloud's answer")["message"]
    assert cli(sandbox.state, "fault", "clear").returncode == 0
    until(lambda: sandbox.claim_is_ready("wsfull"), "the claim to be ready after the fault is cleared")
    sandbox.delete_claim("wsfull")
    refused = cli(sandbox.state, "fault", "set", "slow-boot")
    assert refused.returncode == 1
    assert "needs a value in seconds" in refused.stderr


def test_a_disk_is_made_for_its_first_pod_and_serves_the_next(sandbox):
    """The default class, from a pod on the CPU node to one on a GPU machine outside all zones."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    sandbox.core.create_namespaced_persistent_volume_claim(
        "default", {"metadata": {"name": "work"}, "spec": spec}
    )
    volumes = [{"name": "work", "persistentVolumeClaim": {"claimName": "work"}}]
    mount = {"volumeMounts": [{"name": "work", "mountPath": "/work"}]}
    sandbox.run("writer", ["sh", "-c", "echo kept > /work/file"], volumes=volumes, container=mount)
    sandbox.phase("writer", "Succeeded")
    read = lambda: sandbox.core.read_namespaced_persistent_volume_claim("work", "default")  # noqa: E731
    assert read().metadata.annotations["volume.kubernetes.io/selected-node"] == "sandbox-cpu-0"
    volume = sandbox.core.read_persistent_volume(read().spec.volume_name)
    [term] = volume.spec.node_affinity.required.node_selector_terms
    assert [(e.key, e.values) for e in term.match_expressions] == [("topology.disk.csi.azure.com/zone", [""])]
    sandbox.claim("wsdisk")
    gpu = {**GPU_POD, "container": {**GPU_POD["container"], **mount}}
    sandbox.run("reader", ["cat", "/work/file"], volumes=volumes, **gpu)
    sandbox.phase("reader", "Succeeded")
    assert sandbox.logs("reader") == "kept\n"
    for name in ("writer", "reader"):
        sandbox.core.delete_namespaced_pod(name, "default")
    sandbox.core.delete_namespaced_persistent_volume_claim("work", "default")
    sandbox.gone(read, "the claim")
    sandbox.delete_claim("wsdisk")


def test_a_dry_run_says_what_a_create_would(sandbox):
    quota = {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "0"}}}
    sandbox.core.create_namespaced_resource_quota("default", quota)
    body = {
        "metadata": {"name": "refused"},
        "spec": {"containers": [{"name": "main", "image": "busybox", **GPU_POD["container"]}]},
    }
    told = []
    for options in ({"dry_run": "All"}, {}):
        with pytest.raises(ApiException) as caught:
            sandbox.core.create_namespaced_pod("default", body, **options)
        told.append((caught.value.status, json.loads(caught.value.body)["message"]))
    sandbox.core.delete_namespaced_resource_quota("gpus", "default")
    assert told[0] == told[1]
    assert told[0][0] == 403
    assert (
        'pods "refused" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'
        in told[0][1]
    )


def test_a_lost_node_takes_its_pod_and_claim_along(sandbox):
    sandbox.claim("wslost")
    sandbox.run("lost", ["sleep", "1001"], **GPU_POD)
    node = sandbox.phase("lost", "Running").spec.node_name
    assert cli(sandbox.state, "fault", "set", "node-loss", "--target", node).returncode == 0
    until(
        lambda: not [line for line in processes_of(sandbox.state) if "sleep 1001" in line],
        "its processes to end",
        5,
    )
    sandbox.gone(lambda: sandbox.pod("lost"), "the pod", seconds=40)
    sandbox.gone(lambda: sandbox.read_claim("wslost"), "the claim", seconds=40)
    assert node not in sandbox.nodes()


def test_the_registry_wants_its_password_and_can_be_taken_down(sandbox):
    login = json.loads((sandbox.state / "registry.json").read_text())
    url = f"http://{sandbox.description['registry']}/v2/"
    with pytest.raises(urllib.error.HTTPError) as refused:
        DIRECT.open(url, timeout=30)
    assert refused.value.code == 401
    basic = base64.b64encode(f"{login['username']}:{login['password']}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {basic}"})
    assert DIRECT.open(request, timeout=30).status == 200

    def answers() -> bool:
        try:
            return bool(DIRECT.open(request, timeout=30).status == 200)
        except OSError:
            return False

    cli(sandbox.state, "fault", "set", "registry-down")
    until(lambda: not answers(), "the registry to be down")
    cli(sandbox.state, "fault", "clear", "registry-down")
    until(answers, "the registry to be back")


def test_a_killed_sandbox_leaves_no_process_and_starts_again_with_everything(sandbox):
    """Last, because the sandbox goes down in it."""
    sandbox.run("kept", ["sleep", "1002"], restartPolicy="Always", terminationGracePeriodSeconds=0)
    sandbox.run("once", ["sleep", "1003"])
    for name in ("kept", "once"):
        sandbox.phase(name, "Running")
    before = sandbox.description
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: not processes_of(sandbox.state), "every process to end")
    assert cli(sandbox.state, "status").returncode == 1
    assert cli(sandbox.state, "up", *FAST).returncode == 0
    after = sandbox.description
    assert (after["apiserver"], after["registry"]) == (before["apiserver"], before["registry"])
    until(
        lambda: sandbox.pod("kept").status.container_statuses[0].restart_count == 1,
        "the kept pod to run again",
    )
    ended = sandbox.phase("once", "Failed").status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.message) == (137, "The sandbox stopped while this container ran")
