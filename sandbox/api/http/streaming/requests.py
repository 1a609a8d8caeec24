"""Requests that stream: logs, attach, port-forward and the proxies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from sandbox.api.errors import ApiError, bad_request, method_not_allowed, not_implemented
from sandbox.api.http.negotiation import flag
from sandbox.api.http.streaming import containers
from sandbox.api.http.streaming import proxy as proxying
from sandbox.api.http.streaming.attach import attach
from sandbox.api.http.streaming.logs import LogOptions, LogReader, shown
from sandbox.api.http.streaming.portforward import port_forward
from sandbox.api.meta import dig

if TYPE_CHECKING:
    from sandbox.api.cluster import Cluster
    from sandbox.api.http.address import Address

Json = dict[str, Any]

_NO_EXEC = (
    "the sandbox cannot run commands in a container: its pods are plain processes. Use logs or a new pod."
)


class StreamRequests:
    """`node_log_root` holds `<pod uid>/<container>/<restart count>.log`."""

    def __init__(self, cluster: Cluster, node_log_root: Path) -> None:
        self._cluster = cluster
        self._logs = node_log_root

    async def answer(self, request: web.Request, address: Address) -> web.StreamResponse:
        if address.subresource == "proxy":
            base = proxying.target_of(self._cluster, address)
            return await proxying.forward(request, base, address.rest)
        pod = self._cluster.stored(address.info, address.key)
        if address.subresource == "exec":
            raise not_implemented(_NO_EXEC)
        if address.subresource == "portforward":
            return await self._port_forward(request, pod)
        if request.method not in ("GET", "POST"):
            raise method_not_allowed()
        if address.subresource == "attach":
            return await self._attach(request, address, pod)
        return await self._log(request, address, pod)

    def _reader(
        self, address: Address, pod: Json, container: str, run: int, options: LogOptions
    ) -> LogReader:
        uid = pod["metadata"]["uid"]

        def ended() -> bool:
            entry = self._cluster.storage.get("pods", address.key)
            same = entry.obj if entry and entry.obj["metadata"]["uid"] == uid else None
            return containers.has_ended(same, container, run)

        return LogReader(self._logs / uid / container / f"{run}.log", options, ended)

    async def _log(self, request: web.Request, address: Address, pod: Json) -> web.StreamResponse:
        query = request.query
        options = LogOptions.parse(query)
        container = containers.chosen(pod, query.get("container"))
        response = web.StreamResponse(
            headers={"Content-Type": "text/plain", "Cache-Control": "no-cache, private"}
        )
        if not dig(pod, "spec", "nodeName"):  # nobody could have written a log yet
            await response.prepare(request)
            await response.write_eof()
            return response
        run = containers.log_run(pod, container, flag(query, "previous"))
        await response.prepare(request)
        left = options.limit
        try:
            async for lines in self._reader(address, pod, container, run, options).lines():
                data = shown(lines, options)
                await response.write(data[:left])
                if left is not None and (left := left - len(data)) <= 0:
                    break
        except ConnectionResetError:
            return response
        await response.write_eof()
        return response

    async def _attach(self, request: web.Request, address: Address, pod: Json) -> web.StreamResponse:
        container = containers.chosen(pod, request.query.get("container"))
        phase = dig(pod, "status", "phase")
        if phase in ("Succeeded", "Failed"):
            raise bad_request(f"cannot attach a container in a completed pod; current phase is {phase}")
        status = containers.status_of(pod, container)
        if dig(status, "state", "running") is None:
            raise bad_request(
                f"container {container} not found in pod {pod['metadata']['name']}: it is not running"
            )
        run = int(status.get("restartCount") or 0)
        return await attach(
            request, self._reader(address, pod, container, run, LogOptions(follow=True, tail=0))
        )

    @staticmethod
    async def _port_forward(request: web.Request, pod: Json) -> web.StreamResponse:
        host = dig(pod, "status", "podIP")
        if not host or dig(pod, "status", "phase") != "Running":
            phase = dig(pod, "status", "phase")
            message = f"unable to forward port because pod is not running. Current status={phase}"
            raise ApiError(400, "BadRequest", message)
        return await port_forward(request, host)
