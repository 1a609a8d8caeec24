"""`attach` over websockets: what a running container prints from now on, in the channel protocol of remotecommand.

Input is accepted and dropped: processes in the sandbox have no standard input.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from sandbox.api.errors import bad_request
from sandbox.api.http.negotiation import flag

if TYPE_CHECKING:
    from sandbox.api.http.streaming.logs import LogReader

_STDOUT, _STDERR, _ERROR = b"\x01", b"\x02", b"\x03"
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io")
_SUCCESS = json.dumps({"metadata": {}, "status": "Success"}).encode()


def is_websocket(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


class Channels:
    """A websocket that carries several streams, told apart by the first byte of each message."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._base64 = (socket.ws_protocol or "").startswith("v4.base64")

    async def send(self, channel: bytes, data: bytes) -> None:
        if self._base64:
            await self._socket.send_str(str(channel[0]) + base64.b64encode(data).decode())
        else:
            await self._socket.send_bytes(channel + data)


async def attach(request: web.Request, reader: LogReader) -> web.StreamResponse:
    """Send a container's output until it ends or the client leaves."""
    if not is_websocket(request):
        raise bad_request("Upgrade request required: the sandbox attaches over websockets only")
    socket = web.WebSocketResponse(protocols=PROTOCOLS, heartbeat=30, autoping=True)
    await socket.prepare(request)
    channels = Channels(socket)
    tty, wants_error = flag(request.query, "tty"), flag(request.query, "stderr")

    async def output() -> None:
        async for lines in reader.lines():
            for line in lines:
                channel = _STDERR if line.stream == b"stderr" and wants_error and not tty else _STDOUT
                await channels.send(channel, line.text.replace(b"\n", b"\r\n") if tty else line.text)
        if (socket.ws_protocol or "").startswith(("v4", "v5")):
            await channels.send(_ERROR, _SUCCESS)

    sending, leaving = asyncio.create_task(output()), asyncio.create_task(_until_closed(socket))
    try:
        await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, leaving):
            task.cancel()
    await socket.close()
    return socket


async def _until_closed(socket: web.WebSocketResponse) -> None:
    while True:
        message = await socket.receive()
        if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
            return
