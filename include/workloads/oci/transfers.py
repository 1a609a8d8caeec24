"""Big blobs to and from a registry: in pieces that continue where a connection broke, never from the beginning.

A blob of a model has gigabytes. What a registry has taken of an upload it says itself; what has arrived of a download
lies in the caller's hands. A transfer that gets on may fail as often as it likes; one that does not ends with the
client's tries.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from typing import BinaryIO
from urllib.parse import urljoin

import oras.utils

from include.workloads.contract import TryAgain
from include.workloads.oci.registry import OctetStream, Passing, RegistryClient
from include.workloads.oci.transport import Answer, chunks

log = logging.getLogger("registry")

CHUNK_BYTES = 64 << 20
#: What a try must have moved at least, so that another one is worth it.
PROGRESS_BYTES = 1 << 20
#: The time of one piece of an upload, and of one connection of a download, in seconds.
PIECE_SECONDS, CONNECTION_SECONDS = 900.0, 3600.0
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")

Opener = Callable[[int], BinaryIO]
Progress = Callable[[int], None]


def put_big_blob(
    client: RegistryClient,
    digest: str,
    size: int,
    open_at: Opener,
    progress: Progress = lambda _bytes: None,
    piece: int = CHUNK_BYTES,
) -> bool:
    """Upload a blob in pieces, unless it is there; whether anything was sent.

    :param open_at: opens the content at an offset, for each piece anew.
    :param progress: is called with the number of bytes that each piece had.
    :raises TryAgain: the registry does not get on.
    """
    if client.call("HEAD", client.blob_url(digest), ok=(200, 404)).status == 200:
        return False
    upload = _Upload(client, digest, size, open_at, progress, piece)
    _while_it_gets_on(upload.send, lambda: upload.position)
    return True


def get_big_blob(
    client: RegistryClient, digest: str, size: int, accept: Callable[[bytes], None], start: int = 0
) -> None:
    """Give a blob to `accept` in order, from an offset on; a connection that breaks is taken up where it broke.

    The caller hashes: nothing is verified here but the length.

    :param accept: what it raises ends the transfer.
    :raises TryAgain: the registry does not get on, or sends more or less than the blob's size.
    """
    position = start

    def receive() -> None:
        nonlocal position
        if position < size:
            client.tries(connect, CONNECTION_SECONDS)

    def connect() -> None:
        nonlocal position
        with client.open_blob(digest, position) as response:
            surplus = position if response.status_code == 200 else 0
            for chunk in chunks(response, surplus + size - position + 1):
                content = chunk[surplus:]
                surplus -= len(chunk) - len(content)
                position += len(content)
                if position > size:
                    raise Passing(f"the blob {digest} is longer than its manifest says")
                if content:
                    accept(content)
        if position < size:
            raise Passing(f"the blob {digest} ended after {position} of {size} bytes")

    _while_it_gets_on(receive, lambda: position)


def _while_it_gets_on(transfer: Callable[[], None], position: Callable[[], int]) -> None:
    while True:
        before = position()
        try:
            return transfer()
        except TryAgain as error:
            if position() - before < PROGRESS_BYTES:
                raise
            log.info("%s Going on after %d bytes.", error, position())


class _Upload:
    """One upload: where it goes, and how much of it the registry has."""

    def __init__(
        self,
        client: RegistryClient,
        digest: str,
        size: int,
        open_at: Opener,
        progress: Progress,
        piece: int,
    ) -> None:
        self.client, self.digest, self.size = client, digest, size
        self.open_at, self.progress, self.piece = open_at, progress, piece
        self.location, self.position = "", 0
        self._doubtful = False

    def send(self) -> None:
        while self.position < self.size or not self.location:
            self.client.tries(self._next_piece, PIECE_SECONDS)
        self.client.tries(self._close, PIECE_SECONDS)

    def _next_piece(self) -> None:
        if self._doubtful:
            self._ask_where_it_is()
        if not self.location:
            self.location, self.position = self.client.open_upload(), 0
        end = min(self.position + self.piece, self.size)
        if end <= self.position:
            return
        headers = {**OctetStream, "Content-Range": f"{self.position}-{end - 1}"}
        first = self.position
        # Of a first piece 400 and 403 are the registry's verdict; later they are about an upload that it has forgotten.
        lost = _FORGOTTEN if first else (404, 416)
        self._doubtful = True
        answer = self.client.answer(
            "PATCH",
            self.location,
            headers,
            lambda: Piece(self.open_at(first), end - first),
            (202, 204, *lost),
        )
        if answer.status in lost:
            raise Passing(f"it has lost its place in an upload (it answered {answer.status})")
        self._doubtful = False
        self._moved_to(answer)
        self.position = end
        self.progress(end - first)

    def _ask_where_it_is(self) -> None:
        """After a piece that may have arrived or not. An upload that the registry has forgotten begins again."""
        known = self.position
        answer = self.client.answer("GET", self.location, None, None, (204, 202, 200, *_FORGOTTEN))
        found = _RANGE.fullmatch(answer.headers.get("Range", ""))
        if answer.status in _FORGOTTEN:
            self.location, self.position = "", 0
        else:
            self._moved_to(answer)
            # A registry with nothing yet says 0-0, or leaves the range out.
            self.position = int(found[1]) + 1 if found and int(found[1]) else 0
        self._doubtful = False
        self.progress(self.position - known)

    def _moved_to(self, answer: Answer) -> None:
        if there := answer.headers.get("Location", ""):
            self.location = urljoin(self.location, there)

    def _close(self) -> None:
        url = oras.utils.append_url_params(self.location, {"digest": self.digest})
        headers = {**OctetStream, "Content-Length": "0"}
        answer = self.client.answer("PUT", url, headers, None, (200, 201, 202, 204, 404))
        if answer.status == 404:
            # The answer to a close that worked may have been lost.
            there = self.client.answer("HEAD", self.client.blob_url(self.digest), ok=(200, 404))
            if there.status == 404:
                self.location, self.position, self._doubtful = "", 0, False
                raise TryAgain(
                    f"The registry {self.client.reference.registry} has forgotten an upload that was whole."
                )


_FORGOTTEN = (400, 403, 404, 416)


class Piece(io.RawIOBase):
    """A part of a file as a body whose length is known beforehand; closes the file with itself."""

    def __init__(self, below: BinaryIO, size: int) -> None:
        self._below, self._size, self._left = below, size, size

    def __len__(self) -> int:
        return self._size

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size - self._left  # `requests` asks, to know how much is still to send

    def read(self, size: int = -1) -> bytes:
        content = self._below.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(content)
        return content

    def close(self) -> None:
        self._below.close()
        super().close()
