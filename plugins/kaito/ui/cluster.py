"""The cluster as pages read it: with a deadline, and once for all pages that ask within some seconds.

A list of a thousand Workspaces takes a tenth of a second of CPU; however many pages are open, it is read once in
`FRESH_SECONDS`. Every failure comes out as a Problem.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from airflow.exceptions import AirflowException

from include.reconcile.case import SERVING
from include.workspace.api import names
from kaito.controller.service_probe import requests_of
from kaito.hooks import api
from kaito.hooks.api import POD, WORKSPACE, ClusterError, Kind, Request
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.settings import connection_id
from kaito.ui.connection import Connection
from kaito.ui.problems import Problem, of_cluster, unreachable

log = logging.getLogger(__name__)

Object = dict[str, Any]
T = TypeVar("T")

#: How long a list may be shown again, and how long a page waits for a cluster, in seconds.
FRESH_SECONDS = 5.0
DEADLINE_SECONDS = 12.0


def new_hook() -> AsyncKaitoClusterHook:
    """Return access to the cluster over the connection of the installation."""
    return AsyncKaitoClusterHook(conn_id=connection_id())


class Cluster:
    """What pages ask of the cluster.

    :param hook: makes the access; tests give their own.
    """

    def __init__(self, hook: Callable[[], AsyncKaitoClusterHook] = new_hook) -> None:
        self._connection = Connection(hook)
        self._fleet: list[Object] = []
        self._read = -FRESH_SECONDS
        self._reading: asyncio.Task[list[Object]] | None = None

    async def fleet(self) -> list[Object]:
        """Return all Workspaces of the cluster, not older than `FRESH_SECONDS`.

        :raises Problem: the cluster does not answer, refuses, or knows no Workspaces.
        """
        if time.monotonic() - self._read < FRESH_SECONDS:
            return self._fleet
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._list())
        return await asyncio.shield(self._reading)

    def forget(self) -> None:
        """Read anew at the next look: something was changed."""
        self._read = -FRESH_SECONDS
        self._reading = None

    async def _list(self) -> list[Object]:
        async def read(hook: AsyncKaitoClusterHook) -> list[Object]:
            return [one async for page, _ in hook.pages(WORKSPACE) for one in page]

        result = await self._ask(read, listing=True)
        self._fleet, self._read = result, time.monotonic()
        return result

    async def workspace(self, namespace: str, name: str) -> Object:
        """Return one Workspace as it is now.

        :raises Problem: there is none, or the cluster cannot be asked.
        """
        live: Object | None = await self._ask(lambda hook: hook.find(WORKSPACE, name, namespace))
        if live is None:
            raise of_cluster(ClusterError(404, "NotFound", ""))
        return live

    async def events(self, namespace: str, name: str) -> list[Object]:
        """Return the Events about a Workspace; none where they may not be read."""
        try:
            return await self._ask(lambda hook: _events(hook, namespace, name))
        except Problem as problem:
            log.warning("The Events of Workspace %s could not be read: %s", name, problem.sentence)
            return []

    async def answered(self, services: Iterable[tuple[str, str]]) -> AsyncIterator[dict[str, float]]:
        """Yield for each service, one after the other, the requests that its servers have answered, by pods' uids.

        :param services: namespaces and names of Workspaces. One of which a server is silent gives {}.
        :raises Problem: the cluster cannot be asked.
        """
        with self._as_problems(DEADLINE_SECONDS):
            for namespace, name in services:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    found = await _answered(await self._connection.hook(), namespace, name)
                yield found

    async def annotate(self, live: Mapping[str, Any], annotations: Mapping[str, str | None]) -> None:
        """Change annotations of the very object that was looked at.

        :raises Problem: it is another one by now, or the cluster refuses.
        """
        meta = live["metadata"]
        body = {"metadata": {"uid": meta["uid"], "annotations": dict(annotations)}}
        request = api.merge_patch(WORKSPACE, meta["name"], meta["namespace"], body)
        await self._ask(lambda hook: hook.send(request))
        self.forget()

    async def delete(self, live: Mapping[str, Any]) -> None:
        """Ask for the deletion of the very object that was looked at."""
        meta = live["metadata"]
        await self._ask(lambda hook: hook.delete(WORKSPACE, meta["name"], meta["namespace"], uid=meta["uid"]))
        self.forget()

    async def create(self, document: Mapping[str, Any]) -> Object:
        """Make a Workspace.

        :raises Problem: there is one of this name, or the cluster refuses it.
        """
        kind = api.workspace_kind(str(document.get("apiVersion") or ""))
        try:
            made: Object = await self._ask(lambda hook: hook.send(api.create(kind, document)))
        except Problem as problem:
            if problem.status != 409:
                raise
            meta = document["metadata"]
            message = f"There is a Workspace {meta['name']} in namespace {meta.get('namespace')} already."
            raise Problem(
                409, message, "Give the new one another name, or edit the present one with kubectl."
            ) from None
        self.forget()
        return made

    async def find(self, kind: Kind, name: str, namespace: str) -> Object | None:
        """Return one object, None where there is none."""
        live: Object | None = await self._ask(lambda hook: hook.find(kind, name, namespace))
        return live

    async def send(self, request: Request, seconds: float) -> Any:
        """Send one request that may take so long."""
        return await self._ask(lambda hook: hook.send(request), seconds=seconds)

    async def lines(self, request: Request, seconds: float) -> AsyncIterator[str]:
        """Send one request and yield the lines of its answer as they come; all of it may take so long.

        :raises Problem: the cluster cannot be asked, refuses, or takes longer.
        """
        with self._as_problems(seconds):
            async with asyncio.timeout(seconds):
                async with (await self._connection.hook()).stream(request) as response:
                    async for line in response.content:
                        yield line.decode(errors="replace").rstrip("\r\n")

    async def _ask(
        self,
        call: Callable[[AsyncKaitoClusterHook], Awaitable[T]],
        *,
        listing: bool = False,
        seconds: float | None = None,
    ) -> T:
        seconds = seconds or DEADLINE_SECONDS
        with self._as_problems(seconds, listing=listing):
            async with asyncio.timeout(seconds):
                return await call(await self._connection.hook())

    @contextmanager
    def _as_problems(self, seconds: float, *, listing: bool = False) -> Iterator[None]:
        """Let every failure of the cluster come out as a Problem; what may be one of the connection opens another."""
        try:
            yield
        except ClusterError as error:
            if error.status in (0, 401):
                self._connection.forget()
            raise of_cluster(error, listing=listing) from None
        except TimeoutError:
            self._connection.forget()
            raise unreachable(f"no answer in {seconds:.0f} seconds.") from None
        except (AirflowException, OSError, ValueError, RuntimeError) as error:
            self._connection.forget()
            log.warning("The cluster cannot be asked.", exc_info=True)
            raise unreachable(f"{type(error).__name__}: {error}") from None
        except Exception as error:
            if not type(error).__module__.startswith("kubernetes_asyncio"):
                raise
            self._connection.forget()
            raise unreachable(str(error)) from None


async def _events(hook: AsyncKaitoClusterHook, namespace: str, name: str) -> list[Object]:
    return (await hook.send(api.events_of(namespace, name))).get("items") or []


async def _answered(hook: AsyncKaitoClusterHook, namespace: str, name: str) -> dict[str, float]:
    labels = {names.WORKSPACE: name, names.COMPONENT: SERVING}
    try:
        pods = (await hook.send(api.listing(POD, namespace, labels))).get("items") or []
        return await requests_of(hook, pods)
    except ClusterError as error:  # the next one may be asked nevertheless
        log.info("Service %s/%s does not tell how it is used: %s", namespace, name, error)
        return {}
