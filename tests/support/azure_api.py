"""The sandbox's Azure API on a free port, and a credential for it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from azure.core.credentials import AccessToken
from azure.mgmt.containerservice import ContainerServiceClient
from azure.mgmt.containerservice.aio import ContainerServiceClient as AsyncContainerServiceClient

from sandbox.api.cluster import Cluster
from sandbox.api.http import certificates
from sandbox.api.http.server import bound_port
from sandbox.arm import account, server
from sandbox.arm.agentpool_controller import AgentPoolController
from sandbox.arm.state import ArmState
from sandbox.cloud.ledger import Ledger
from sandbox.controllers.reconciler import Feeds
from sandbox.faults import Faults
from sandbox.layout import Timings

TOKEN = "sandbox-token"

VERSION = "2026-08-01"

POOLS = account.CLUSTER_ID + "/agentPools"

GPU = "Standard_NC24ads_A100_v4"

TIMINGS = Timings(boot=0.1, gpu=0.02, lost_node_removal=0.0)


class Credential:
    """What Azure's SDK asks for a token."""

    def __init__(self, token: str = TOKEN) -> None:
        self.token = token

    def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        return AccessToken(self.token, 2**40)


class AsyncCredential(Credential):
    async def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        return AccessToken(self.token, 2**40)

    async def close(self) -> None: ...


@dataclass
class Answer:
    status: int
    headers: Any
    body: Any


@dataclass
class Azure:
    """A running endpoint. `call` speaks plain HTTP over TLS; `sdk` and `aio` are Microsoft's clients."""

    url: str
    authority: Path
    cluster: Cluster
    state: ArmState
    faults: Faults
    ledger: Ledger
    controller: AgentPoolController

    def sdk(self, token: str = TOKEN, **options: Any) -> ContainerServiceClient:
        return ContainerServiceClient(Credential(token), account.SUBSCRIPTION, **self._options(options))

    def aio(self, **options: Any) -> AsyncContainerServiceClient:
        return AsyncContainerServiceClient(AsyncCredential(), account.SUBSCRIPTION, **self._options(options))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        verify = {"base_url": self.url, "connection_verify": str(self.authority), "retry_total": 0}
        return {
            **verify,
            "polling_interval": 0.05,
            "credential_scopes": ["https://management/.default"],
            **options,
        }

    async def call(
        self, method: str, path: str, body: Any = None, headers: Any = None, version: str | None = VERSION
    ) -> Answer:
        url = path if path.startswith("https") else self.url + path
        query = {} if version is None or "api-version" in url else {"api-version": version}
        sent = {"Authorization": f"Bearer {TOKEN}", **(headers or {})}
        trust = ssl.create_default_context(cafile=str(self.authority))
        async with aiohttp.ClientSession() as session:
            data = {"data": body} if isinstance(body, str) else {"json": body}
            async with session.request(
                method, url, params=query, headers={k: v for k, v in sent.items() if v}, ssl=trust, **data
            ) as answer:
                text = await answer.text()
                read = await answer.json() if text else None
                return Answer(answer.status, answer.headers, read)

    async def put(self, name: str = "wsgpu", headers: Any = None, **properties: Any) -> Answer:
        return await self.call(
            "PUT", f"{POOLS}/{name}", {"properties": {"vmSize": GPU, **properties}}, headers
        )

    async def until(self, check: Any, what: str) -> Any:
        async with asyncio.timeout(20):
            while not (found := check()):
                await asyncio.sleep(0.01)
        return found

    async def settled(self, name: str = "wsgpu") -> str:
        """Wait until no operation runs; the pool's state."""
        await self.until(lambda: self.state.busy() is None, f"{name} settles")
        pool = self.state.pools.get(name)
        return pool.state if pool else "gone"

    async def nodes(self) -> list[dict[str, Any]]:
        return (await self.cluster.list("nodes"))[0]


@asynccontextmanager
async def running(folder: Path, cluster: Cluster, faults: Faults) -> AsyncIterator[Azure]:
    tls = certificates.ensure(folder / "certificates")
    feeds, ledger = Feeds(cluster), Ledger(folder / "ledger.jsonl")
    state = ArmState(folder / "arm.json")
    controller = AgentPoolController(cluster, feeds, faults, ledger, TIMINGS, state)
    runner = await server.serve(
        "127.0.0.1", 0, tls, TOKEN, state, faults, lambda pool: controller.enqueue(("", pool))
    )
    work = [asyncio.create_task(feeds.run()), asyncio.create_task(controller.run())]
    try:
        url = f"https://127.0.0.1:{bound_port(runner)}"
        yield Azure(url, tls.ca, cluster, state, faults, ledger, controller)
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await runner.cleanup()
