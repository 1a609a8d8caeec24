"""The part of SPDY/3.1 that Kubernetes still speaks for port-forwarding: streams, data, pings.

kubectl sends these frames inside websocket messages or, to older servers, on an upgraded connection. Flow control is
left out, as in the library that kubectl uses.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

_VERSION = 3
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING = 1, 2, 3, 6
_FIN = 0x01

# The zlib dictionary of the SPDY/3 specification: header names with their lengths, then common values.
_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
)
_MORE_WORDS = ["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"]
_VALUES = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = (
    b"".join(struct.pack("!I", len(word)) + word.encode() for word in (*_WORDS.split(), *_MORE_WORDS))
    + _VALUES.encode()
)


class ProtocolError(Exception):
    """The peer does not speak SPDY as it should."""


@dataclass(eq=False)
class Stream:
    """One stream; `read` gives its data and b\"\" at its end."""

    id: int
    headers: dict[str, str]
    connection: Connection
    _incoming: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    closed: bool = False

    async def read(self) -> bytes:
        return await self._incoming.get()

    def feed(self, data: bytes) -> None:
        self._incoming.put_nowait(data)

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), 32768):
            await self.connection.send_data(self.id, data[start : start + 32768])

    async def close(self) -> None:
        """Say that nothing more comes."""
        if not self.closed:
            self.closed = True
            await self.connection.send_data(self.id, b"", fin=True)


class Connection:
    """The server's side of one connection over any byte stream."""

    def __init__(
        self, write: Callable[[bytes], Awaitable[None]], on_stream: Callable[[Stream], None]
    ) -> None:
        self._write = write
        self._on_stream = on_stream
        self._streams: dict[int, Stream] = {}
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._buffer = b""

    async def feed(self, data: bytes) -> None:
        """Take bytes from the peer and answer the frames that they complete."""
        self._buffer += data
        while len(self._buffer) >= 8:
            first, second = struct.unpack("!II", self._buffer[:8])
            length = second & 0xFFFFFF
            if len(self._buffer) < 8 + length:
                return
            body, self._buffer = self._buffer[8 : 8 + length], self._buffer[8 + length :]
            if first & 0x80000000:
                await self._control((first >> 16) & 0x7FFF, first & 0xFFFF, second >> 24, body)
            else:
                self._data(first & 0x7FFFFFFF, second >> 24, body)

    def end(self) -> None:
        """The peer is gone: every stream ends."""
        for stream in self._streams.values():
            stream.closed = True
            stream.feed(b"")

    async def _control(self, version: int, kind: int, flags: int, body: bytes) -> None:
        if version != _VERSION:
            raise ProtocolError(f"SPDY version {version} instead of {_VERSION}")
        if kind == _SYN_STREAM:
            await self._open(struct.unpack("!I", body[:4])[0] & 0x7FFFFFFF, flags, body[10:])
        elif kind == _PING:
            await self._send_control(_PING, body)
        elif kind == _RST_STREAM:
            stream = self._streams.pop(struct.unpack("!I", body[:4])[0] & 0x7FFFFFFF, None)
            if stream is not None:
                stream.closed = True
                stream.feed(b"")

    async def _open(self, number: int, flags: int, block: bytes) -> None:
        stream = Stream(number, self._headers(block), self)
        self._streams[number] = stream
        if flags & _FIN:
            stream.feed(b"")
        await self._send_control(_SYN_REPLY, struct.pack("!I", number) + self._block({}))
        self._on_stream(stream)

    def _data(self, number: int, flags: int, body: bytes) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        if body:
            stream.feed(body)
        if flags & _FIN:
            stream.feed(b"")

    def _headers(self, block: bytes) -> dict[str, str]:
        raw = self._inflate.decompress(block)
        (count,), position, headers = struct.unpack("!I", raw[:4]), 4, {}
        for _ in range(count):
            parts = []
            for _ in range(2):
                (length,) = struct.unpack("!I", raw[position : position + 4])
                parts.append(raw[position + 4 : position + 4 + length].decode())
                position += 4 + length
            headers[parts[0].lower()] = parts[1]
        return headers

    def _block(self, headers: dict[str, str]) -> bytes:
        raw = struct.pack("!I", len(headers))
        for item in headers.items():
            for text in item:
                raw += struct.pack("!I", len(text)) + text.encode()
        return self._deflate.compress(raw) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    async def _send_control(self, kind: int, body: bytes, flags: int = 0) -> None:
        head = struct.pack("!HHI", 0x8000 | _VERSION, kind, flags << 24 | len(body))
        await self._write(head + body)

    async def send_data(self, number: int, data: bytes, fin: bool = False) -> None:
        await self._write(struct.pack("!II", number, (_FIN if fin else 0) << 24 | len(data)) + data)
