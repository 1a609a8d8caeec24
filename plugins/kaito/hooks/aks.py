"""AKS agent pools through Azure's own SDK, on an Airflow connection of type `azure`: one hook, blocking and asyncio.

Both classes are only transports: what is asked, and how an answer is read, is in ``kaito.hooks.aks_calls``, once.
Nothing here may log a token or a secret.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
from airflow.providers.microsoft.azure.hooks.base_azure import AzureBaseHook

from include.pools.azure_offer import Wanted
from kaito.hooks.aks_calls import AgentPoolCalls, Answer, Pool, as_dict
from kaito.hooks.azure_account import (
    AksAccount,
    AksError,
    ConnectionIncomplete,
    async_credential,
    credential,
)
from kaito.hooks.cluster_calls import run

if TYPE_CHECKING:
    from azure.mgmt.containerservice import ContainerServiceClient
    from azure.mgmt.containerservice.aio import ContainerServiceClient as AsyncContainerServiceClient

DEFAULT_CONNECTION = "azure_default"


class AksHook(AzureBaseHook):
    """Blocking access for tasks: the calls of :class:`AgentPoolCalls`, each answered before it returns.

    :param azure_conn_id: a connection of type ``azure``. Extras beyond the provider's own: ``resourceGroup``,
        ``clusterName``; for a sandbox or a proxy ``base_url``, ``ca_file`` and ``token_file``.
    :param sleep: waits that many seconds; tests replace it.
    """

    conn_name_attr = "azure_conn_id"
    default_conn_name = DEFAULT_CONNECTION
    conn_type = "azure"
    hook_name = "Azure Kubernetes Service"

    def __init__(
        self, azure_conn_id: str = DEFAULT_CONNECTION, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__(conn_id=azure_conn_id)
        self.wait = sleep

    @cached_property
    def calls(self) -> AgentPoolCalls:
        """The calls over this hook's connection, for ``run``."""
        return _BlockingCalls(self)

    @cached_property
    def account(self) -> AksAccount:
        conn = self.get_connection(self.conn_id)
        return AksAccount.from_connection(self.conn_id, conn, conn.extra_dejson)

    @cached_property
    def connection(self) -> ContainerServiceClient:
        return self.get_conn()

    def get_conn(self) -> ContainerServiceClient:
        """Return the client; built here because AzureBaseHook passes a keyword that this SDK does not know."""
        from azure.mgmt.containerservice import ContainerServiceClient

        account = self.account
        return ContainerServiceClient(credential(account), account.subscription, **account.options())

    def test_connection(self) -> tuple[bool, str]:
        """Read the cluster; the sentence goes to Airflow's connection form."""
        try:
            shown = as_dict(run(self.calls.cluster()))
        except (AksError, ConnectionIncomplete, OSError) as error:
            return False, str(error)
        state = shown.get("properties", {}).get("provisioningState")
        return True, f"AKS cluster {shown.get('name')} in {shown.get('location')} is {state}."

    def find(self, name: str) -> Pool | None:
        return run(self.calls.find(name))

    def list_pools(self) -> list[Pool]:
        return run(self.calls.list_pools())

    def offers_faults(self, wanted: Sequence[Wanted]) -> list[list[str]]:
        return run(self.calls.offers_faults(wanted))

    def begin_create(self, body: Mapping[str, Any], *, timeout: float = 600) -> tuple[Pool, bool]:
        return run(self.calls.begin_create(body, timeout=timeout))

    def begin_update(self, body: Mapping[str, Any], *, etag: str, timeout: float = 600) -> Pool:
        return run(self.calls.begin_update(body, etag=etag, timeout=timeout))

    def begin_delete(self, name: str, *, etag: str | None = None, timeout: float = 600) -> bool:
        return run(self.calls.begin_delete(name, etag=etag, timeout=timeout))

    def abort(self, name: str) -> None:
        run(self.calls.abort(name))


class _BlockingCalls(AgentPoolCalls):
    """The calls over the blocking client: none of them ever waits for an event loop."""

    blocking = True

    def __init__(self, hook: AksHook) -> None:
        super().__init__(hook.conn_id)
        self.hook = hook

    async def account(self) -> AksAccount:
        return self.hook.account

    async def client(self) -> Answer:
        return self.hook.connection

    async def compute_client(self) -> Answer:
        from azure.mgmt.compute import ComputeManagementClient

        account = self.hook.account
        return ComputeManagementClient(credential(account), account.subscription, **account.options())

    async def value(self, answer: Answer) -> Answer:
        return answer

    async def items(self, paged: Answer) -> Iterable[Answer]:
        return list(paged)

    async def sleep(self, seconds: float) -> None:
        self.hook.wait(seconds)


class AsyncAksHook(AgentPoolCalls):
    """The same access for triggers and for the reconciler, which must never block their event loop. To be closed."""

    _account: AksAccount | None = None
    _client: AsyncContainerServiceClient | None = None
    _credential: Any = None

    async def account(self) -> AksAccount:
        if self._account is None:
            conn = await get_async_connection(self.conn_id)
            extra = await get_async_extra_dejson(conn)
            self._account = AksAccount.from_connection(self.conn_id, conn, extra)
        return self._account

    async def client(self) -> Answer:
        from azure.mgmt.containerservice.aio import ContainerServiceClient

        if self._client is None:
            account = await self.account()
            self._client = ContainerServiceClient(
                self._signed_in(account), account.subscription, **account.options()
            )
        return self._client

    async def compute_client(self) -> Answer:
        from azure.mgmt.compute.aio import ComputeManagementClient

        account = await self.account()
        return ComputeManagementClient(self._signed_in(account), account.subscription, **account.options())

    def _signed_in(self, account: AksAccount) -> Any:
        if self._credential is None:
            self._credential = async_credential(account)
        return self._credential

    async def value(self, answer: Answer) -> Answer:
        return await answer

    async def items(self, paged: Answer) -> Iterable[Answer]:
        return [item async for item in paged]

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
        if self._credential is not None:
            await self._credential.close()
        self._client = self._credential = None
