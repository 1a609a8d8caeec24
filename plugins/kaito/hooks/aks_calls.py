"""What is asked of Azure about a cluster's agent pools, written once for tasks and for event loops.

Azure's SDK has two clients with the same methods: one answers, the other's answers are awaited. A transport says which
client, and how its answers are read. Over the blocking one no call ever waits for an event loop, so that
``cluster_calls.run`` drives it to its end.

Every operation can be taken up again after a crash: names are deterministic, so that asking for the pool's state is all
that resuming needs, and no poller is kept. Azure runs one operation on a cluster at a time and answers 409 to others;
who is refused waits by reading, then asks again. Nothing here may log a token or a secret, nor change a pool without
being told its name.
"""

from __future__ import annotations

import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from include.pools.azure_offer import Wanted, offer_faults
from kaito.hooks.azure_account import AksAccount, AksError, azure_errors

log = logging.getLogger(__name__)

Pool = dict[str, Any]
#: What a client's method gives: an answer, or with the asyncio client what has to be awaited for it.
Answer = Any
T = TypeVar("T")

#: States of a pool in which an operation runs on it, and thereby on the cluster.
BUSY_STATES = frozenset(
    {"Creating", "Updating", "Scaling", "Upgrading", "Deleting", "Canceling", "Starting", "Stopping"}
)
FIRST_WAIT, LONGEST_WAIT = 1.0, 15.0


def state_of(pool: Mapping[str, Any]) -> str:
    return str(pool.get("properties", {}).get("provisioningState") or "")


def as_dict(model: Answer) -> Pool:
    """Return the SDK's model in the REST API's spelling."""
    spelled: Pool = model.as_dict()
    return spelled


class AgentPoolCalls(ABC):
    """Agent pools of one AKS cluster, as dicts in the REST API's spelling; a transport gives the abstract methods.

    :cvar blocking: whether each call is answered before it returns, so that there need be no event loop.
    :param conn_id: the Airflow connection, for advice in errors.
    """

    blocking: ClassVar[bool] = False

    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id

    @abstractmethod
    async def account(self) -> AksAccount:
        """Return what the connection says. Raises ConnectionIncomplete."""

    @abstractmethod
    async def client(self) -> Answer:
        """Return the SDK's ContainerServiceClient."""

    @abstractmethod
    async def compute_client(self) -> Answer:
        """Return a new ComputeManagementClient of the SDK, for the caller to close."""

    @abstractmethod
    async def value(self, answer: Answer) -> Answer:
        """Return what one call of the client has answered."""

    @abstractmethod
    async def items(self, paged: Answer) -> Iterable[Answer]:
        """Return all items of a paged answer."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def close(self) -> None:  # noqa: B027 - a blocking client is kept for the life of the process
        """Close what was opened."""

    # --- reading --------------------------------------------------------------------------------------------------

    async def cluster(self) -> Answer:
        """Return the managed cluster, as the SDK's model."""
        client, account = await self.client(), await self.account()
        with azure_errors(self.conn_id):
            return await self.value(client.managed_clusters.get(*account.place))

    async def find(self, name: str) -> Pool | None:
        """Return one pool, or None when there is none of that name."""
        client, account = await self.client(), await self.account()
        try:
            with azure_errors(self.conn_id):
                return as_dict(await self.value(client.agent_pools.get(*account.place, name)))
        except AksError as error:
            if error.no_such_pool:
                return None
            raise

    async def list_pools(self) -> list[Pool]:
        """Return all agent pools of the cluster, foreign ones too."""
        client, account = await self.client(), await self.account()
        with azure_errors(self.conn_id):
            return [as_dict(pool) for pool in await self.items(client.agent_pools.list(*account.place))]

    async def offers_faults(self, wanted: Sequence[Wanted]) -> list[list[str]]:
        """Ask Azure, before anything is made, why it would refuse each of these choices; empty where it would not.

        Their location is the cluster's. Needs the rights Microsoft.Compute/skus/read and
        Microsoft.Compute/locations/usages/read on the subscription.
        """
        location = str((await self.cluster()).location)
        compute = await self.compute_client()
        try:
            with azure_errors(self.conn_id):
                listed = compute.resource_skus.list(filter=f"location eq '{location}'")
                skus = [as_dict(sku) for sku in await self.items(listed)]
                usages = [as_dict(usage) for usage in await self.items(compute.usage.list(location))]
        finally:
            await self.value(compute.close())
        return [offer_faults(replace(one, location=location), skus, usages) for one in wanted]

    # --- changing -------------------------------------------------------------------------------------------------

    async def begin_create(self, body: Mapping[str, Any], *, timeout: float = 600) -> tuple[Pool, bool]:
        """Ask for a pool unless one of that name exists; returns it as it is, and whether this call asked.

        The pool is in state Creating then; its end is to be observed. Whose an existing pool is must be judged by
        the caller.

        :param timeout: seconds to wait while Azure is busy with another operation on the cluster.
        """
        from azure.core import MatchConditions

        name = str(body["name"])
        if (there := await self.find(name)) is not None:
            return there, False
        try:
            return await self._put(body, timeout, match_condition=MatchConditions.IfMissing), True
        except AksError as error:
            if not error.stale:
                raise
        there = await self.find(name)  # somebody made it since we looked
        return (there, False) if there is not None else (await self._put(body, timeout), True)

    async def begin_update(self, body: Mapping[str, Any], *, etag: str, timeout: float = 600) -> Pool:
        """Change a pool that still is as read with ``etag``.

        :raises AksError: ``stale`` when it has changed.
        """
        from azure.core import MatchConditions

        return await self._put(body, timeout, etag=etag, match_condition=MatchConditions.IfNotModified)

    async def _put(self, body: Mapping[str, Any], timeout: float, **condition: Any) -> Pool:
        from azure.mgmt.containerservice.models import AgentPool

        client, account = await self.client(), await self.account()
        pool, name = AgentPool({"properties": dict(body["properties"])}), str(body["name"])

        async def send() -> Pool:
            asked = client.agent_pools.begin_create_or_update(
                *account.place, name, pool, polling=False, **condition
            )
            return as_dict(await self.value((await self.value(asked)).result()))

        return await self._when_idle(send, f"agent pool {name}", timeout)

    async def begin_delete(self, name: str, *, etag: str | None = None, timeout: float = 600) -> bool:
        """Ask for a pool's deletion; returns False when there was nothing to delete.

        A creation that is still running is aborted first, because Azure deletes no pool in the middle of one.
        """
        from azure.core import MatchConditions

        condition = {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}
        there = await self.find(name)
        if there is None:
            return False
        if state_of(there) == "Deleting":
            return True
        if state_of(there) in ("Creating", "Updating"):
            await self.abort(name)
            condition = {}  # aborting has changed the eTag
        client, account = await self.client(), await self.account()

        async def send() -> None:
            await self.value(
                client.agent_pools.begin_delete(*account.place, name, polling=False, **condition)
            )

        await self._when_idle(send, f"the deletion of agent pool {name}", timeout)
        return True

    async def abort(self, name: str) -> None:
        """Ask Azure to end what it is doing to a pool; fine when it has ended by itself."""
        client, account = await self.client(), await self.account()
        try:
            with azure_errors(self.conn_id):
                await self.value(
                    client.agent_pools.begin_abort_latest_operation(*account.place, name, polling=False)
                )
        except AksError as error:
            if error.status not in (404, 409):
                raise

    async def _when_idle(self, send: Callable[[], Awaitable[T]], what: str, timeout: float) -> T:
        """Send a change; while another operation is in the way, wait by reading, and send again."""
        deadline, wait = time.monotonic() + timeout, FIRST_WAIT
        while True:
            try:
                with azure_errors(self.conn_id):
                    return await send()
            except AksError as error:
                if not error.busy or time.monotonic() >= deadline:
                    raise
                log.info("Azure is busy, %s waits: %s", what, error.message)
            await self._await_idle(deadline, wait)
            wait = min(wait * 2, LONGEST_WAIT)  # the cluster itself may be busy, which its pools do not show

    async def _await_idle(self, deadline: float, wait: float) -> None:
        """Return when no pool of the cluster is in the middle of an operation, or at the deadline."""
        while time.monotonic() < deadline:
            # Jitter, so that all who wait do not ask again in the same moment.
            pause = min(wait * random.uniform(0.5, 1.5), max(0.0, deadline - time.monotonic()))  # noqa: S311
            await self.sleep(pause)
            if not any(state_of(pool) in BUSY_STATES for pool in await self.list_pools()):
                return
            wait = min(wait * 1.5, LONGEST_WAIT)
