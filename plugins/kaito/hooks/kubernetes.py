"""The cluster as operators and triggers see it: one hook for every kind, blocking and asyncio.

Both classes stand on the provider's hooks (connections, kubeconfig, TLS, token refresh come from there) and are only
transports: what is asked, and how an answer is read, is in ``kaito.hooks.cluster_calls``, once. Never logs a request
body: a Workspace may carry signed URLs.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Self

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook, KubernetesHook
from kubernetes.client.exceptions import ApiException as SyncApiException
from kubernetes_asyncio.client.exceptions import ApiException as AsyncApiException

from kaito.hooks import api
from kaito.hooks.api import ClusterError, Kind, Labels, Request
from kaito.hooks.cluster_calls import ClusterCalls as ClusterCalls
from kaito.hooks.cluster_calls import NextStatus as NextStatus
from kaito.hooks.cluster_calls import Object, Objects, T, in_turn
from kaito.hooks.cluster_calls import StaleWorkspace as StaleWorkspace
from kaito.hooks.cluster_calls import fence as fence
from kaito.hooks.cluster_calls import run as run
from kaito.hooks.retries import ASYNC_CONNECTION_ERRORS, CONNECTION_ERRORS, STREAM_ERRORS, retried

#: Objects of the first page of a list, and the bytes that later pages aim at: parsing one must not stop an event loop.
PAGE = 100
PAGE_BYTES = 2_000_000


def _refusal(response: Any, text: str) -> ClusterError:
    error = ClusterError.from_response(response.status, response.reason, text)
    after = response.headers.get("Retry-After") or ""
    error.retry_after = float(after) if after.isdigit() else 0.0
    return error


class KaitoClusterHook(KubernetesHook):
    """Blocking access for tasks: the same calls, each answered before it returns.

    What is written once over :class:`ClusterCalls` takes :attr:`calls`, and is driven by ``run``.
    """

    @cached_property
    def calls(self) -> ClusterCalls:
        """The calls over this hook's connection, for ``run``."""
        return _BlockingCalls(self)

    def send(self, request: Request) -> Any:
        """Send one request, trying again on throttling, server errors and broken connections."""
        try:
            return self._send(request)
        except SyncApiException as error:
            raise ClusterError.from_response(error.status, error.reason, error.body) from None
        except CONNECTION_ERRORS as error:
            raise ClusterError(
                0, "ConnectionFailed", f"The Kubernetes API did not answer: {error}"
            ) from error

    @retried
    def _send(self, request: Request) -> Any:
        try:
            return self.api_client.call_api(**request.arguments())
        except SyncApiException as error:
            # 409 is an answer here (already exists, or somebody else wrote first), not a reason to wait.
            if error.status == 409:
                raise ClusterError.from_response(error.status, error.reason, error.body) from None
            raise

    def find(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        return run(self.calls.find(kind, name, namespace))

    def list(
        self, kind: Kind, namespace: str | None = None, labels: Labels | None = None, fields: str = ""
    ) -> Objects:
        return run(self.calls.list(kind, namespace, labels, fields))

    def events(self, namespace: str, name: str) -> Objects:
        return run(self.calls.events(namespace, name))

    def may(self, verb: str, kind: Kind) -> bool:
        return run(self.calls.may(verb, kind))

    def apply(self, kind: Kind, manifest: Mapping[str, Any], *, force: bool = True) -> Object:
        return run(self.calls.apply(kind, manifest, force=force))

    def get_or_create(self, kind: Kind, manifest: Mapping[str, Any]) -> tuple[Object, bool]:
        return run(self.calls.get_or_create(kind, manifest))

    def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        uid: str | None = None,
        version: str | None = None,
        grace_seconds: int | None = None,
    ) -> bool:
        return run(self.calls.delete(kind, name, namespace, uid, version, grace_seconds))

    def delete_and_wait(
        self, kind: Kind, name: str, namespace: str | None = None, *, timeout: float = 60, poll: float = 0.3
    ) -> None:
        run(self.calls.delete_and_wait(kind, name, namespace, timeout=timeout, poll=poll))

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
    ) -> Object | None:
        return run(
            self.calls.patch_status(
                name,
                namespace,
                next_status,
                uid=uid,
                generation=generation,
                even_deleting=even_deleting,
                begins=begins,
            )
        )

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
        asked = self.calls.post_to_service(
            service, namespace, path, body, port=port, timeout=timeout, headers=headers
        )
        return run(asked)

    def get_from_service(
        self,
        service: str,
        namespace: str,
        path: str,
        *,
        port: int,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        return run(
            self.calls.get_from_service(service, namespace, path, port=port, timeout=timeout, headers=headers)
        )


class _BlockingCalls(ClusterCalls):
    """The calls over the blocking hook: none of them ever waits for an event loop."""

    blocking = True

    def __init__(self, hook: KaitoClusterHook) -> None:
        self.hook = hook

    async def send(self, request: Request) -> Any:
        return self.hook.send(request)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 there is no event loop

    async def together(self, *calls: Coroutine[Any, Any, T]) -> list[T]:
        return await in_turn(*calls)


class AsyncKaitoClusterHook(ClusterCalls, AsyncKubernetesHook):
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

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def together(self, *calls: Coroutine[Any, Any, T]) -> list[T]:
        return list(await asyncio.gather(*calls))

    async def send(self, request: Request) -> Any:
        try:
            return await self._send(request)
        except AsyncApiException as error:
            raise ClusterError.from_response(error.status, error.reason, error.body) from None
        except ASYNC_CONNECTION_ERRORS as error:
            raise ClusterError(
                0, "ConnectionFailed", f"The Kubernetes API did not answer: {error}"
            ) from error

    @retried
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
        except STREAM_ERRORS as error:
            raise ClusterError(0, "ConnectionFailed", str(error) or type(error).__name__) from error

    async def pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        labels: Labels | None = None,
        *,
        metadata_only: bool = False,
    ) -> AsyncIterator[tuple[Objects, str]]:
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

    @retried
    async def _text_of(self, request: Request) -> bytes:
        async with self._connection() as client:
            response = await client.call_api(**request.arguments(), _preload_content=False)
            text: bytes = await response.read()
            if response.status != 200:
                error = AsyncApiException(status=response.status, reason=response.reason)
                error.body, error.headers = text, response.headers
                raise error
            return text

    async def _text(self, request: Request) -> bytes:
        try:
            return await self._text_of(request)
        except AsyncApiException as error:
            raise ClusterError.from_response(error.status, error.reason, error.body) from None
        except STREAM_ERRORS as error:
            raise ClusterError(
                0, "ConnectionFailed", f"The Kubernetes API did not answer: {error}"
            ) from error
