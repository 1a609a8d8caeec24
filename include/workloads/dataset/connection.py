"""One HTTP(S) request whose every hop goes to an address that was checked a moment before.

The connection is made to the checked address, with the real name in Host and SNI, so nothing looks the name up a
second time; each redirect is checked like a new URL. Proxies from the environment are not used for the same
reason. A URL's query goes to the server and nowhere else: it may be a signature.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin

import certifi
import urllib3
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util import Url, make_headers, parse_url

from include.contracts.redaction import CUT, hide, redact_url
from include.workloads.contract import TryAgain, UserConfigError, UserDataError
from include.workloads.deadline import Deadline, HTTPPool, HTTPSPool
from include.workloads.network import AddressPolicy

MAX_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
GOOD = frozenset({200, 206, 304, 416})
DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_RETRY_AFTER = 60.0


class PassingFault(Exception):
    """A fault worth another try; `wait` is what the server asked for, in seconds."""

    def __init__(self, sentence: str, wait: float = 0.0) -> None:
        super().__init__(sentence)
        self.wait = wait


def shown(url: str) -> str:
    """The URL as it may be logged: scheme, host, port and path, no user, query or fragment."""
    return redact_url(url).removesuffix(CUT)


def parse(url: str) -> Url:
    """A dataset URL taken apart once: what is checked is what is connected to."""
    try:
        parts = parse_url(url)
    except (LocationParseError, ValueError):
        raise UserConfigError(f"{shown(url)!r} is not a URL.") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise UserConfigError(f"{shown(url)!r} is not an http:// or https:// URL.")
    if not parts.host:
        raise UserConfigError(f"{shown(url)!r} has no host name.")
    return parts._replace(port=parts.port or DEFAULT_PORTS[parts.scheme])


def _tls_context() -> ssl.SSLContext:
    """Certificates of the system (SSL_CERT_FILE included: a company's own authority) and of certifi."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


@dataclass(frozen=True)
class PinnedClient:
    """Opens URLs for reading. Seconds are for one connect, for one wait for bytes, and for one hop's whole headers."""

    policy: AddressPolicy = field(default_factory=AddressPolicy)
    connect_seconds: float = 10.0
    read_seconds: float = 60.0
    header_seconds: float = 60.0
    tls: ssl.SSLContext = field(default_factory=_tls_context)
    #: Sent to the host that was asked for and to none that it redirects to; "" for nothing.
    authorization: str = field(default="", repr=False)
    #: Is given the headers of each answer that redirects: a hub says there what a CDN's own answer does not.
    on_redirect: Callable[[Mapping[str, str]], None] | None = None

    def open(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        denied: str = "",
        redirects: int = MAX_REDIRECTS,
    ) -> urllib3.BaseHTTPResponse:
        """The unread response of the last hop, with status 200, 206, 304 or 416; the caller closes it.

        Raises PassingFault, UserConfigError (address, status, redirects) or UserDataError.

        :param body: what is posted, None for GET. A body goes to the first host only: give `redirects` 0 with one.
        :param denied: what it means that the server knows no right to this file (401, 403).
        :param redirects: hops that are followed.
        """
        first = current = parse(url)
        base = url
        for _ in range(redirects + 1):
            response = self._request(
                current, _headers(current, first, headers, self.authorization), shown(url), body
            )
            if response.status not in REDIRECTS:
                _check_status(response, url, denied or (_DENIED if self.authorization else _CLOSED))
                return response
            if self.on_redirect:
                self.on_redirect(response.headers)
            base = urljoin(base, response.headers.get("Location", ""))
            response.close()
            target = parse(base)
            if current.scheme == "https" and target.scheme == "http":
                raise UserConfigError(f"{shown(url)} redirects from https to plain http ({target.host}).")
            current = target
        more = f"more than {redirects} times" if redirects else "to elsewhere, which is not followed here"
        raise UserConfigError(f"{shown(url)} redirects {more}.")

    def _request(
        self, url: Url, headers: Mapping[str, str], asked: str, body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse:
        host, port = (url.host or "").strip("[]"), url.port or 0
        try:
            addresses = self.policy.addresses(host, port)
        except TryAgain as error:
            raise PassingFault(str(error)) from None
        except UserConfigError as error:
            leads = "" if shown(url.url) == asked else f" redirects to {shown(url.url)}"
            raise UserConfigError(f"{asked}{leads}: {error}.") from None
        fault: Exception | None = None
        for address in addresses:
            pool = self._pool(url.scheme or "", host, address, port)
            with Deadline(self.header_seconds) as deadline:
                try:
                    response = self._send(pool, url, headers, body)
                except (HTTPError, OSError) as error:
                    pool.close()
                    fault = error
                    if not deadline.expired:
                        continue
                else:
                    # Cut off in the middle, headers look complete.
                    if not deadline.expired:
                        return response
                    response.close()
                raise PassingFault(f"{host}:{port} sent no whole answer within {self.header_seconds:.0f} s")
        raise PassingFault(_reason(fault, host, port)) from None

    def _send(
        self, pool: urllib3.HTTPConnectionPool, url: Url, headers: Mapping[str, str], body: bytes | None
    ) -> urllib3.BaseHTTPResponse:
        return pool.urlopen(
            "GET" if body is None else "POST",
            url.request_uri,
            body=body,
            headers=dict(headers),
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
        )

    def _pool(self, scheme: str, host: str, address: str, port: int) -> urllib3.HTTPConnectionPool:
        timeout = urllib3.Timeout(connect=self.connect_seconds, read=self.read_seconds)
        if scheme == "http":
            return HTTPPool(address, port, timeout=timeout)
        return HTTPSPool(
            address, port, timeout=timeout, ssl_context=self.tls, server_hostname=host, assert_hostname=host
        )


def _headers(url: Url, first: Url, extra: Mapping[str, str], authorization: str) -> dict[str, str]:
    host = url.host or ""
    headers = {
        "Host": host if url.port == DEFAULT_PORTS[url.scheme or "https"] else f"{host}:{url.port}",
        "User-Agent": "kaito-airflow-dataset",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        **extra,
    }
    if (url.scheme, url.host, url.port) != (first.scheme, first.host, first.port):
        return headers
    if first.auth:
        hide(first.auth.partition(":")[2])
        headers["Authorization"] = make_headers(basic_auth=first.auth)["authorization"]
    elif authorization:
        headers["Authorization"] = authorization
    return headers


_DENIED = (
    "the Secret of kaito.sh/dataset-secret has no access to it, or has run out; its key AUTHORIZATION is the whole "
    "value of the header, such as Bearer hf_..."
)
_CLOSED = (
    "it is not public, or its signed link has run out. Give a public or a freshly signed link, or name a Secret with "
    "the value of an Authorization header in the annotation kaito.sh/dataset-secret"
)


def _check_status(response: urllib3.BaseHTTPResponse, url: str, denied: str) -> None:
    status = response.status
    if status in GOOD:
        if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
            response.close()
            raise UserDataError(f"{shown(url)} is sent compressed only; give a link to the plain file.")
        return
    wait = response.headers.get("Retry-After", "")
    response.close()
    if status in PASSING:
        seconds = min(float(wait), MAX_RETRY_AFTER) if wait.isdigit() else 0.0
        raise PassingFault(f"the server answered {status}", seconds)
    if status in (401, 403):
        raise UserConfigError(f"{shown(url)} answered {status}: {denied}.")
    if status in (404, 410):
        raise UserConfigError(f"{shown(url)} answered {status}: there is no such file; check the link.")
    raise UserConfigError(f"{shown(url)} answered {status}; expected 200 with the file.")


def _reason(fault: Exception | None, host: str, port: int) -> str:
    if isinstance(fault, urllib3.exceptions.SSLError):
        return f"no secure connection to {host}:{port}: {fault.args[0] if fault.args else fault}"
    if isinstance(fault, urllib3.exceptions.TimeoutError) and not isinstance(
        fault, urllib3.exceptions.NewConnectionError
    ):
        return f"{host}:{port} did not answer in time"
    if isinstance(fault, urllib3.exceptions.NewConnectionError):
        return f"no connection to {host}:{port}"
    return f"the connection to {host}:{port} failed ({type(fault).__name__})"
