"""A running sandbox, and a GPU pool of any provider on it: driven as tasks and triggers drive one, without Airflow."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from kaito.hooks.aks import AksHook
from kaito.hooks.api import EVENT, NODE
from kaito.hooks.kubernetes import AsyncKaitoClusterHook, KaitoClusterHook
from kaito.providers.aks import AgentPools
from kaito.providers.base import (
    FailureClass,
    GpuPool,
    PoolKey,
    PoolStatus,
)
from kaito.providers.blocking import BlockingProvider
from kaito.providers.nodepool import NO_CAPACITY_EVENTS, NODE_POOL
from kaito.providers.registry import async_provider, provider
from kaito.providers.selection import failure_class
from kaito.providers.settings import PoolSettings

from demo.stack import azure_connection
from include.catalog import load_catalog
from include.manifests import ManifestSettings
from include.planning import Plan, plan
from include.pools.aks import AgentPoolOptions
from include.workspace import parse_workspace
from include.workspace.api import names
from include.workspace.api.names import ProviderName
from sandbox.cloud.ledger import Ledger, Rental
from sandbox.control import FAULTS, Control

PROJECT = Path(__file__).resolve().parents[2]
TIMINGS = (
    *("--boot-seconds", "0.5", "--gpu-seconds", "0.1"),
    *("--heartbeat-seconds", "1", "--node-monitor-grace-seconds", "3", "--lost-node-removal-seconds", "0.2"),
)
CONNECTION = "aks"
MACHINE = "Standard_NC6s_v3"
#: What the device plugin and feature discovery say of MACHINE's GPU, where nodes are BYO (bring your own).
GPUS = {
    "nvidia.com/gpu.product": "Tesla-V100-PCIE-16GB",
    "nvidia.com/gpu.count": "1",
    "nvidia.com/gpu.memory": "16384",
}
T = TypeVar("T")


class Killed(BaseException):
    """The process that drives a provider dies here: nothing after this line of it happens."""


def until(look: Callable[[], T], what: str, seconds: float = 30.0) -> T:
    """Look until there is something to see."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for: {what}"
        time.sleep(0.05)
    return found


def kill_after(monkeypatch: pytest.MonkeyPatch, what: Any, method: str) -> None:
    """The next call of a method reaches the server; then its caller dies before it has the answer."""
    real = getattr(what, method)

    def last_words(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        raise Killed

    async def last_awaited_words(*args: Any, **kwargs: Any) -> Any:
        await real(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(what, method, last_awaited_words if iscoroutinefunction(real) else last_words)


class Cloud:
    """A running sandbox: its cluster, its Azure, its bill, and its faults."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.ledger = Ledger(state / "ledger.jsonl")
        self.hook = KaitoClusterHook(conn_id=None, config_file=str(state / "kubeconfig"))

    @property
    def kubeconfig(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((self.state / "kubeconfig").read_text())
        return found

    def sandbox(self, *words: str) -> None:
        command = [sys.executable, "-m", "sandbox", *words, "--state-dir", str(self.state)]
        subprocess.run(command, cwd=PROJECT, capture_output=True, timeout=60, check=True)

    def up(self) -> None:
        self.sandbox("up", *TIMINGS)

    def down(self) -> None:
        self.sandbox("down")

    def connect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Give Airflow the connection to this Azure; its addresses are new after each start."""
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONNECTION.upper()}", azure_connection(self.state))

    def fault(self, kind: str, **what: Any) -> None:
        Control(self.state / "kubeconfig").call("POST", FAULTS, {"kind": kind, **what})

    def heal(self) -> None:
        Control(self.state / "kubeconfig").call("DELETE", FAULTS)

    def nodes(self, **labels: str) -> list[str]:
        return sorted(node["metadata"]["name"] for node in self.hook.list(NODE, labels=labels))

    def rentals(self, workspace: str) -> list[Rental]:
        """What the cloud charges for a Workspace's machines."""
        return [r for r in self.ledger.rentals() if r.labels.get(names.WORKSPACE) == workspace]

    def kubectl_label(self, node: str, labels: dict[str, str]) -> None:
        self.hook.core_v1_client.patch_node(node, {"metadata": {"labels": labels}})

    def cordon(self, node: str, cordoned: bool = True) -> None:
        self.hook.core_v1_client.patch_node(node, {"spec": {"unschedulable": cordoned}})


@contextmanager
def running_cloud(state: Path) -> Iterator[Cloud]:
    cloud = Cloud(state)
    cloud.up()
    try:
        yield cloud
    finally:
        cloud.down()


def bring_nodes(azure: AksHook, cloud: Cloud, many: int) -> list[str]:
    """GPU nodes that no Workspace asked for, as a user has them."""
    body = {
        "count": many,
        "vmSize": MACHINE,
        "mode": "User",
        "osType": "Linux",
        "nodeLabels": {"app": "mine"},
        "nodeTaints": ["sku=gpu:NoSchedule"],
    }
    azure.begin_create({"name": "mine", "properties": body})
    found = until(lambda: n if len(n := cloud.nodes(app="mine")) == many else [], "nodes to bring along")
    for node in found:
        cloud.kubectl_label(node, GPUS)
    return found


class Pool:
    """The machines of one tuning Workspace, by one provider. Each step takes a fresh provider, as each task does."""

    def __init__(self, cloud: Cloud, kind: str, name: str, options: AgentPoolOptions | None = None) -> None:
        self.cloud = cloud
        self.kind = kind
        self.name = name
        self.settings = PoolSettings(self.kind, CONNECTION, options or AgentPoolOptions())
        self.key = PoolKey(name, "default", "tuning")

    def workspace(self, nodes: int = 1) -> dict[str, Any]:
        meta = {"name": self.name, "namespace": "default", "uid": f"uid-{self.name}", "generation": 1}
        found: dict[str, Any] = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": meta}
        if self.kind == ProviderName.BYO:
            template = {"spec": {"containers": [{"name": "main", "image": "busybox"}]}}
            selector = {"labelSelector": {"matchLabels": {"app": "mine"}}}
            return {**found, "resource": {**selector, "count": nodes}, "inference": {"template": template}}
        tuning = {
            "preset": {"name": "phi-3-mini-128k-instruct"},
            "method": "qlora",
            "input": {"urls": ["https://example.com/a"]},
            "output": {"image": "r.example.com/a:1", "imagePushSecret": "s"},
        }
        labels = {"instanceType": MACHINE, "labelSelector": {"matchLabels": {"app": self.name}}}
        return {**found, "resource": labels, "tuning": tuning}

    def machines(self, nodes: int = 1) -> Any:
        made = provider(self.cloud.hook, self.settings, self.workspace(nodes))
        if isinstance(made.provider, AgentPools):
            made.provider.poll, made.provider.busy_seconds = 0.1, 30.0
            calls: Any = made.provider.aks  # over the blocking client, which has the hook
            calls.hook.wait = lambda _: time.sleep(0.1)
        return made

    def wanted(self, machines: BlockingProvider, run: str = "run-1", nodes: int = 1) -> GpuPool:
        return machines.request(
            self.workspace(nodes), self._plan(nodes), run, ManifestSettings(workload_image="w")
        )

    def _plan(self, nodes: int) -> Plan:
        like = Pool(self.cloud, ProviderName.NODE_CLAIM, self.name).workspace()
        return replace(plan(parse_workspace(like), load_catalog()), node_count=nodes)

    def create(self, nodes: int = 1, run: str = "run-1") -> list[str]:
        machines = self.machines(nodes)
        return list(machines.create(self.wanted(machines, run, nodes)))

    def observe(self, nodes: int = 1) -> PoolStatus:
        """As the trigger sees it."""
        settings, document = self.settings, self.workspace(nodes)

        async def look() -> PoolStatus:
            hook = AsyncKaitoClusterHook(conn_id=None, config_dict=self.cloud.kubeconfig)
            observer = async_provider(hook, settings, document)
            try:
                return await observer.observe(self.key)
            finally:
                await observer.close()

        return asyncio.run(look())

    def ready(self, nodes: int = 1) -> PoolStatus:
        def look() -> PoolStatus | None:
            seen = self.observe(nodes)
            assert not seen.failed, seen.message
            return seen if seen.ready and len(seen.nodes) >= nodes else None

        return until(look, f"{nodes} machine(s) of {self.name} are ready")  # type: ignore[return-value]

    def fails(self) -> tuple[FailureClass, str]:
        """Ask for machines that do not come; returns why, as the task and the Workspace are told."""
        try:
            self.create()
            seen = until(lambda: s if (s := self.observe()).failed else None, f"{self.name} fails")
        except RuntimeError as error:
            return failure_class(error), str(error)
        assert seen is not None
        assert seen.failure_class is not None
        return seen.failure_class, seen.message

    def was_refused_later(self) -> bool:
        """Whether Karpenter has told of no capacity after the second in which the NodePool was made."""
        (made,) = self.cloud.hook.list(NODE_POOL, labels=self.key.labels)
        told = self.cloud.hook.list(EVENT, fields=NO_CAPACITY_EVENTS)
        name, since = made["metadata"]["name"], made["metadata"]["creationTimestamp"]
        mine = [event for event in told if event["involvedObject"]["name"].startswith(f"{name}-")]
        return any(event["lastTimestamp"] > since for event in mine)

    def release(self, run: str = "run-1") -> None:
        self.machines().delete_and_wait(self.key, run, timeout=40, poll=0.05)

    def bill(self) -> str:
        """The machines that the cloud counts for this Workspace."""
        rentals = self.cloud.rentals(self.name)
        return json.dumps([(r.node, r.stopped is not None) for r in rentals])
