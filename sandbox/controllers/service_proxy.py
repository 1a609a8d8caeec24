"""The service proxy (kube-proxy): listens on each Service's cluster IP and carries TCP to the pods behind it.

A cluster IP is a loopback address of this machine. A port that cannot be bound (below 1024 without root, or taken)
is told as an event on the Service and left; it must never stop the rest of the sandbox.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sandbox.controllers.ownership import is_terminating
from sandbox.controllers.reconciler import Controller, Feeds, Key, Object, key_of, read

log = logging.getLogger(__name__)

CHUNK = 64 * 1024
CONNECT_SECONDS = 5.0
Address = tuple[str, int]


def wanted_ports(service: Object, endpoints: Object | None) -> dict[Address, list[Address]]:
    """Cluster IP and port -> the ready pod addresses behind it. A port without any is not listened on: refused."""
    spec = service["spec"]
    ip = spec.get("clusterIP")
    if not ip or ip == "None" or endpoints is None or is_terminating(service):
        return {}
    wanted: dict[Address, list[Address]] = {}
    for port in spec.get("ports") or []:
        if port.get("protocol", "TCP") != "TCP":
            continue
        behind = [
            (address["ip"], candidate["port"])
            for subset in endpoints.get("subsets") or []
            for candidate in subset.get("ports") or []
            if candidate.get("name") == port.get("name")
            for address in subset.get("addresses") or []
        ]
        if behind:
            wanted[(ip, port["port"])] = behind
    return wanted


@dataclass
class Relay:
    """One listening address and its open connections."""

    address: Address
    backends: list[Address]
    server: asyncio.Server | None = None
    connections: set[asyncio.Task[None]] = field(default_factory=set)
    turn: int = 0

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._accept, *self.address, reuse_address=True)

    def stop(self) -> None:
        if self.server is not None:
            self.server.close()
        for task in self.connections:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self.connections.add(task)
            task.add_done_callback(self.connections.discard)
        with suppress(OSError, asyncio.CancelledError):
            try:
                await self._carry(reader, writer)
            finally:
                writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected = await self._connect()
        if connected is None:
            writer.transport.abort()
            return
        pod_reader, pod_writer = connected
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, pod_writer))
                group.create_task(_pump(pod_reader, writer))
        finally:
            pod_writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """To the next pod in turn; a pod that refuses is skipped."""
        for _ in self.backends:
            self.turn = (self.turn + 1) % len(self.backends)
            with suppress(OSError):
                return await asyncio.wait_for(
                    asyncio.open_connection(*self.backends[self.turn]), CONNECT_SECONDS
                )
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction of a connection, its end included; a broken peer only ends this direction."""
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


class ServiceProxy(Controller):
    resource: ClassVar[str] = "services"
    workers: ClassVar[int] = 1

    def __init__(self, cluster: Any, feeds: Feeds) -> None:
        super().__init__(cluster, feeds)
        self._relays: dict[Key, dict[Address, Relay]] = {}
        self._refused: set[Address] = set()
        feeds.subscribe("endpoints", lambda _event, obj: self.enqueue(key_of(obj)))

    async def reconcile(self, key: Key) -> float | None:
        service = await read(self.cluster, "services", key)
        endpoints = await read(self.cluster, "endpoints", key)
        wanted = {} if service is None else wanted_ports(service, endpoints)
        relays = self._relays.setdefault(key, {})
        for address in [address for address in relays if address not in wanted]:
            relays.pop(address).stop()
        for address, backends in wanted.items():
            if address in relays:
                relays[address].backends = backends
            elif service is not None:
                await self._listen(service, relays, address, backends)
        if not relays:
            self._relays.pop(key, None)
        return None

    async def _listen(
        self, service: Object, relays: dict[Address, Relay], address: Address, backends: list[Address]
    ) -> None:
        relay = Relay(address, backends)
        try:
            await relay.start()
        except OSError as error:
            if address in self._refused:
                return
            self._refused.add(address)
            why = error.strerror or str(error)
            hint = (
                " Ports below 1024 need root: use the Service proxy of the API server instead."
                if address[1] < 1024
                else ""
            )
            message = f"The sandbox cannot listen on {address[0]}:{address[1]}: {why}.{hint}"
            log.warning(message)
            await self.cluster.event(service, "Warning", "PortNotBound", message, "kube-proxy")
            return
        self._refused.discard(address)
        relays[address] = relay

    async def close(self) -> None:
        for relays in self._relays.values():
            for relay in relays.values():
                relay.stop()
        self._relays.clear()
