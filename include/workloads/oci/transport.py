"""Requests to a registry, its token server and its storage, bounded in bytes and in time before memory is taken.

`requests` reads a body whole, also that of an error and of a redirect, and unpacks it without limit: a registry could
fill a pod's memory or hold it for ever. Here every body is read up to a limit and as it was sent, and each exchange
has one deadline for its headers. Whoever carries a whole transfer sets another around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from include.workloads.deadline import Deadline, HTTPPool, HTTPSPool

CHUNK = 1 << 20
# One connect, and one wait for bytes.
TIMEOUT = (10.0, 120.0)
HEADER_SECONDS = 120.0
MAX_REDIRECTS = 5
_FOREVER = 24 * 3600.0
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Of answers whose text is only shown, such as an error's.
MAX_NOTE_BYTES = 64 << 10

Content = Callable[[], Any]


class TooBig(Exception):
    """A body goes on behind its limit."""


class TooSlow(requests.Timeout):
    """The deadline ended an exchange; what arrived may be cut short."""


class DeadlineAdapter(HTTPAdapter):
    """Connections that keep to the deadlines, also through a proxy."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": HTTPPool, "https": HTTPSPool}

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = {"http": HTTPPool, "https": HTTPSPool}
        return manager


@dataclass(frozen=True)
class Answer:
    """An answer read whole, within its limit."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""
    url: str = ""  # who gave it, after redirects


class _Session(requests.Session):
    """Sees no redirects: `requests` reads the whole body of one, even where it shall not follow it."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


@dataclass
class Transport:
    """A session that follows redirects itself; `adapter` connects.

    `header_seconds` is for each exchange up to the end of its headers.
    """

    adapter: HTTPAdapter = field(default_factory=DeadlineAdapter)
    session: requests.Session = field(default_factory=_Session)
    header_seconds: float = HEADER_SECONDS
    authorization: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, self.adapter)
        # A body is hashed and counted as it was sent.
        self.session.headers["Accept-Encoding"] = "identity"

    def open(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, data: Content | None = None
    ) -> requests.Response:
        """The unread answer after at most five redirects; the caller closes it. `data` is called for each sending.

        A host gets the value that `authorization` has for it and no other. Raises what `requests` raises.
        """
        sent = dict(headers or {})
        for _ in range(MAX_REDIRECTS + 1):
            response = self._once(method, url, sent, data)
            if response.status_code not in REDIRECTS:
                return response
            there = urljoin(url, response.headers.get("Location", ""))
            if urlsplit(there)[:2] != urlsplit(url)[:2]:
                if method not in ("GET", "HEAD"):
                    return response  # a body may hold a secret
                sent.pop("Authorization", None)
            response.close()
            url = there
        raise requests.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects")

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        data: Content | None = None,
        limit: int = MAX_NOTE_BYTES,
    ) -> Answer:
        """The whole answer, or the beginning of one that is no success.

        Raises TooBig when a good one has more bytes than `limit`, and what `requests` raises.
        """
        with self.open(method, url, headers, data) as response:
            content = _read(response, limit, self.header_seconds) if method != "HEAD" else b""
            if len(content) > limit and response.ok:
                raise TooBig
            return Answer(response.status_code, response.headers, content[:limit], response.url)

    def _once(
        self, method: str, url: str, headers: dict[str, str], data: Content | None
    ) -> requests.Response:
        headers = dict(headers)
        if known := self.authorization.get(urlsplit(url).netloc):
            headers["Authorization"] = known
        content = data() if data else None
        # What is sent may be gigabytes: then only the deadline around the whole transfer counts.
        small = content is None or isinstance(content, bytes)
        seconds = self.header_seconds if small else _FOREVER
        try:
            with Deadline(seconds) as deadline:
                response = _unless_late(
                    deadline,
                    lambda: self.session.request(
                        method,
                        url,
                        headers=headers,
                        data=content,
                        stream=True,
                        timeout=TIMEOUT,
                        allow_redirects=False,
                    ),
                )
        finally:
            close = getattr(content, "close", None)
            if close is not None:
                close()
        return response


def _unless_late(deadline: Deadline, request: Callable[[], requests.Response]) -> requests.Response:
    try:
        response = request()
    except (requests.RequestException, ValueError):
        if deadline.expired:
            raise TooSlow(f"no answer within {deadline.seconds:.0f} s") from None
        raise
    if deadline.expired:
        response.close()
        raise TooSlow(f"no whole answer within {deadline.seconds:.0f} s")
    return response


def _read(response: requests.Response, limit: int, seconds: float) -> bytes:
    """Up to one byte more than `limit`, as it was sent."""
    with Deadline(seconds) as deadline:
        found = b"".join(chunks(response, limit + 1))
        if deadline.expired:
            raise TooSlow(f"no whole answer within {seconds:.0f} s")
    return found


def chunks(response: requests.Response, limit: int) -> Iterator[bytes]:
    """The body as it was sent, at most `limit` bytes of it; a body shorter than it said is a ConnectionError."""
    expected, size = response.headers.get("Content-Length", ""), 0
    try:
        while size < limit and (content := response.raw.read1(min(CHUNK, limit - size))):
            size += len(content)
            yield content
    except (HTTPError, OSError) as error:
        raise requests.ConnectionError(f"the answer broke off ({type(error).__name__})") from None
    if size < limit and expected.isdigit() and size < int(expected):
        raise requests.ConnectionError(f"the answer ended after {size} of {expected} bytes")
