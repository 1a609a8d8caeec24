"""A door in front of a server: while it is shut, whoever asks is kept waiting, alive, for as long as the test wants.

So a step can be held in its very middle, and let go on later. The clients here are Python's: `http.client` passes over
any number of `100 Continue`, and each of them starts its read timeout anew.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Well below the shortest read timeout of a workload.
ALIVE_SECONDS = 2.0
CHUNK = 1 << 16


class Door:
    """One HTTP server, behind a door.

    :param upstream: ``host:port`` of the server.
    """

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.partition(":")
        self._upstream = host, int(port)
        self._open = threading.Event()
        self._lock, self._waiting = threading.Lock(), 0
        self._over = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def waiting(self) -> int:
        """How many requests wait for the door to open."""
        return self._waiting

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        """Whoever asks from now on waits; what is under way goes on."""
        self._open.clear()

    def close(self) -> None:
        self._over = True
        self._open.set()
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._server.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            asked = client.recv(CHUNK)
            if asked and self._hold(client) and not self._over:
                with socket.create_connection(self._upstream, timeout=30) as server:
                    server.sendall(asked)
                    _carry(client, server)

    def _hold(self, client: socket.socket) -> bool:
        """Keep a client waiting until the door is open; returns False when it went away."""
        if self._open.is_set():
            return True
        with self._lock:
            self._waiting += 1
        try:
            while not self._open.wait(ALIVE_SECONDS):
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            return True
        except OSError:
            return False
        finally:
            with self._lock:
                self._waiting -= 1


def _carry(client: socket.socket, server: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""
    while True:
        for side in select.select([client, server], [], [])[0]:
            data = side.recv(CHUNK)
            if not data:
                return
            (server if side is client else client).sendall(data)


@contextmanager
def door(upstream: str) -> Iterator[Door]:
    """Stand a door, shut, in front of a server."""
    found = Door(upstream)
    try:
        yield found
    finally:
        found.close()
