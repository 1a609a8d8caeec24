"""The sandbox's one process: API server, controllers, scheduler, node agent, cloud; and the registry beside it.

Everything shares one event loop and ends together: when a part breaks for good, the whole process ends, and with it
every pod. It must never return before the last pod process has ended.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import secrets
import signal
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from aiohttp import web

from sandbox.api.cluster import ApiError, Cluster
from sandbox.api.http import certificates
from sandbox.api.http.server import bound_port, serve
from sandbox.arm import account
from sandbox.arm import server as arm
from sandbox.arm.agentpool_controller import AgentPoolController
from sandbox.arm.state import ArmState
from sandbox.cloud import crds
from sandbox.cloud.ledger import Ledger
from sandbox.cloud.nodeclaims import NodeClaimController
from sandbox.cloud.nodepools import NodePoolController
from sandbox.controllers.deployment import DeploymentController
from sandbox.controllers.endpoints import EndpointsController
from sandbox.controllers.job import JobController
from sandbox.controllers.node_lifecycle import NodeLifecycle
from sandbox.controllers.reconciler import CONFLICT, Controller, Feeds
from sandbox.controllers.replicaset import ReplicaSetController
from sandbox.controllers.resource_quota import ResourceQuotaController
from sandbox.controllers.scheduler import Scheduler
from sandbox.controllers.service_proxy import ServiceProxy
from sandbox.controllers.statefulset import StatefulSetController
from sandbox.controllers.volume_binding import CLASSES
from sandbox.controllers.volumes import VolumeBinder, storage_classes
from sandbox.faults import FaultKind, Faults
from sandbox.layout import Layout, Timings
from sandbox.lifecycle import own_record
from sandbox.node.agent import NodeAgent
from sandbox.registry import Registry, RegistryProblem, is_free

log = logging.getLogger(__name__)

__all__ = ["AlreadyRunning", "RegistryProblem", "run"]

HOST = "127.0.0.1"


class AlreadyRunning(RuntimeError):
    """Another process holds this state folder."""


@dataclass
class Machinery:
    """Everything that follows the cluster, wired together but not yet running."""

    feeds: Feeds
    agent: NodeAgent
    proxy: ServiceProxy
    agent_pools: AgentPoolController
    arm_state: ArmState
    controllers: list[Controller]

    @classmethod
    def build(cls, cluster: Cluster, faults: Faults, layout: Layout, timings: Timings) -> Machinery:
        feeds = Feeds(cluster, timings.resync)
        agent = NodeAgent(cluster, feeds, faults, layout, timings)
        proxy = ServiceProxy(cluster, feeds)
        ledger, arm_state = Ledger(layout.ledger), ArmState(layout.arm)
        agent_pools = AgentPoolController(cluster, feeds, faults, ledger, timings, arm_state)
        controllers: list[Controller] = [
            Scheduler(cluster, feeds),
            StatefulSetController(cluster, feeds),
            DeploymentController(cluster, feeds),
            ReplicaSetController(cluster, feeds),
            JobController(cluster, feeds, timings.job_backoff),
            EndpointsController(cluster, feeds),
            VolumeBinder(cluster, feeds, layout.volumes),
            ResourceQuotaController(cluster, feeds),
            NodeLifecycle(cluster, feeds, timings.node_monitor_grace),
            NodeClaimController(cluster, feeds, faults, ledger, timings),
            NodePoolController(cluster, feeds),
            agent_pools,
            proxy,
        ]
        return cls(feeds, agent, proxy, agent_pools, arm_state, controllers)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.feeds.run())
            group.create_task(self.agent.run())
            for controller in self.controllers:
                group.create_task(controller.run())

    async def close(self) -> None:
        await self.proxy.close()
        await self.agent.close()


def hold(layout: Layout) -> TextIO:
    """The lock of the state folder, for as long as the returned file is open. Raises AlreadyRunning."""
    layout.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = (layout.root / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise AlreadyRunning(f"A sandbox already runs with the state folder {layout.root}.") from None
    return lock


def admin_token(path: Path) -> str:
    """The token of the kubeconfig, the same for as long as the state folder lives."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(32))
    return path.read_text().strip()


async def _install(cluster: Cluster, agent: NodeAgent) -> None:
    """What the sandbox's cluster holds from the start beyond what the API server makes."""
    await crds.install(cluster)
    for class_ in storage_classes():
        try:
            await cluster.create(CLASSES, class_)
        except ApiError as error:
            if error.code != CONFLICT:
                raise
    await agent.sweep()
    await agent.ensure_cpu_node()
    await agent.beat()


def stable_port(path: Path, wanted: int) -> int:
    """The port asked for, else the one that this state folder had before if it is free: kubeconfigs stay valid."""
    if wanted:
        return wanted
    try:
        before = int(path.read_text())
    except (OSError, ValueError):
        return 0
    return before if is_free(HOST, before) else 0


async def run(layout: Layout, port: int, timings: Timings) -> None:
    """Run the sandbox until SIGTERM or SIGINT; `sandbox.json` appears when everything answers."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        stack.enter_context(hold(layout))
        layout.pid_file.write_text(json.dumps(own_record()))
        stack.callback(layout.pid_file.unlink, missing_ok=True)
        faults = Faults()
        registry = Registry(layout)
        starting = asyncio.create_task(registry.start())
        stack.push_async_callback(registry.stop)
        cluster = Cluster(layout.root, timings.namespace_removal)
        stack.callback(cluster.close)
        machinery = Machinery.build(cluster, faults, layout, timings)
        await _install(cluster, machinery.agent)
        token = admin_token(layout.root / "token")
        paths = certificates.ensure(layout.certificates)
        port = stable_port(layout.root / "port", port)
        runner = await serve(cluster, HOST, port, paths, {token: "sandbox-admin"}, layout.logs, faults)
        stack.push_async_callback(runner.cleanup)
        azure = await _serve_azure(layout, paths, machinery, faults)
        stack.push_async_callback(azure.cleanup)
        work = asyncio.create_task(machinery.run())
        stack.push_async_callback(_end, work)
        stack.push_async_callback(machinery.close)
        await starting
        faults.listen(FaultKind.REGISTRY_DOWN, registry.set_down)
        _describe(layout, bound_port(runner), bound_port(azure), registry, paths.ca, token)
        stack.callback(layout.description.unlink, missing_ok=True)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, work}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()


async def _serve_azure(
    layout: Layout, paths: certificates.CertPaths, machinery: Machinery, faults: Faults
) -> web.AppRunner:
    """Azure Resource Manager, on the port that it had before if that is free."""
    token = admin_token(layout.arm_token)
    port = stable_port(layout.root / "arm-port", 0)

    def changed(pool: str) -> None:
        machinery.agent_pools.enqueue(("", pool))

    runner = await arm.serve(HOST, port, paths, token, machinery.arm_state, faults, changed)
    (layout.root / "arm-port").write_text(str(bound_port(runner)))
    return runner


async def _end(work: asyncio.Task[None]) -> None:
    work.cancel()
    with suppress(asyncio.CancelledError):
        await work


def _describe(
    layout: Layout, port: int, arm_port: int, registry: Registry, authority: Path, token: str
) -> None:
    (layout.root / "port").write_text(str(port))
    server = f"https://{HOST}:{port}"
    certificates.write_kubeconfig(layout.kubeconfig, server, authority, token)
    described = {
        "apiserver": server,
        "registry": registry.address,
        "azure": {
            "baseUrl": f"https://{HOST}:{arm_port}",
            "subscriptionId": account.SUBSCRIPTION,
            "resourceGroup": account.GROUP,
            "cluster": account.CLUSTER,
            "location": account.LOCATION,
            "certificateAuthority": str(authority),
            "tokenFile": str(layout.arm_token),
        },
        "pid": os.getpid(),
        "kubeconfig": str(layout.kubeconfig),
        "stateDir": str(layout.root),
    }
    fresh = layout.description.with_suffix(".new")
    fresh.write_text(json.dumps(described, indent=2) + "\n")
    fresh.replace(layout.description)
