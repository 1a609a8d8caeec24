"""A TCP server that answers with whatever bytes a test gives, as slowly as it likes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Talk = Callable[[socket.socket, threading.Event], None]


@contextlib.contextmanager
def server(talk: Talk) -> Iterator[int]:
    """Listens on loopback and lets `talk` answer each connection in a thread; gives the port."""
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            talk(connection, stop)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=one, args=(connection,), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for thread in threads:
            thread.join(timeout=5)


def drip(head: bytes, piece: bytes, seconds: float = 0.02) -> Talk:
    """Reads the request, sends `head`, then `piece` again and again."""

    def talk(connection: socket.socket, stop: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(head)
        while not stop.wait(seconds):
            connection.sendall(piece)

    return talk


#: Each holds a client that only counts the seconds between two bytes for ever.
ENDLESS = {
    "headers": drip(b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "100 Continue": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
    "a body with a length": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"a"),
    "a body without a length": drip(b"HTTP/1.1 200 OK\r\n\r\n", b"a"),
    "a body in chunks": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
}
