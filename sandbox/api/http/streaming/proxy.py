"""`pods/proxy` and `services/proxy`: a plain HTTP request passed on to a pod's address."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from sandbox.api.errors import ApiError, not_implemented
from sandbox.api.meta import dig

if TYPE_CHECKING:
    from sandbox.api.cluster import Cluster
    from sandbox.api.http.address import Address

Json = dict[str, Any]

# Headers that belong to one connection, and the caller's credentials, which are not the pod's business.
_DROPPED = {
    "authorization",
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_NO_LIMIT = aiohttp.ClientTimeout(total=None, sock_connect=10)


def _unavailable(message: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message)


def _split(name: str) -> tuple[str, str, str]:
    """`[scheme:]name[:port]`"""
    parts = name.split(":")
    if len(parts) == 3:
        return parts[0] or "http", parts[1], parts[2]
    return "http", parts[0], parts[1] if len(parts) == 2 else ""


def target_of(cluster: Cluster, address: Address) -> str:
    """The base URL behind a proxy path; raises ApiError (404, 503)."""
    scheme, name, port = _split(address.name or "")
    namespace = address.namespace or ""
    if address.info.key == "pods":
        host, number = _pod_address(cluster.stored(address.info, (namespace, name)), port)
    elif address.info.key == "services":
        service = cluster.stored(address.info, (namespace, name))
        host, number = _service_address(cluster, service, port)
    else:
        raise not_implemented("the sandbox has no proxy to nodes")
    return f"{scheme}://{host}:{number}"


def _pod_address(pod: Json, port: str) -> tuple[str, int]:
    host = dig(pod, "status", "podIP")
    if not host:
        raise _unavailable(f"pod {pod['metadata']['name']} has no address yet: it is not running")
    ports = [p for c in dig(pod, "spec", "containers") or () for p in c.get("ports") or ()]
    if port.isdigit():
        return host, int(port)
    if port:
        result = next((p["containerPort"] for p in ports if p.get("name") == port), None)
        if result is None:
            raise _unavailable(f'no port named "{port}" in pod {pod["metadata"]["name"]}')
        return host, int(result)
    return host, int(ports[0]["containerPort"]) if ports else 80


def _service_address(cluster: Cluster, service: Json, port: str) -> tuple[str, int]:
    meta, ports = service["metadata"], dig(service, "spec", "ports") or []
    wanted = next((p for p in ports if port in (p.get("name"), str(p["port"]))), None) if port else ports[0]
    if wanted is None:
        raise _unavailable(f'no service port "{port}" found for service "{meta["name"]}"')
    result = _endpoints(cluster, meta["namespace"], meta["name"], wanted.get("name") or "")
    if not result:
        raise _unavailable(f'no endpoints available for service "{meta["name"]}"')
    return random.choice(result)  # noqa: S311 any of them will do


def _endpoints(cluster: Cluster, namespace: str, name: str, port: str) -> list[tuple[str, int]]:
    result: list[tuple[str, int]] = []
    for _, entry in cluster.storage.entries("endpointslices.discovery.k8s.io", namespace):
        labels = dig(entry.obj, "metadata", "labels") or {}
        if labels.get("kubernetes.io/service-name") != name:
            continue
        numbers = [p["port"] for p in entry.obj.get("ports") or () if (p.get("name") or "") == port]
        for endpoint in entry.obj.get("endpoints") or ():
            if dig(endpoint, "conditions", "ready") is not False and numbers:
                result += [(host, numbers[0]) for host in endpoint.get("addresses") or ()]
    if result:
        return result
    endpoints = cluster.storage.get("endpoints", (namespace, name))
    for subset in (endpoints.obj.get("subsets") or ()) if endpoints else ():
        numbers = [p["port"] for p in subset.get("ports") or () if (p.get("name") or "") == port]
        result += [(a["ip"], numbers[0]) for a in subset.get("addresses") or () if numbers]
    return result


async def forward(request: web.Request, base: str, path: str) -> web.StreamResponse:
    """Pass a request on and its answer back, as a stream."""
    query = f"?{request.query_string}" if request.query_string else ""
    headers = {k: v for k, v in request.headers.items() if k.lower() not in _DROPPED}
    body = request.content if request.can_read_body else None
    try:
        async with (
            aiohttp.ClientSession(timeout=_NO_LIMIT, auto_decompress=False) as session,
            session.request(
                request.method, f"{base}/{path}{query}", headers=headers, data=body, allow_redirects=False
            ) as answer,
        ):
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _DROPPED}
            response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response
    except aiohttp.ClientConnectorError as error:
        raise _unavailable(f"error trying to reach service: {error}") from error
