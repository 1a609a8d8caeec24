"""A transport for `requests` that connects only to addresses that the network policy lets through, on every hop.

A registry is named by whoever writes a Workspace, and it names others: token servers, upload locations, redirects.
Each connection resolves its host once, checks every address and connects to exactly these. Proxies from the
environment are not used, because a proxy would resolve the name again.
"""

from __future__ import annotations

import socket
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError
from urllib3.util import connection as sockets

from include.workloads.contract import TryAgain
from include.workloads.deadline import Watched
from include.workloads.network import AddressPolicy, AddressRefused


class CheckedAdapter(HTTPAdapter):
    """For a session that asks `policy` before each connection, and keeps to the deadlines.

    `insecure` is the one registry (as references write it) that the administrator has vouched for: it may be anywhere,
    and only with one may plain http be spoken. A forbidden address raises AddressRefused out of the request.
    """

    def __init__(self, policy: AddressPolicy, insecure: str = "") -> None:
        self._pools = _pools(policy, insecure)
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        # What is read from a file to be sent at a time: the library's 16 KiB keep a fast network waiting.
        super().init_poolmanager(*args, **{"blocksize": 1 << 20, **options})
        self.poolmanager.pool_classes_by_scheme = self._pools

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        options["proxies"] = {}
        return super().send(request, *args, **options)


def _pools(policy: AddressPolicy, insecure: str) -> dict[str, type]:
    """Connection pools by scheme whose connections check where they go."""

    class Checked:
        """Stands where urllib3 looks a name up and connects; what is above (deadlines, TLS) sees its socket."""

        def _new_conn(self: Any) -> socket.socket:
            host, port = self.host.strip("[]").lower(), self.port
            if insecure in (f"{host}:{port}", f"[{host}]:{port}", host):
                return _connected(self, [host])
            if not insecure and not isinstance(self, HTTPSConnection):
                raise AddressRefused(f"it leads to plain http at {host}; only https is spoken with it")
            try:
                return _connected(self, policy.addresses(host, port))
            except TryAgain as error:
                raise NewConnectionError(self, str(error)) from None

    class PlainConnection(Watched, Checked, HTTPConnection):
        pass

    class SecureConnection(Watched, Checked, HTTPSConnection):
        pass

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = PlainConnection

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    return {"http": PlainPool, "https": SecurePool}


def _connected(connection: HTTPConnection, addresses: list[str]) -> socket.socket:
    fault: OSError | None = None
    for address in addresses:
        try:
            return sockets.create_connection(
                (address, connection.port), connection.timeout, socket_options=connection.socket_options
            )
        except OSError as error:
            fault = error
    raise NewConnectionError(connection, f"no connection to {connection.host}: {fault}")
