"""`pods/portforward`: TCP connections to a pod's address, carried in one client connection.

Three wire forms: SPDY frames inside websocket messages (kubectl since 1.30), SPDY on an upgraded connection (older
clients), and websocket channels (the Python clients).
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from sandbox.api.errors import ApiError, bad_request
from sandbox.api.http.streaming.attach import is_websocket
from sandbox.api.http.streaming.spdy import Connection, ProtocolError, Stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TUNNEL = "SPDY/3.1+portforward.k8s.io"
_CHANNEL_PROTOCOLS = ("v4.channel.k8s.io", "channel.k8s.io")
_CHUNK = 32 * 1024
_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
    b"X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n"
)


class Forwarder:
    """Pairs the error and data streams of each forwarded connection and carries its bytes."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._errors: dict[str, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def opened(self, stream: Stream) -> None:
        request = stream.headers.get("requestid", "")
        if stream.headers.get("streamtype") == "error":
            self._errors[request] = stream
            return
        task = asyncio.create_task(self._carry(stream, self._errors.pop(request, None)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, data: Stream, error: Stream | None) -> None:
        port = data.headers.get("port", "0")
        try:
            reader, writer = await asyncio.open_connection(self._host, int(port))
        except (OSError, ValueError) as failure:
            if error is not None:
                await error.write(f"failed to connect to {self._host}:{port}: {failure}".encode())
                await error.close()
            await data.close()
            return
        if error is not None:
            await error.close()
        await pump(reader, writer, data.read, data.write)
        await data.close()

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


async def pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    receive: Callable[[], Awaitable[bytes]],
    send: Callable[[bytes], Awaitable[None]],
) -> None:
    """Carry bytes both ways until the pod's side ends; a client that stops sending half-closes."""

    async def inward() -> None:
        while data := await receive():
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    sending = asyncio.create_task(inward())
    try:
        while data := await reader.read(_CHUNK):
            await send(data)
    except ConnectionError:
        pass
    finally:
        sending.cancel()
        writer.close()


async def port_forward(request: web.Request, host: str) -> web.StreamResponse:
    """Serve one port-forward request in whichever form the client speaks."""
    if is_websocket(request):
        offered = {name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")}
        return await (_tunnel(request, host) if TUNNEL in offered else _channels(request, host))
    if request.headers.get("Upgrade", "").lower() == "spdy/3.1":
        return await _upgraded(request, host)
    raise bad_request("Upgrade request required")


async def _tunnel(request: web.Request, host: str) -> web.StreamResponse:
    socket = web.WebSocketResponse(protocols=(TUNNEL,), heartbeat=30)
    await socket.prepare(request)
    forwarder = Forwarder(host)
    connection = Connection(socket.send_bytes, forwarder.opened)
    try:
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                await connection.feed(message.data)
    except (ProtocolError, ConnectionResetError):
        pass
    finally:
        connection.end()
        forwarder.stop()
    return socket


async def _upgraded(request: web.Request, host: str) -> web.StreamResponse:
    """Take the connection over from HTTP: 101, then SPDY frames in both directions."""
    protocol, transport = request.protocol, request.transport
    if transport is None:
        raise ApiError(400, "BadRequest", "the connection is gone")
    reader = asyncio.StreamReader()
    protocol.set_parser(_RawParser(reader))  # type: ignore[arg-type]
    transport.write(_SWITCHING)
    forwarder = Forwarder(host)

    async def write(data: bytes) -> None:
        transport.write(data)

    connection = Connection(write, forwarder.opened)
    try:
        while data := await reader.read(_CHUNK):
            await connection.feed(data)
    except ProtocolError:
        pass
    finally:
        connection.end()
        forwarder.stop()
        transport.close()
    return web.Response()


class _RawParser:
    """Hands the bytes of an upgraded connection on, in the form aiohttp asks of a parser."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self._reader.feed_eof()


async def _channels(request: web.Request, host: str) -> web.StreamResponse:
    """Channel 2i is port i's data, 2i+1 its errors; each starts with the port number."""
    try:
        ports = [int(port) for text in request.query.getall("ports", []) for port in text.split(",")]
    except ValueError as error:
        raise bad_request(f"ports: {error}") from error
    if not ports:
        raise bad_request("query parameter ports is required")
    socket = web.WebSocketResponse(protocols=_CHANNEL_PROTOCOLS, heartbeat=30)
    await socket.prepare(request)
    incoming: list[asyncio.Queue[bytes]] = [asyncio.Queue() for _ in ports]
    for index, port in enumerate(ports):
        for channel in (2 * index, 2 * index + 1):
            await socket.send_bytes(bytes([channel]) + struct.pack("<H", port))
    tasks = [
        asyncio.create_task(_carry_channel(socket, 2 * index, host, port, incoming[index]))
        for index, port in enumerate(ports)
    ]
    try:
        async for message in socket:
            if message.type is WSMsgType.BINARY and message.data and message.data[0] // 2 < len(ports):
                incoming[message.data[0] // 2].put_nowait(message.data[1:])
    finally:
        for task in tasks:
            task.cancel()
    return socket


async def _carry_channel(
    socket: web.WebSocketResponse, channel: int, host: str, port: int, incoming: asyncio.Queue[bytes]
) -> None:
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as failure:
        await socket.send_bytes(
            bytes([channel + 1]) + f"failed to connect to {host}:{port}: {failure}".encode()
        )
        await socket.close()
        return
    await pump(reader, writer, incoming.get, lambda data: socket.send_bytes(bytes([channel]) + data))
    await socket.close()
