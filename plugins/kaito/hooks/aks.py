"""AKS agent pools through Azure's own SDK, on an Airflow connection of type `azure`.

Every operation can be taken up again after a crash: names are deterministic, so that asking for the pool's state is all
that resuming needs, and no poller is kept. Azure runs one operation on a cluster at a time and answers 409 to others;
who is refused waits by reading, then asks again. Nothing here may log a token or a secret, nor change a pool without
being told its name.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
from airflow.providers.microsoft.azure.hooks.base_azure import AzureBaseHook

from kaito.hooks.azure_account import (
    AksAccount,
    AksError,
    ConnectionIncomplete,
    async_credential,
    azure_errors,
    credential,
)
from kaito.providers.azure_offer import Wanted, offer_faults

if TYPE_CHECKING:
    from azure.mgmt.containerservice import ContainerServiceClient
    from azure.mgmt.containerservice.aio import ContainerServiceClient as AsyncContainerServiceClient

Pool = dict[str, Any]
T = TypeVar("T")

DEFAULT_CONNECTION = "azure_default"
#: States of a pool in which an operation runs on it, and thereby on the cluster.
BUSY_STATES = frozenset(
    {"Creating", "Updating", "Scaling", "Upgrading", "Deleting", "Canceling", "Starting", "Stopping"}
)
FIRST_WAIT, LONGEST_WAIT = 1.0, 15.0


def state_of(pool: Mapping[str, Any]) -> str:
    return str(pool.get("properties", {}).get("provisioningState") or "")


def _as_dict(pool: Any) -> Pool:
    """The SDK's model in the REST API's spelling."""
    found: Pool = pool.as_dict()
    return found


class AksHook(AzureBaseHook):
    """Agent pools of one AKS cluster, as dicts in the REST API's spelling.

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
        self._sleep = sleep
        self._async_client: AsyncContainerServiceClient | None = None
        self._async_credential: Any = None

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
            with azure_errors(self.conn_id):
                cluster = self.connection.managed_clusters.get(*self.account.place)
        except (AksError, ConnectionIncomplete, OSError) as error:
            return False, str(error)
        shown = cluster.as_dict()
        state = shown.get("properties", {}).get("provisioningState")
        return True, f"AKS cluster {shown.get('name')} in {shown.get('location')} is {state}."

    # --- reading --------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Pool | None:
        """Return one pool, or None when there is none of that name."""
        try:
            with azure_errors(self.conn_id):
                return _as_dict(self.connection.agent_pools.get(*self.account.place, name))
        except AksError as error:
            if error.no_such_pool:
                return None
            raise

    def list_pools(self) -> list[Pool]:
        """Return all agent pools of the cluster, foreign ones too."""
        with azure_errors(self.conn_id):
            return [_as_dict(pool) for pool in self.connection.agent_pools.list(*self.account.place)]

    def offer_faults(
        self, instance_type: str, count: int, *, zones: tuple[str, ...] = (), spot: bool = False
    ) -> list[str]:
        """Ask Azure, before anything is made, why it would refuse these machines; empty when it would not."""
        return self.offers_faults([Wanted(instance_type, count, "", zones, spot)])[0]

    def offers_faults(self, wanted: Sequence[Wanted]) -> list[list[str]]:
        """Ask as :meth:`offer_faults` about several choices at once; their location is the cluster's.

        Needs the rights Microsoft.Compute/skus/read and Microsoft.Compute/locations/usages/read on the subscription.
        """
        from azure.mgmt.compute import ComputeManagementClient

        account = self.account
        with azure_errors(self.conn_id):
            location = str(self.connection.managed_clusters.get(*account.place).location)
            options = {**account.options(), "base_url": account.base_url}
            with ComputeManagementClient(credential(account), account.subscription, **options) as compute:
                skus = [s.as_dict() for s in compute.resource_skus.list(filter=f"location eq '{location}'")]
                usages = [usage.as_dict() for usage in compute.usage.list(location)]
        return [offer_faults(replace(one, location=location), skus, usages) for one in wanted]

    # --- changing -------------------------------------------------------------------------------------------------

    def begin_create(self, body: Mapping[str, Any], *, timeout: float = 600) -> tuple[Pool, bool]:
        """Ask for a pool unless one of that name exists; returns it as it is, and whether this call asked.

        The pool is in state Creating then; its end is to be observed. Whose an existing pool is must be judged by
        the caller.

        :param timeout: seconds to wait while Azure is busy with another operation on the cluster.
        """
        from azure.core import MatchConditions

        name = str(body["name"])
        if (found := self.find(name)) is not None:
            return found, False
        try:
            return self._put(body, timeout, match_condition=MatchConditions.IfMissing), True
        except AksError as error:
            if not error.stale:
                raise
        found = self.find(name)  # somebody made it since we looked
        return (found, False) if found is not None else (self._put(body, timeout), True)

    def begin_update(self, body: Mapping[str, Any], *, etag: str, timeout: float = 600) -> Pool:
        """Change a pool that still is as read with ``etag``.

        :raises AksError: ``stale`` when it has changed.
        """
        from azure.core import MatchConditions

        return self._put(body, timeout, etag=etag, match_condition=MatchConditions.IfNotModified)

    def _put(self, body: Mapping[str, Any], timeout: float, **condition: Any) -> Pool:
        from azure.mgmt.containerservice.models import AgentPool

        pool, name = AgentPool({"properties": dict(body["properties"])}), str(body["name"])

        def send() -> Pool:
            pools = self.connection.agent_pools
            poller = pools.begin_create_or_update(*self.account.place, name, pool, polling=False, **condition)
            return _as_dict(poller.result())

        return self._when_idle(send, f"agent pool {name}", timeout)

    def begin_delete(self, name: str, *, etag: str | None = None, timeout: float = 600) -> bool:
        """Ask for a pool's deletion; returns False when there was nothing to delete.

        A creation that is still running is aborted first, because Azure deletes no pool in the middle of one.
        """
        from azure.core import MatchConditions

        condition = {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}
        found = self.find(name)
        if found is None:
            return False
        if state_of(found) == "Deleting":
            return True
        if state_of(found) in ("Creating", "Updating"):
            self.abort(name)
            condition = {}  # aborting has changed the eTag

        def send() -> None:
            self.connection.agent_pools.begin_delete(*self.account.place, name, polling=False, **condition)

        self._when_idle(send, f"the deletion of agent pool {name}", timeout)
        return True

    def abort(self, name: str) -> None:
        """Ask Azure to end what it is doing to a pool; fine when it has ended by itself."""
        try:
            with azure_errors(self.conn_id):
                self.connection.agent_pools.begin_abort_latest_operation(
                    *self.account.place, name, polling=False
                )
        except AksError as error:
            if error.status not in (404, 409):
                raise

    def _when_idle(self, send: Callable[[], T], what: str, timeout: float) -> T:
        """Send a change; while another operation is in the way, wait by reading, and send again."""
        deadline, wait = time.monotonic() + timeout, FIRST_WAIT
        while True:
            try:
                with azure_errors(self.conn_id):
                    return send()
            except AksError as error:
                if not error.busy or time.monotonic() >= deadline:
                    raise
                self.log.info("Azure is busy, %s waits: %s", what, error.message)
            self._await_idle(deadline, wait)
            wait = min(wait * 2, LONGEST_WAIT)  # the cluster itself may be busy, which its pools do not show

    def _await_idle(self, deadline: float, wait: float) -> None:
        """Return when no pool of the cluster is in the middle of an operation, or at the deadline."""
        while time.monotonic() < deadline:
            # Jitter, so that all who wait do not ask again in the same moment.
            self._sleep(min(wait * random.uniform(0.5, 1.5), max(0.0, deadline - time.monotonic())))  # noqa: S311
            if not any(state_of(pool) in BUSY_STATES for pool in self.list_pools()):
                return
            wait = min(wait * 1.5, LONGEST_WAIT)

    # --- asyncio --------------------------------------------------------------------------------------------------

    async def get_async_conn(self) -> AsyncContainerServiceClient:
        """Return the asyncio client, for triggers."""
        from azure.mgmt.containerservice.aio import ContainerServiceClient

        if self._async_client is None:
            conn = await get_async_connection(self.conn_id)
            extra = await get_async_extra_dejson(conn)
            # A blocking look at the connection would stop the event loop: from here on `account` is known.
            account = self.account = AksAccount.from_connection(self.conn_id, conn, extra)
            self._async_credential = async_credential(account)
            self._async_client = ContainerServiceClient(
                self._async_credential, account.subscription, **account.options()
            )
        return self._async_client

    async def async_list_pools(self) -> list[Pool]:
        """Return all agent pools of the cluster without blocking: the one question that triggers ask all the time."""
        client = await self.get_async_conn()
        with azure_errors(self.conn_id):
            return [_as_dict(pool) async for pool in client.agent_pools.list(*self.account.place)]

    async def close(self) -> None:
        """Close the asyncio client and its credential."""
        if self._async_client is not None:
            await self._async_client.close()
            await self._async_credential.close()
            self._async_client = self._async_credential = None

    async def __aenter__(self) -> AksHook:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
