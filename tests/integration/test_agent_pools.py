"""Agent pools end to end: the provider through Azure's SDK and the Kubernetes API against a running sandbox."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kaito.hooks.aks import AksHook
from kaito.hooks.api import EVENT, NODE, POD
from kaito.hooks.cluster import KaitoClusterHook
from kaito.hooks.pool import GpuPool, PoolKey
from kaito.hooks.pools.agent_pools import AgentPools
from kaito.hooks.pools.node_pools import NODE_POOL, NodePools

from include.catalog import load_catalog
from include.manifests import AgentPoolOptions, Settings
from include.planning import plan
from include.sandbox.cloud.ledger import Ledger
from include.workspace import parse_workspace

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).resolve().parents[2]
TIMINGS = ["--boot-seconds", "1.5", "--node-monitor-grace-seconds", "6"]
BASELINE = ["sandbox-cpu-0"]
WORKSPACE: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "w", "namespace": "default", "uid": "u", "generation": 1},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"app": "x"}}},
    "tuning": {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/a"]},
        "output": {"image": "r.example.com/a:1", "imagePushSecret": "s"},
    },
}
KEY = PoolKey("w", "default", "tuning")


def sandbox(state: Path, *words: str) -> str:
    command = [sys.executable, "-m", "include.sandbox", *words, "--state-dir", str(state)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def until(check: Callable[[], Any], what: str, seconds: float = 25.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for: {what}"
        time.sleep(0.1)
    return found


class Cloud:
    """A running sandbox with a provider on it, as a task would make one."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.ledger = Ledger(state / "ledger.jsonl")
        self.hook = KaitoClusterHook(conn_id=None, config_file=str(state / "kubeconfig"))

    def connection(self) -> str:
        azure = json.loads((self.state / "sandbox.json").read_text())["azure"]
        extra = {
            "subscriptionId": azure["subscriptionId"],
            "resourceGroup": azure["resourceGroup"],
            "clusterName": azure["cluster"],
            "base_url": azure["baseUrl"],
            "ca_file": azure["certificateAuthority"],
            "token_file": azure["tokenFile"],
        }
        return json.dumps({"conn_type": "azure", "extra": extra})

    def machines(self, options: AgentPoolOptions | None = None) -> AgentPools:
        return AgentPools(self.hook, AksHook("aks"), options, poll=0.2, busy_seconds=20)

    def nodes(self) -> list[str]:
        return sorted(node["metadata"]["name"] for node in self.hook.list(NODE))


def wanted(machines: AgentPools | NodePools, run: str, nodes: int = 1) -> GpuPool:
    asked = replace(plan(parse_workspace(WORKSPACE), load_catalog()), node_count=nodes)
    return machines.request(WORKSPACE, asked, run, Settings(workload_image="w"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    state = tmp_path_factory.mktemp("sandbox")
    sandbox(state, "up", *TIMINGS)
    try:
        yield Cloud(state)
    finally:
        sandbox(state, "down")


@pytest.fixture
def cloud(running: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    monkeypatch.setenv("AIRFLOW_CONN_AKS", running.connection())
    return running


def ready(machines: AgentPools | NodePools) -> Any:
    return until(lambda: (s := machines.observe(KEY)).ready and s, "the pool is ready")


def test_pods_run_on_a_pools_machines_and_nothing_is_left_after_it(cloud: Cloud) -> None:
    machines = cloud.machines(AgentPoolOptions(spot=True, zones=("2",)))
    machines.create(wanted(machines, "run-1", nodes=2))
    status = ready(machines)
    assert len(status.nodes) == 2
    tolerations = [{"operator": "Exists"}]
    container = {
        "name": "main",
        "image": "busybox",
        "command": ["sleep", "60"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    pod = {
        "metadata": {"name": "gpu", "namespace": "default"},
        "spec": {
            "nodeSelector": {"kaito.sh/workspace": "w", "topology.kubernetes.io/zone": "sandbox-2"},
            "tolerations": tolerations,
            "containers": [container],
            "terminationGracePeriodSeconds": 1,
        },
    }
    cloud.hook.get_or_create(POD, pod)
    found = until(
        lambda: (p := cloud.hook.find(POD, "gpu", "default")) and p["status"].get("phase") == "Running" and p,
        "the pod runs",
    )
    assert found["spec"]["nodeName"] in status.nodes
    machines.delete_and_wait(KEY, "run-1", timeout=30)
    assert cloud.nodes() == BASELINE
    assert cloud.hook.find(POD, "gpu", "default") is None
    assert all(rental.stopped for rental in cloud.ledger.rentals())


def test_a_sandbox_restarted_in_the_middle_of_a_creation_goes_on(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox(cloud.state, "fault", "set", "slow-boot", "--value", "120")
    machines = cloud.machines()
    (name,) = machines.create(wanted(machines, "run-2"))
    sandbox(cloud.state, "down")
    sandbox(cloud.state, "up", *TIMINGS)  # faults are forgotten
    monkeypatch.setenv("AIRFLOW_CONN_AKS", cloud.connection())
    machines = cloud.machines()
    assert machines.create(wanted(machines, "run-2")) == []
    assert ready(machines).nodes[0].startswith(f"aks-{name}-")
    assert len([r for r in cloud.ledger.rentals() if r.claim == name]) == 1
    machines.delete_and_wait(KEY, "run-2", timeout=30)
    assert cloud.nodes() == BASELINE


def test_a_spot_machine_is_announced_tainted_and_gone(cloud: Cloud) -> None:
    machines = cloud.machines(AgentPoolOptions(spot=True))
    machines.create(wanted(machines, "run-3"))
    (node,) = ready(machines).nodes
    sandbox(cloud.state, "fault", "set", "spot-eviction", "--target", node, "--value", "1")

    def taints() -> set[str]:
        found = cloud.hook.find(NODE, node)
        return {taint["key"] for taint in found["spec"].get("taints") or []} if found else set()

    until(lambda: "remediator.aks.microsoft.com/unschedulable" in taints(), "the node is tainted")
    assert "kubernetes.azure.com/scalesetpriority" in taints()
    reasons = [event["reason"] for event in cloud.hook.list(EVENT, fields=f"involvedObject.name={node}")]
    assert "PreemptScheduled" in reasons
    until(lambda: cloud.nodes() == BASELINE, "the node is gone")
    assert not machines.observe(KEY).ready
    machines.delete_and_wait(KEY, "run-3", timeout=30)
    assert all(rental.stopped for rental in cloud.ledger.rentals())


def test_a_node_pool_brings_as_many_machines_as_replicas_and_takes_them_back(cloud: Cloud) -> None:
    machines = NodePools(cloud.hook)
    (name,) = machines.create(wanted(machines, "run-4"))
    assert machines.create(wanted(machines, "run-4")) == []
    assert len(ready(machines).nodes) == 1
    assert machines.create(wanted(machines, "run-4", nodes=2)) == [name]
    status = until(lambda: (s := machines.observe(KEY)).ready and len(s.nodes) == 2 and s, "two machines")
    until(
        lambda: (cloud.hook.find(NODE_POOL, name) or {})["status"]["nodes"] == 2, "the pool counts its nodes"
    )
    assert all(node.startswith(f"aks-{name}-") for node in status.nodes)
    assert machines.delete(KEY, "run-5") == []
    machines.delete_and_wait(KEY, "run-4", timeout=30)
    assert cloud.nodes() == BASELINE
    assert all(rental.stopped for rental in cloud.ledger.rentals())


def test_a_node_pool_without_capacity_fails_in_the_clouds_words(cloud: Cloud) -> None:
    sandbox(cloud.state, "fault", "set", "no-capacity", "--target", "Standard_NC6s_v3")
    machines = NodePools(cloud.hook)
    try:
        machines.create(wanted(machines, "run-6"))
        until(lambda: machines.observe(KEY).failed, "the pool fails")
        for _ in range(10):  # whatever Karpenter has deleted or made again by now
            status = machines.observe(KEY)
            assert (status.failed, str(status.failure_class)) == (True, "capacity")
            assert "sufficient capacity" in status.message
            time.sleep(0.2)
    finally:
        sandbox(cloud.state, "fault", "clear")
        machines.delete_and_wait(KEY, "run-6", timeout=30)
    assert cloud.nodes() == BASELINE
