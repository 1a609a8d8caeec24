"""One deadline over a whole HTTP transfer: connection, handshake, headers and body, however slowly they drip.

A socket's timeout starts anew with every byte, so a server that sends one now and then, or `100 Continue` without
end, holds a client for ever. Here a timer ends the socket itself. What was read until then looks like the end of the
stream, so whoever reads must ask `expired` before believing that it is whole.
"""

from __future__ import annotations

import os
import socket
import threading
from types import TracebackType
from typing import Any

import urllib3
import urllib3.connection

_active = threading.local()


class Deadline:
    """Ends every connection that is used inside `with` once `seconds` have passed. Deadlines nest; each counts."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._over = threading.Event()
        self._timer = threading.Timer(max(0.0, seconds), self._expire)
        self._timer.daemon = True

    @property
    def expired(self) -> bool:
        """Whether the time is over: what arrived last may be cut short then."""
        return self._over.is_set()

    def __enter__(self) -> Deadline:
        _stack().append(self)
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        _stack().remove(self)
        with self._lock:
            for twin in self._sockets:
                twin.close()
            self._sockets.clear()

    def watch(self, sock: socket.socket) -> None:
        """Let this socket end with the deadline. A twin is kept: TLS takes the first object's handle away."""
        with self._lock:
            twin = socket.socket(fileno=os.dup(sock.fileno()))
            self._sockets.append(twin)
            if self.expired:
                _end(twin)

    def _expire(self) -> None:
        with self._lock:
            self._over.set()
            for twin in self._sockets:
                _end(twin)


def _stack() -> list[Deadline]:
    if not hasattr(_active, "deadlines"):
        _active.deadlines = []
    found: list[Deadline] = _active.deadlines
    return found


def _end(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended by itself


def _watch(sock: Any) -> None:
    if sock is not None and sock.fileno() >= 0:
        for deadline in _stack():
            deadline.watch(sock)


class Watched:
    """Shows the deadlines each connection when it is made, before TLS, and each time it is used again."""

    sock: Any

    def _new_conn(self) -> Any:
        sock = super()._new_conn()  # type: ignore[misc]
        _watch(sock)
        return sock

    def putrequest(self, *args: Any, **options: Any) -> None:
        _watch(self.sock)
        super().putrequest(*args, **options)  # type: ignore[misc]


class _HTTPConnection(Watched, urllib3.connection.HTTPConnection):
    pass


class _HTTPSConnection(Watched, urllib3.connection.HTTPSConnection):
    pass


class HTTPPool(urllib3.HTTPConnectionPool):
    """urllib3's pool with connections that keep to the deadlines."""

    ConnectionCls = _HTTPConnection


class HTTPSPool(urllib3.HTTPSConnectionPool):
    """urllib3's pool with connections that keep to the deadlines."""

    ConnectionCls = _HTTPSConnection
