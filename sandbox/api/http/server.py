"""The API server's front: TLS, tokens, routing, and every refusal turned into a Status.

It holds no rules about objects; those are the cluster's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from sandbox.api.cluster import Cluster
from sandbox.api.errors import ApiError, internal, method_not_allowed, no_such_path
from sandbox.api.http import address as addresses
from sandbox.api.http import discovery
from sandbox.api.http.authentication import Tokens, User, authenticated
from sandbox.api.http.authorisation import MASTERS, Attributes, need
from sandbox.api.http.certificates import CertPaths
from sandbox.api.http.fault_injection import FaultInjector
from sandbox.api.http.negotiation import flag
from sandbox.api.http.objects import ObjectRequests
from sandbox.api.http.openapi import OpenApi
from sandbox.api.http.streaming.requests import StreamRequests
from sandbox.api.writes import bootstrap
from sandbox.api.writes.patch import APPLY_PATCHES
from sandbox.faults import Faults

Json = dict[str, Any]
log = logging.getLogger(__name__)

_BODY_LIMIT = 3 * 1024 * 1024  # as a real API server
_AGGREGATED = "as=APIGroupDiscoveryList"
_STREAMS = {"log", "attach", "exec", "portforward", "proxy"}


class ApiServer:
    """Routes requests to those who answer them."""

    def __init__(self, cluster: Cluster, tokens: Tokens, node_log_root: Path, faults: Faults) -> None:
        self.cluster = cluster
        self.tokens = tokens
        self.faults = faults
        self.own_address = ""  # host:port, once it is known
        self._fault_injector = FaultInjector(faults)
        self._objects = ObjectRequests(cluster, self._fault_injector, tokens)
        self._streams = StreamRequests(cluster, node_log_root)
        self._openapi = OpenApi(cluster.kinds)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ApiError as error:
            return status_response(error)
        except web.HTTPRequestEntityTooLarge:
            message = f"Request entity too large: limit is {_BODY_LIMIT}"
            return status_response(ApiError(413, "RequestEntityTooLarge", message))
        except (ConnectionResetError, web.HTTPException):
            raise
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path_qs)
            return status_response(internal(f"{type(error).__name__}: {error}"))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        user = authenticated(request, self.tokens)
        path = request.path
        if path.startswith("/sandbox.local/"):
            if MASTERS not in user.groups:
                raise ApiError(403, "Forbidden", "only an administrator breaks things")
            return await self._control(request)
        await self._fault_injector.before(request.method, path)
        if path.startswith(("/api/", "/apis/")):
            return await self._api(request, user)
        return self._fixed(request, path.rstrip("/"))

    async def _control(self, request: web.Request) -> web.StreamResponse:
        if request.path.rstrip("/") != "/sandbox.local/faults":
            raise no_such_path()
        body = await request.json() if request.can_read_body else None
        code, answer = self.faults.handle(request.method, request.query, body)
        return web.json_response(answer, status=code)

    def _fixed(self, request: web.Request, path: str) -> web.StreamResponse:
        """Addresses that name no resource."""
        if path in ("/healthz", "/livez", "/readyz") or path.startswith(("/livez/", "/readyz/", "/healthz/")):
            return web.Response(text="ok")
        if request.method not in ("GET", "HEAD"):
            raise method_not_allowed()
        if path == "/version":
            return web.json_response(discovery.version_info())
        if path in ("/api", "/apis"):
            return self._roots(request, core=path == "/api")
        if path == "":
            return web.json_response({"paths": self._paths()})
        if path.startswith("/openapi/"):
            return self._openapi.answer(request)
        raise no_such_path()

    def _paths(self) -> list[str]:
        groups = self.cluster.kinds.groups()
        result = [f"/apis/{g}/{v}" if g else f"/api/{v}" for g, versions in groups.items() for v in versions]
        result += [f"/apis/{group}" for group in groups if group]
        return sorted(
            [
                *result,
                "/api",
                "/apis",
                "/healthz",
                "/livez",
                "/openapi/v2",
                "/openapi/v3",
                "/readyz",
                "/version",
            ]
        )

    def _roots(self, request: web.Request, core: bool) -> web.StreamResponse:
        kinds = self.cluster.kinds
        if _AGGREGATED in request.headers.get("Accept", ""):
            document, etag = discovery.aggregated(kinds, core)
            headers = {"ETag": f'"{etag}"', "Vary": "Accept"}
            if request.headers.get("If-None-Match") == headers["ETag"]:
                return web.Response(status=304, headers=headers)
            media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            body = json.dumps(document, separators=(",", ":")).encode()
            return web.Response(body=body, headers={**headers, "Content-Type": media})
        if core:
            return web.json_response(discovery.api_versions(self.own_address))
        return web.json_response(discovery.group_list(kinds))

    async def _api(self, request: web.Request, user: User) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        if result := self._discovery(parts):
            if request.method not in ("GET", "HEAD"):
                raise method_not_allowed()
            return web.json_response(result)
        where = addresses.parse(self.cluster.kinds, request.raw_path.partition("?")[0])
        self._authorise(request, where, user)
        if where.subresource in _STREAMS:
            return await self._streams.answer(request, where)
        return await self._objects.answer(request, where, user)

    def _authorise(self, request: web.Request, where: addresses.Address, user: User) -> None:
        """Raises ApiError (403). Applying what is not there yet takes the right to create it as well."""
        wish = Attributes.of(request.method, where, watch=flag(request.query, "watch"))
        need(self.cluster, user, wish)
        applies = request.method == "PATCH" and request.content_type in APPLY_PATCHES
        if applies and where.subresource is None and not self.cluster.storage.get(where.info.key, where.key):
            need(self.cluster, user, replace(wish, verb="create"))

    def _discovery(self, parts: list[str]) -> Json | None:
        """/api/v1, /apis/GROUP and /apis/GROUP/VERSION; None for what lies below."""
        kinds = self.cluster.kinds
        groups = kinds.groups()
        if len(parts) > 3 or (parts[0] == "api" and len(parts) > 2):
            return None
        group, version = (
            ("", parts[1]) if parts[0] == "api" else (parts[1], parts[2] if len(parts) > 2 else "")
        )
        if group not in groups or (version and version not in groups[group]):
            raise no_such_path()
        return discovery.resource_list(kinds, group, version) if version else discovery.group_of(kinds, group)


def status_response(error: ApiError) -> web.Response:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return web.json_response(error.status(), status=error.code, headers=headers)


async def serve(
    cluster: Cluster,
    host: str,
    port: int,
    tls: CertPaths | None,
    tokens: Mapping[str, str | User],
    node_log_root: Path,
    faults: Faults | None = None,
) -> web.AppRunner:
    """Start serving; port 0 takes a free one (`bound_port`). `await runner.cleanup()` ends it.

    `tokens` maps bearer tokens to user names; `tls` None serves plain HTTP, which kubectl refuses to send tokens over.
    """
    server = ApiServer(cluster, Tokens(tokens), node_log_root, faults or Faults())
    app = web.Application(client_max_size=_BODY_LIMIT)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, auto_decompress=True, shutdown_timeout=0.5
    )
    await runner.setup()
    site = web.TCPSite(runner, host, port, ssl_context=tls.server_context() if tls else None)
    await site.start()
    server.own_address = f"{host}:{bound_port(runner)}"
    bootstrap.publish(cluster, host, bound_port(runner), tls.ca.read_text() if tls else "")
    return runner


def bound_port(runner: web.AppRunner) -> int:
    """The port that a running server listens on."""
    return int(runner.addresses[0][1])
