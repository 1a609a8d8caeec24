"""What is asked of a cluster, written once: reads, get-or-create, guarded deletion, the fenced status write.

A transport sends the requests. Over asyncio the calls are coroutines for triggers and the reconciler. Over the blocking
hook each request is answered before its coroutine goes on, so `run` drives one to its end without an event loop, in a
task as well as inside a loop that runs (which then waits, as for any blocking call).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, ClassVar, TypeVar

from include.workspace.status import conditions
from kaito.hooks import api
from kaito.hooks.api import ClusterError, Kind, Labels, Request
from kaito.hooks.ownership import Steps, after_error, applying, getting_or_creating
from kaito.hooks.workspace_status import request as status_request
from kaito.hooks.workspace_status import was_applied, what_is_left

Object = dict[str, Any]
#: Without the builtin's name, which is a method's here.
Objects = list[Object]
Status = dict[str, Any]
NextStatus = Callable[[Object], Status | None]
T = TypeVar("T")

STATUS_ATTEMPTS = 8


class StaleWorkspace(RuntimeError):
    """The Workspace has moved on: it is going or gone, made anew, or has a newer generation than this run serves."""


def run(call: Coroutine[Any, Any, T]) -> T:
    """Return what a call over a blocking transport returns.

    :raises RuntimeError: it waits for an event loop, which a blocking transport never does.
    """
    try:
        call.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    call.close()
    raise RuntimeError("This call waits for an event loop: await it, or make it over a blocking hook.")


async def in_turn(*calls: Coroutine[Any, Any, T]) -> list[T]:
    """Return the results of calls that are made one after the other; where one fails, those after it are not made."""
    try:
        return [await call for call in calls]
    finally:
        for call in calls:
            call.close()


def fence(
    live: dict[str, Any] | None,
    name: str,
    uid: str,
    generation: int,
    *,
    even_deleting: bool = False,
    begins: bool = False,
) -> dict[str, Any]:
    """Return the live Workspace if it still is the one that this run was started for, else raise StaleWorkspace.

    :param even_deleting: for what serves the deletion itself. The API server counts a deletion as a new generation.
    :param begins: for the initial status of a run, which may go on where an earlier one was stopped for its budget.
    """
    if live is None:
        raise StaleWorkspace(f"Workspace {name} was deleted; this run serves an object that is gone.")
    metadata = live["metadata"]
    if uid and metadata.get("uid") != uid:
        raise StaleWorkspace(f"Workspace {name} was deleted and made again; this run serves the earlier one.")
    if metadata.get("deletionTimestamp"):
        if even_deleting:
            return live
        raise StaleWorkspace(f"Workspace {name} is being deleted: this run ends here, and its machines go.")
    seen = int(metadata.get("generation") or 0)
    if seen > generation:
        raise StaleWorkspace(
            f"Workspace {name} was edited: this run serves generation {generation}, "
            f"which is superseded by generation {seen}."
        )
    workspace_ready = conditions.condition(live.get("status"), conditions.ConditionType.WORKSPACE_READY) or {}
    stopped = workspace_ready.get("reason") == conditions.Reason.BUDGET_EXCEEDED
    if stopped and workspace_ready.get("observedGeneration") == generation and not begins:
        raise StaleWorkspace(f"Workspace {name} is stopped: {workspace_ready.get('message')}")
    return live


class ClusterCalls(ABC):
    """The calls; a transport gives :meth:`send`, :meth:`sleep` and :meth:`together`.

    :cvar blocking: whether each is answered before it returns, so that there need be no event loop.
    """

    blocking: ClassVar[bool] = False

    @abstractmethod
    async def send(self, request: Request) -> Any:
        """Send one request, trying again on throttling, server errors and broken connections.

        :raises ClusterError: the cluster refused it, or does not answer (status 0).
        """

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait."""

    @abstractmethod
    async def together(self, *calls: Coroutine[Any, Any, T]) -> list[T]:
        """Return the results of several calls, at once where the transport can."""

    async def find(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """Return one object, or None when there is none of that name."""
        try:
            result: Object = await self.send(api.get(kind, name, namespace))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise
        return result

    async def list(
        self, kind: Kind, namespace: str | None = None, labels: Labels | None = None, fields: str = ""
    ) -> Objects:
        """Return the objects of ``kind`` that match, in all namespaces when none is named."""
        return (await self.send(api.listing(kind, namespace, labels, fields))).get("items") or []

    async def events(self, namespace: str, name: str) -> Objects:
        """Return the events about one object."""
        return await self.list(api.EVENT, namespace, fields=f"involvedObject.name={name}")

    async def may(self, verb: str, kind: Kind) -> bool:
        """Return whether this connection's account has a right, as the API server says (nothing is done)."""
        review = await self.send(api.access_review(verb, kind))
        return bool((review.get("status") or {}).get("allowed"))

    async def _drive(self, steps: Steps) -> Any:
        """Send the requests of a sequence, one after the other, and return what it ends with."""
        move: Callable[[], Request] = partial(next, steps)
        while True:
            try:
                request = move()
            except StopIteration as end:
                return end.value
            try:
                move = partial(steps.send, await self.send(request))
            except ClusterError as error:
                move = after_error(steps, request, error)

    async def apply(self, kind: Kind, manifest: Mapping[str, Any], *, force: bool = True) -> Object:
        """Make the object look like ``manifest`` by server-side apply; returns it as the cluster has it now.

        :raises ForeignObject: it belongs to somebody else.
        """
        applied: Object = await self._drive(applying(kind, manifest, force=force))
        return applied

    async def get_or_create(self, kind: Kind, manifest: Mapping[str, Any]) -> tuple[Object, bool]:
        """Return the object of that name and whether this call made it.

        :raises ForeignObject: it belongs to somebody else.
        """
        result: tuple[Object, bool] = await self._drive(getting_or_creating(kind, manifest))
        return result

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        uid: str | None = None,
        version: str | None = None,
        grace_seconds: int | None = None,
    ) -> bool:
        """Ask for one object's deletion; returns False when there was nothing to delete.

        :param uid: delete only this object, not a newer one of its name.
        :param version: delete it only as it was seen at this resourceVersion.
        :param grace_seconds: what a pod has to end in; 0 only where nothing of it can run any more.
        """
        try:
            await self.send(api.delete(kind, name, namespace, uid, version, grace_seconds))
        except ClusterError as error:
            if error.status == 404:
                return False
            if error.status == 409 and uid:  # not the object that was meant: not ours to delete
                return False
            raise
        return True

    async def delete_and_wait(
        self, kind: Kind, name: str, namespace: str | None = None, *, timeout: float = 60, poll: float = 0.3
    ) -> None:
        """Delete one object and return when it is gone, finalizers included. Raises TimeoutError, in seconds."""
        await self.delete(kind, name, namespace)
        deadline = time.monotonic() + timeout
        while (live := await self.find(kind, name, namespace)) is not None:
            if time.monotonic() > deadline:
                held_by = ", ".join(live["metadata"].get("finalizers") or []) or "nothing"
                raise TimeoutError(
                    f"{kind.name} {name} is still there {timeout:.0f} s after its deletion (finalizers: {held_by})."
                )
            await self.sleep(poll)

    async def patch_status(
        self,
        name: str,
        namespace: str,
        next_status: NextStatus,
        *,
        uid: str,
        generation: int,
        even_deleting: bool = False,
        begins: bool = False,
    ) -> Object | None:
        """Write the Workspace's status, fenced by ``uid`` and ``generation``.

        :param next_status: gets the live Workspace, returns its new status (None: nothing to write).
        :param even_deleting: as :func:`fence` takes it, and so is ``begins``.
        :raises StaleWorkspace: a newer generation has been seen, or the Workspace is gone.
        """
        for _ in range(STATUS_ATTEMPTS):
            found = await self.find(api.WORKSPACE, name, namespace)
            live = fence(found, name, uid, generation, even_deleting=even_deleting, begins=begins)
            status = next_status(live)
            if status is None or status == live.get("status"):
                return live
            try:
                applied = was_applied(live)
                written: Object = await self.send(status_request(live, status, by_apply=applied))
                rest = what_is_left(written, status) if applied else None
                return await self.send(rest) if rest else written
            except ClusterError as error:
                if error.status != 409:
                    raise
        raise ClusterError(409, "Conflict", f"Workspace {name}: somebody else keeps writing its status.")

    async def post_to_service(
        self,
        service: str,
        namespace: str,
        path: str,
        body: Mapping[str, Any],
        *,
        port: int,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """POST JSON to a Service through the API server and return its JSON answer."""
        made = api.service_post(service, namespace, path, body, port=port, timeout=timeout, headers=headers)
        return await self.send(made)

    async def get_from_service(
        self,
        service: str,
        namespace: str,
        path: str,
        *,
        port: int,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """GET from a Service through the API server and return its JSON answer."""
        made = api.service_get(service, namespace, path, port=port, timeout=timeout, headers=headers)
        return await self.send(made)
