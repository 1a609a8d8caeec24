"""The endpoint's front: TLS, bearer tokens, api-version, routing, and the headers that Resource Manager adds.

Order of refusals is Azure's: who asks (401), how (400 on the api-version), whether he may (403), and only then what.
It holds no rules about agent pools; those are in sandbox.arm.pools.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from aiohttp import web

from sandbox.api.http.certificates import CertPaths
from sandbox.arm import account, errors
from sandbox.arm.errors import ArmError
from sandbox.arm.pools import AgentPools, Answer, Conditions
from sandbox.arm.state import ArmState, Operation
from sandbox.faults import FaultKind, Faults

Json = dict[str, Any]
log = logging.getLogger(__name__)

_BODY_LIMIT = 4 * 1024 * 1024
RETRY_AFTER = 1  # seconds between two polls; Azure says 15 to 60, its machines boot slower
PAGE = 16  # Azure's pages are longer; what matters is that there are several
_FILTER = re.compile(r"location eq '(?P<location>[^']*)'")
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-[A-Za-z]+)?")
_OPERATIONS = {"operations", "operationstatus", "operationstatuses"}
_VERBS = {"GET": "read", "PUT": "write", "DELETE": "delete", "POST": "action"}
_REMAINING = {"GET": "reads", "PUT": "writes", "POST": "writes", "DELETE": "deletes"}


class ArmServer:
    """Routes requests; `token` is the one bearer token that is let in."""

    def __init__(self, pools: AgentPools, faults: Faults, token: str) -> None:
        self._pools = pools
        self._faults = faults
        self._token = token

    async def handle(self, request: web.Request) -> web.StreamResponse:
        correlation = request.headers.get("x-ms-correlation-request-id") or str(uuid4())
        try:
            answer = await self._answer(request)
            response = self._respond(request, answer)
        except ArmError as error:
            response = web.json_response(error.body(), status=error.status, headers=error.headers)
        except Exception:
            log.exception("The sandbox's Azure failed on %s %s", request.method, request.path)
            failure = ArmError(500, "InternalServerError", "The server encountered an internal error.")
            response = web.json_response(failure.body(), status=500, headers=failure.headers)
        self._stamp(request, response, correlation)
        return response

    async def _answer(self, request: web.Request) -> Answer:
        self._authenticate(request)
        await self._inject_faults(request)
        parts = [part for part in request.path.split("/") if part]
        provider = _provider(parts)
        _check_version(request, provider)
        if len(parts) < 2 or parts[0].lower() != "subscriptions":
            raise errors.no_such_route(request.path)
        _check_subscription(parts[1])
        if len(parts) > 3 and parts[2].lower() == "resourcegroups":
            return await self._in_group(request, parts[3], parts[4:])
        return self._in_subscription(request, parts[2:])

    # --- who, and what is broken on purpose -----------------------------------------------------------------------

    def _authenticate(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "")
        scheme, _, token = given.partition(" ")
        if not given:
            raise errors.unauthenticated(
                "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."
            )
        if scheme.lower() != "bearer":
            raise errors.unauthenticated(
                "AuthenticationFailedInvalidHeader",
                "Authentication failed. The 'Authorization' header is provided in an invalid format.",
            )
        if token.strip() != self._token:
            raise errors.unauthenticated("InvalidAuthenticationToken", "The access token is invalid.")

    async def _inject_faults(self, request: web.Request) -> None:
        target = f"{request.method} {request.path}"
        if slow := self._faults.inject(FaultKind.API_LATENCY, target):
            await asyncio.sleep(slow.value or 0)
        if fault := self._faults.inject(FaultKind.AUTH, target):
            if int(fault.value or 403) == 401:
                message = (
                    fault.message or "The access token expiry UTC time is earlier than current UTC time."
                )
                raise errors.unauthenticated("ExpiredAuthenticationToken", message)
            raise errors.forbidden(_action(request), request.path)
        if throttled := self._faults.inject(FaultKind.API_THROTTLE, target):
            raise errors.throttled(int(throttled.value or 1), _VERBS.get(request.method, "read"))
        if failed := self._faults.inject(FaultKind.API_ERROR, target):
            message = failed.message or "The sandbox was told to fail this request."
            raise ArmError(int(failed.value or 500), "InternalServerError", message)

    # --- routes ---------------------------------------------------------------------------------------------------

    def _in_subscription(self, request: web.Request, parts: list[str]) -> Answer:
        """/providers/<provider>/... below a subscription: quotas, sizes, operations."""
        match [part.lower() for part in parts]:
            case ["providers", "microsoft.compute", "locations", location, "usages"]:
                _only(request, "GET")
                _check_location(location)
                result = account.usages(self._pools.state.pools.values(), self._faults)
                return Answer(200, _page(request, result))
            case ["providers", "microsoft.compute", "skus"]:
                _only(request, "GET")
                _check_filter(request)
                return Answer(200, _page(request, account.skus(self._faults)))
            case ["providers", "microsoft.containerservice", "managedclusters"]:
                _only(request, "GET")
                return Answer(200, {"value": [self._cluster()]})
            case ["providers", "microsoft.containerservice", "locations", location, kind, id_]:
                _only(request, "GET")
                _check_location(location)
                return self._operation(kind, id_)
        raise errors.no_such_route(request.path)

    async def _in_group(self, request: web.Request, group: str, parts: list[str]) -> Answer:
        if group.lower() != account.GROUP:
            raise errors.group_not_found(group)
        kind = [part.lower() for part in parts[:3]]
        if kind != ["providers", "microsoft.containerservice", "managedclusters"]:
            raise errors.no_such_route(request.path)
        if len(parts) == 3:
            _only(request, "GET")
            return Answer(200, {"value": [self._cluster()]})
        if parts[3].lower() != account.CLUSTER:
            if len(parts) > 4:
                raise errors.parent_not_found(group, parts[3], _VERBS.get(request.method, "read"))
            raise errors.resource_not_found(f"Microsoft.ContainerService/managedClusters/{parts[3]}", group)
        if len(parts) == 4:
            _only(request, "GET")
            return Answer(200, self._cluster())
        if parts[4].lower() != "agentpools" or len(parts) > 7:
            raise errors.no_such_route(request.path)
        return await self._agent_pools(request, parts[5:])

    async def _agent_pools(self, request: web.Request, parts: list[str]) -> Answer:
        if not parts:
            _only(request, "GET")
            return self._pools.list()
        if len(parts) == 2:
            action = parts[1].lower()
            if action not in ("abort", "deletemachines"):
                raise errors.no_such_route(request.path)
            _only(request, "POST")
            if action == "abort":
                return self._pools.abort(parts[0])
            return self._pools.delete_machines(parts[0], await _json(request))
        _only(request, "GET", "PUT", "DELETE")
        if request.method == "GET":
            return self._pools.get(parts[0])
        if request.method == "DELETE":
            return self._pools.delete(parts[0], Conditions(match=_conditions(request).match))
        return self._pools.put(parts[0], await _json(request), _conditions(request))

    def _cluster(self) -> Json:
        return account.cluster_resource(self._pools.all(), self._pools.state.busy())

    def _operation(self, kind: str, id_: str) -> Answer:
        operation = self._pools.state.operations.get(id_)
        if operation is None:
            raise ArmError(404, "NotFound", f"The entity was not found: operation {id_}.")
        if kind in _OPERATIONS:
            return Answer(200, _status(operation), headers={} if operation.done else _retry())
        if kind != "operationresults":
            raise errors.no_such_route(kind)
        if not operation.done:
            return Answer(202, operation=operation, location=True)
        if operation.error is not None:
            raise ArmError(operation.http_status, operation.error["code"], operation.error["message"])
        return Answer(204)

    # --- headers --------------------------------------------------------------------------------------------------

    def _respond(self, request: web.Request, answer: Answer) -> web.Response:
        headers = dict(answer.headers)
        if answer.operation is not None:
            headers |= _retry()
            version = request.query["api-version"]
            base = (
                f"{request.scheme}://{request.host}/subscriptions/{account.SUBSCRIPTION}/providers/"
                f"Microsoft.ContainerService/locations/{account.LOCATION}"
            )
            tail = f"{answer.operation.id}?api-version={version}"
            headers["Azure-AsyncOperation"] = f"{base}/operations/{tail}"
            if answer.location:
                headers["Location"] = f"{base}/operationresults/{tail}"
        if answer.body is None:
            return web.Response(status=answer.status, headers=headers)
        return web.json_response(answer.body, status=answer.status, headers=headers)

    def _stamp(self, request: web.Request, response: web.Response, correlation: str) -> None:
        id_ = str(uuid4())
        response.headers["x-ms-request-id"] = id_
        response.headers["x-ms-correlation-request-id"] = correlation
        response.headers["x-ms-routing-request-id"] = f"{account.LOCATION.upper()}:{correlation}"
        response.headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-cache"
        remaining = _REMAINING.get(request.method, "reads")
        response.headers[f"x-ms-ratelimit-remaining-subscription-{remaining}"] = "11999"
        client = request.headers.get("x-ms-client-request-id")
        if client and request.headers.get("x-ms-return-client-request-id", "").lower() == "true":
            response.headers["x-ms-client-request-id"] = client


def _retry() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER)}


def _status(operation: Operation) -> Json:
    result: Json = {
        "id": f"/subscriptions/{account.SUBSCRIPTION}/providers/Microsoft.ContainerService/locations/"
        f"{account.LOCATION}/operations/{operation.id}",
        "name": operation.id,
        "status": operation.status,
        "startTime": operation.start_time,
    }
    if operation.end_time is not None:
        result["endTime"] = operation.end_time
    if operation.error is not None:
        result["error"] = operation.error
    return result


def _provider(parts: list[str]) -> str:
    """The resource provider that a path ends in, in small letters."""
    lower = [part.lower() for part in parts]
    return lower[lower.index("providers") + 1] if "providers" in lower[:-1] else "microsoft.resources"


def _check_version(request: web.Request, provider: str) -> None:
    given = request.query.get("api-version", "")
    supported = account.COMPUTE if provider == "microsoft.compute" else account.CONTAINER_SERVICE
    if not given:
        raise errors.missing_api_version()
    if not _VERSION.fullmatch(given) or given.lower() not in supported:
        raise errors.invalid_api_version(given, supported)


def _check_subscription(given: str) -> None:
    try:
        UUID(given)
    except ValueError:
        raise errors.invalid_subscription(given) from None
    if given.lower() != account.SUBSCRIPTION:
        raise errors.subscription_not_found(given)


def _check_location(given: str) -> None:
    if given.lower() != account.LOCATION:
        message = (
            f"The provided location '{given}' is not available for resource type. "
            f"List of available regions is '{account.LOCATION}'."
        )
        raise errors.gateway(400, "LocationNotAvailableForResourceType", message)


def _page(request: web.Request, found: list[Json]) -> Json:
    """One page of a long list, with the link to the next; who follows links as given needs to know nothing of it."""
    start = int(request.query.get("$skiptoken") or 0)
    shown: Json = {"value": found[start : start + PAGE]}
    if start + PAGE < len(found):
        shown["nextLink"] = str(request.url.update_query({"$skiptoken": str(start + PAGE)}))
    return shown


def _check_filter(request: web.Request) -> None:
    """Sizes can be filtered by location alone; the sandbox has one."""
    given = request.query.get("$filter", "")
    result = _FILTER.fullmatch(given)
    if given and (result is None or result["location"].lower() != account.LOCATION):
        raise errors.gateway(
            400, "BadRequest", f"The filter '{given}' names no location of this subscription."
        )


def _only(request: web.Request, *methods: str) -> None:
    if request.method not in methods:
        raise errors.method_not_allowed(request.method)


def _conditions(request: web.Request) -> Conditions:
    def bare(name: str) -> str | None:
        value = request.headers.get(name)
        return value.strip().removeprefix("W/").strip('"') if value is not None else None

    return Conditions(bare("If-Match"), bare("If-None-Match"))


async def _json(request: web.Request) -> Any:
    try:
        return json.loads(await request.text())
    except ValueError as error:
        raise errors.invalid_content(str(error)) from None


def _action(request: web.Request) -> str:
    """The permission that a request needs, as role definitions name it."""
    lower = request.path.lower()
    kind = "managedClusters/agentPools" if "/agentpools" in lower else "managedClusters"
    if "/microsoft.compute/" in lower:
        return f"Microsoft.Compute/{'skus' if lower.endswith('/skus') else 'locations/usages'}/read"
    if request.method == "POST":
        return (
            f"Microsoft.ContainerService/managedClusters/agentPools/{request.path.rpartition('/')[2]}/action"
        )
    return f"Microsoft.ContainerService/{kind}/{_VERBS.get(request.method, 'read')}"


async def serve(
    host: str,
    port: int,
    tls: CertPaths | None,
    token: str,
    state: ArmState,
    faults: Faults,
    changed: Callable[[str], None],
) -> web.AppRunner:
    """Start serving; port 0 takes a free one. `changed` is called with the name of a pool that a request changed."""
    server = ArmServer(AgentPools(state, faults, changed), faults, token)
    app = web.Application(client_max_size=_BODY_LIMIT)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, host, port, ssl_context=tls.server_context() if tls else None)
    await site.start()
    return runner
