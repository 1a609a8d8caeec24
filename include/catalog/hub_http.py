"""One HTTP request to a model hub: in time, of bounded size, by TLS, and never to another host than was asked.

A name that a user typed leads here, so nothing that the hub answers may send the token or the request elsewhere. It
must never be called while a DAG file is parsed.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    import ssl

    import httpx

CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0
WHOLE_SECONDS = 30.0  # KAITO gives its lookup as long
REDIRECTS_MAX = 3


class HubError(Exception):
    """Why a model of the hub cannot be used, as a sentence; `transient` when a later try may go better."""

    transient = False


class HubUnreachable(HubError):
    """The hub gave no answer, or none that is about the model."""

    transient = True


class HubAnswerRefused(HubError):
    """An answer that is not taken: too large, not JSON, or a redirect to another host."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its status, its headers in lower case, its whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Fetch = Callable[[str, str | None, int], Answer]
"""(URL, token or None, largest body in bytes) -> Answer."""


def check_endpoint(endpoint: str) -> str:
    """The hub's address without a slash at the end. Raises HubError unless it is https (http for loopback only)."""
    parts = urlsplit(endpoint)
    secure = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))
    if not secure or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise HubError(
            f"The hub's address {parts.scheme}://{parts.hostname} (HF_ENDPOINT) must be https://HOST."
        )
    return endpoint.rstrip("/")


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


@cache
def _tls() -> ssl.SSLContext:
    """The system's trusted certificates, read once: that takes longer than a request."""
    import httpx

    return httpx.create_ssl_context()


def http_fetch(url: str, token: str | None, limit: int) -> Answer:
    """GET a URL of the hub; see Fetch. Raises HubUnreachable or HubAnswerRefused."""
    import httpx  # not at module level: the catalogue is read where nothing is ever fetched

    headers = {"Accept-Encoding": "identity", "User-Agent": "kaito-airflow"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    deadline = time.monotonic() + WHOLE_SECONDS
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    host = urlsplit(url).hostname
    try:
        with httpx.Client(timeout=timeout, follow_redirects=False, verify=_tls()) as client:
            for _ in range(REDIRECTS_MAX + 1):
                with client.stream("GET", url, headers=headers) as response:
                    if not response.has_redirect_location:
                        body = _body(response, limit, deadline)
                        return Answer(
                            response.status_code, {k.lower(): v for k, v in response.headers.items()}, body
                        )
                    url = _same_host(url, response.headers["location"])
    except httpx.HTTPError as error:
        raise HubUnreachable(f"The hub {host} could not be reached ({type(error).__name__}).") from None
    raise HubAnswerRefused(f"The hub {host} redirects more than {REDIRECTS_MAX} times.")


def _same_host(url: str, location: str) -> str:
    target = urljoin(url, location)
    old, new = urlsplit(url), urlsplit(target)
    if (old.scheme, old.hostname, old.port) != (new.scheme, new.hostname, new.port):
        raise HubAnswerRefused(f"The hub {old.hostname} redirects to {new.hostname}, which is not followed.")
    return target


def _body(response: httpx.Response, limit: int, deadline: float) -> bytes:
    host = response.url.host
    if response.headers.get("content-encoding", "identity") != "identity":
        raise HubAnswerRefused(f"The hub {host} answers compressed, which was not asked for.")
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > limit:
            raise HubAnswerRefused(f"The hub {host} answers with more than {limit >> 20} MiB.")
        if time.monotonic() > deadline:
            raise HubUnreachable(f"The hub {host} took more than {WHOLE_SECONDS:.0f} s to answer.")
    return bytes(body)
