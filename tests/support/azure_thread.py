"""The sandbox's Azure in a thread of its own, so that synchronous hooks can call it from a test."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kaito.hooks.api import Kind

from sandbox.api.cluster import ApiError, Cluster
from sandbox.arm import account
from sandbox.faults import Fault, Faults
from tests.support.azure_api import TOKEN, Azure, running


class AzureThread:
    """A running endpoint with its machines; `do` runs a coroutine in its loop."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.faults = Faults()
        self.folder = folder
        self.azure: Azure
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._run(),))

    async def _run(self) -> None:
        cluster = Cluster(None)
        async with running(self.folder, cluster, self.faults) as self.azure:
            self._ready.set()
            await self._stop.wait()
        cluster.close()

    def __enter__(self) -> AzureThread:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self.loop.close()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def break_(self, *arguments: Any, **more: Any) -> None:
        """Set a fault, in the loop that reads it."""

        async def set_() -> None:
            self.faults.set(Fault(*arguments, **more))

        self.do(set_())

    def mend(self) -> None:
        async def clear() -> None:
            self.faults.clear()

        self.do(clear())

    def settled(self, name: str) -> str:
        return str(self.do(self.azure.settled(name)))

    def put(self, name: str, **properties: Any) -> Any:
        return self.do(self.azure.put(name, **properties))

    @property
    def pools(self) -> Mapping[str, Any]:
        return self.azure.state.pools

    # what a provider asks a cluster hook

    def list(self, kind: Kind, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return list(self.do(self.azure.cluster.list(kind.plural))[0])

    def find(self, kind: Kind, name: str, *_: Any) -> dict[str, Any] | None:
        try:
            return dict(self.do(self.azure.cluster.get(kind.plural, name)))
        except ApiError:
            return None

    def connection(self, **extra: Any) -> str:
        """An Airflow connection to it, as the value of an environment variable."""
        token = self.folder / "token"
        token.write_text(TOKEN)
        found = {
            "subscriptionId": account.SUBSCRIPTION,
            "resourceGroup": account.GROUP,
            "clusterName": account.CLUSTER,
            "base_url": self.azure.url,
            "ca_file": str(self.azure.authority),
            "token_file": str(token),
            **extra,
        }
        return json.dumps({"conn_type": "azure", "extra": {k: v for k, v in found.items() if v is not None}})


@contextmanager
def azure_thread(folder: Path) -> Iterator[AzureThread]:
    with AzureThread(folder) as made:
        yield made
