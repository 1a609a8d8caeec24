"""The cluster as operators and triggers see it: one hook for every kind, synchronous and asyncio.

Both classes stand on the provider's hooks (connections, kubeconfig, TLS, token refresh come from there) and send the
requests of ``kaito.hooks.api``. Every create is get-or-create, every write carries our field manager, and a status
write is refused when a newer generation of the Workspace has been seen. Never logs a request body: a Workspace may
carry signed URLs.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook, KubernetesHook
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import (
    TRANSIENT_CONNECTION_ERRORS,
    generic_api_retry,
)
from kubernetes.client.exceptions import ApiException as SyncApiException
from kubernetes_asyncio.client.exceptions import ApiException as AsyncApiException

from include.workspace.status import conditions
from kaito.hooks import api
from kaito.hooks.api import ClusterError, Kind, Labels, Request
from kaito.hooks.ownership import Steps, after_error, applying, getting_or_creating
from kaito.hooks.workspace_status import request as status_request
from kaito.hooks.workspace_status import was_applied, what_is_left

Status = dict[str, Any]
NextStatus = Callable[[dict[str, Any]], Status | None]

STATUS_ATTEMPTS = 8
#: Objects of the first page of a list, and the bytes that later pages aim at: parsing one must not stop an event loop.
PAGE = 100
PAGE_BYTES = 2_000_000


class StaleWorkspace(RuntimeError):
    """The Workspace has moved on: it is going or gone, made anew, or has a newer generation than this run serves."""


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
    told = conditions.condition(live.get("status"), conditions.ConditionType.WORKSPACE_READY) or {}
    stopped = told.get("reason") == conditions.Reason.BUDGET_EXCEEDED
    if stopped and told.get("observedGeneration") == generation and not begins:
        raise StaleWorkspace(f"Workspace {name} is stopped: {told.get('message')}")
    return live


def _refusal(response: Any, text: str) -> ClusterError:
    error = ClusterError.from_response(response.status, response.reason, text)
    after = response.headers.get("Retry-After") or ""
    error.retry_after = float(after) if after.isdigit() else 0.0
    return error


class KaitoClusterHook(KubernetesHook):
    """Synchronous access to any kind of object."""

    def send(self, request: Request) -> Any:
        """Send one request, trying again on throttling, server errors and broken connections."""
        try:
            return self._send(request)
        except SyncApiException as error:
            raise ClusterError.from_response(error.status, error.reason, error.body) from None
        except TRANSIENT_CONNECTION_ERRORS as error:
            raise ClusterError(
                0, "ConnectionFailed", f"The Kubernetes API did not answer: {error}"
            ) from error

    @generic_api_retry
    def _send(self, request: Request) -> Any:
        try:
            return self.api_client.call_api(**request.arguments())
        except SyncApiException as error:
            # 409 is an answer here (already exists, or somebody else wrote first), not a reason to wait.
            if error.status == 409:
                raise ClusterError.from_response(error.status, error.reason, error.body) from None
            raise

    def find(self, kind: Kind, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """Return one object, or None when there is none of that name."""
        try:
            return self.send(api.get(kind, name, namespace))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: str = "",
    ) -> list[dict[str, Any]]:
        """Return the objects of ``kind`` that match, in all namespaces when none is named."""
        return self.send(api.listing(kind, namespace, labels, fields)).get("items") or []

    def may(self, verb: str, kind: Kind) -> bool:
        """Return whether this connection's account has a right, as the API server says (nothing is done)."""
        review = self.send(api.access_review(verb, kind))
        return bool((review.get("status") or {}).get("allowed"))

    def _drive(self, steps: Steps) -> Any:
        """Send the requests of a sequence, one after the other, and return what it ends with."""
        move = partial(next, steps)
        while True:
            try:
                request = move()
            except StopIteration as end:
                return end.value
            try:
                move = partial(steps.send, self.send(request))
            except ClusterError as error:
                move = after_error(steps, request, error)

    def apply(self, kind: Kind, manifest: Mapping[str, Any], *, force: bool = True) -> dict[str, Any]:
        """Make the object look like ``manifest`` by server-side apply; returns it as the cluster has it now.

        :raises ForeignObject: it belongs to somebody else.
        """
        made: dict[str, Any] = self._drive(applying(kind, manifest, force=force))
        return made

    def get_or_create(self, kind: Kind, manifest: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Return the object of that name and whether this call made it.

        :raises ForeignObject: it belongs to somebody else.
        """
        found: tuple[dict[str, Any], bool] = self._drive(getting_or_creating(kind, manifest))
        return found

    def delete(
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
            self.send(api.delete(kind, name, namespace, uid, version, grace_seconds))
        except ClusterError as error:
            if error.status == 404:
                return False
            if error.status == 409 and uid:  # not the object that was meant: not ours to delete
                return False
            raise
        return True

    def delete_and_wait(
        self, kind: Kind, name: str, namespace: str | None = None, *, timeout: float = 60, poll: float = 0.3
    ) -> None:
        """Delete one object and return when it is gone, finalizers included. Raises TimeoutError, in seconds."""
        self.delete(kind, name, namespace)
        deadline = time.monotonic() + timeout
        while (live := self.find(kind, name, namespace)) is not None:
            if time.monotonic() > deadline:
                held_by = ", ".join(live["metadata"].get("finalizers") or []) or "nothing"
                raise TimeoutError(
                    f"{kind.name} {name} is still there {timeout:.0f} s after its deletion (finalizers: {held_by})."
                )
            time.sleep(poll)

    def patch_status(
        self,
        name: str,
        namespace: str,
        next_status: NextStatus,
        *,
        uid: str,
        generation: int,
        even_deleting: bool = False,
        begins: bool = False,
    ) -> dict[str, Any] | None:
        """Write the Workspace's status, fenced by ``uid`` and ``generation``.

        :param next_status: gets the live Workspace, returns its new status (None: nothing to write).
        :param even_deleting: as :func:`fence` takes it, and so is ``begins``.
        :raises StaleWorkspace: a newer generation has been seen, or the Workspace is gone.
        """
        for _ in range(STATUS_ATTEMPTS):
            found = self.find(api.WORKSPACE, name, namespace)
            live = fence(found, name, uid, generation, even_deleting=even_deleting, begins=begins)
            status = next_status(live)
            if status is None or status == live.get("status"):
                return live
            try:
                applied = was_applied(live)
                written = self.send(status_request(live, status, by_apply=applied))
                rest = what_is_left(written, status) if applied else None
                return self.send(rest) if rest else written
            except ClusterError as error:
                if error.status != 409:
                    raise
        raise ClusterError(409, "Conflict", f"Workspace {name}: somebody else keeps writing its status.")

    def events(self, namespace: str, name: str) -> list[dict[str, Any]]:
        """Return the events about one object."""
        return self.send(api.events_of(namespace, name)).get("items") or []

    def post_to_service(
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
        return self.send(
            api.service_post(service, namespace, path, body, port=port, timeout=timeout, headers=headers)
        )


class AsyncKaitoClusterHook(AsyncKubernetesHook):
    """The same access for triggers and for the reconciler, which must never block their event loop."""

    #: The client of :meth:`connected`; without one, each request makes its own.
    _client: Any = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Self]:
        """Keep one client, and with it the connections to the API server, for many requests."""
        async with self.get_conn() as client:
            self._client = client
            try:
                yield self
            finally:
                self._client = None

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if self._client is not None:
            yield self._client
            return
        async with self.get_conn() as client:
            yield client

    async def send(self, request: Request) -> Any:
        try:
            return await self._send(request)
        except AsyncApiException as error:
            raise ClusterError.from_response(error.status, error.reason, error.body) from None
        except (TimeoutError, *TRANSIENT_CONNECTION_ERRORS) as error:
            raise ClusterError(
                0, "ConnectionFailed", f"The Kubernetes API did not answer: {error}"
            ) from error

    @generic_api_retry
    async def _send(self, request: Request) -> Any:
        async with self._connection() as client:
            try:
                return await client.call_api(**request.arguments())
            except AsyncApiException as error:
                if error.status == 409:
                    raise ClusterError.from_response(error.status, error.reason, error.body) from None
                raise

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """Send one request and give its answer unread, as aiohttp's response; one try."""
        try:
            async with self._connection() as client:
                response = await client.call_api(**request.arguments(), _preload_content=False)
                try:
                    if response.status != 200:
                        raise _refusal(response, await response.text())
                    yield response
                finally:
                    response.close()
        except (TimeoutError, OSError, *TRANSIENT_CONNECTION_ERRORS) as error:
            raise ClusterError(0, "ConnectionFailed", str(error) or type(error).__name__) from error

    async def find(self, kind: Kind, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        try:
            return await self.send(api.get(kind, name, namespace))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: str = "",
    ) -> list[dict[str, Any]]:
        return (await self.send(api.listing(kind, namespace, labels, fields))).get("items") or []

    async def _drive(self, steps: Steps) -> Any:
        """As :meth:`KaitoClusterHook._drive`."""
        move = partial(next, steps)
        while True:
            try:
                request = move()
            except StopIteration as end:
                return end.value
            try:
                move = partial(steps.send, await self.send(request))
            except ClusterError as error:
                move = after_error(steps, request, error)

    async def apply(self, kind: Kind, manifest: Mapping[str, Any], *, force: bool = True) -> dict[str, Any]:
        """As :meth:`KaitoClusterHook.apply`."""
        made: dict[str, Any] = await self._drive(applying(kind, manifest, force=force))
        return made

    async def get_or_create(self, kind: Kind, manifest: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """As :meth:`KaitoClusterHook.get_or_create`."""
        found: tuple[dict[str, Any], bool] = await self._drive(getting_or_creating(kind, manifest))
        return found

    async def pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        labels: Labels | None = None,
        *,
        metadata_only: bool = False,
    ) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
        """Yield a collection page by page, with the resourceVersion that all of it is of.

        The size of a page follows the size of its objects: one with a megabyte of annotations counts for many.
        """
        token, limit = "", PAGE
        while True:
            request = api.listing(
                kind, namespace, labels, limit=limit, token=token, metadata_only=metadata_only
            )
            text = await self._text(request)
            answer = json.loads(text)
            found = answer.get("items") or []
            yield found, answer["metadata"]["resourceVersion"]
            token = answer["metadata"].get("continue") or ""
            if not token:
                return
            limit = max(1, min(500, len(found) * PAGE_BYTES // max(len(text), 1)))

    @generic_api_retry
    async def _text_of(self, request: Request) -> bytes:
        async with self._connection() as client:
            response = await client.call_api(**request.arguments(), _preload_content=False)
            text: bytes = await response.read()
            if response.status != 200:
                error = AsyncApiException(status=response.status, reason=response.reason)
                error.body, error.headers = text.decode(errors="replace"), response.headers
                raise error
            return text

    async def _text(self, request: Request) -> bytes:
        try:
            return await self._text_of(request)
        except AsyncApiException as error:
            raise ClusterError.from_response(error.status, error.reason, error.body) from None
        except (TimeoutError, OSError, *TRANSIENT_CONNECTION_ERRORS) as error:
            raise ClusterError(
                0, "ConnectionFailed", f"The Kubernetes API did not answer: {error}"
            ) from error

    async def patch_status(
        self,
        name: str,
        namespace: str,
        next_status: NextStatus,
        *,
        uid: str,
        generation: int,
        even_deleting: bool = False,
    ) -> dict[str, Any] | None:
        """As :meth:`KaitoClusterHook.patch_status`."""
        for _ in range(STATUS_ATTEMPTS):
            found = await self.find(api.WORKSPACE, name, namespace)
            live = fence(found, name, uid, generation, even_deleting=even_deleting)
            status = next_status(live)
            if status is None or status == live.get("status"):
                return live
            try:
                applied = was_applied(live)
                written = await self.send(status_request(live, status, by_apply=applied))
                rest = what_is_left(written, status) if applied else None
                return await self.send(rest) if rest else written
            except ClusterError as error:
                if error.status != 409:
                    raise
        raise ClusterError(409, "Conflict", f"Workspace {name}: somebody else keeps writing its status.")
