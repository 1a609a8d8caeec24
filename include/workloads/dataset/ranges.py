"""The rest of a large file in parts, a few of them on their way at once, handed on in their order.

One connection to an object store is slow, and several are not. Each part must be of the version that was begun with,
and exactly the bytes that were asked for; else the download begins its next try where the good parts end.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import urllib3
from urllib3.exceptions import HTTPError

from include.workloads.dataset.connection import PassingFault
from include.workloads.dataset.store_client import Opens
from include.workloads.deadline import Deadline

#: Bytes of a part, and how many parts are on their way or wait at once: what is held in memory.
PART_BYTES, AT_ONCE = 16 << 20, 4
CHUNK = 1 << 20
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
ANOTHER_PART = "the server gave another part of the file than asked for"


def content_range(headers: Mapping[str, str]) -> tuple[int, int, int] | None:
    """(first byte, last byte, bytes of the whole file) of a 206, None where it does not say them."""
    found = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if found is None:
        return None
    first, last, total = map(int, found.groups())
    return first, last, total


def read_some(response: urllib3.BaseHTTPResponse, most: int = CHUNK) -> bytes:
    """What has arrived, at most one chunk: a full chunk may never come from a slow server."""
    try:
        return response.read1(most)
    except HTTPError as error:
        raise PassingFault(f"the download broke off ({type(error).__name__})") from None


def can_be_split(response: urllib3.BaseHTTPResponse, etag: str | None, left: int) -> bool:
    """Whether the rest of a file is worth several connections, and they are sure to give the same version."""
    takes_ranges = response.status == 206 or response.headers.get("Accept-Ranges", "").strip() == "bytes"
    return left > 2 * PART_BYTES and takes_ranges and bool(etag) and not str(etag).startswith("W/")


@dataclass(frozen=True)
class Parts:
    """The bytes of one version of a file from a place on.

    :param etag: of the version, a strong one.
    :param total: bytes of the whole file.
    :param seconds_left: until the deadline of the whole dataset.
    """

    client: Opens
    url: str
    etag: str
    total: int
    seconds_left: Callable[[], float]

    def read(self, begin: int) -> Iterator[bytes]:
        """The parts in their order. Raises PassingFault, and what the client raises."""
        pool = ThreadPoolExecutor(AT_ONCE, "download")
        waiting: deque[Future[bytes]] = deque()
        try:
            for first in range(begin, self.total, PART_BYTES):
                waiting.append(pool.submit(self._part, first))
                if len(waiting) == AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _part(self, first: int) -> bytes:
        last = min(first + PART_BYTES, self.total) - 1
        with Deadline(self.seconds_left()) as deadline:
            response = self.client.open(self.url, {"Range": f"bytes={first}-{last}", "If-Range": self.etag})
            try:
                if response.status != 206 or response.headers.get("ETag") != self.etag:
                    raise PassingFault("the file has changed while it was downloaded")
                if content_range(response.headers) != (first, last, self.total):
                    raise PassingFault(ANOTHER_PART)
                data = bytearray()
                while len(data) <= last - first and (some := read_some(response)):
                    data += some
            finally:
                response.close()
        if deadline.expired or len(data) != last - first + 1:
            raise PassingFault(
                f"the connection ended after {len(data)} of {last - first + 1} bytes of a part"
            )
        return bytes(data)
