"""What strategies may ask of the cluster: free addresses and ports, the default storage class, whether things exist."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import INVALID, ApiError, FieldError, invalid
from sandbox.api.meta import dig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.api.storage.database import Storage

Json = dict[str, Any]

SERVICE_RANGE = ipaddress.ip_network(
    "127.96.0.0/16"
)  # loopback: the sandbox's services live on this machine only
NODE_PORTS = range(30000, 32768)
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


FIRST_FREE = 10  # low addresses are for the fixed services


class ClusterSite:
    def __init__(self, storage: Storage, start: int = 0) -> None:
        """`start` (any number) is where addresses begin, so that two sandboxes on one machine seldom meet."""
        self._storage = storage
        self._next = FIRST_FREE + start % (SERVICE_RANGE.num_addresses - FIRST_FREE - 2)

    def _services(self) -> Iterator[Json]:
        return (entry.obj for _, entry in self._storage.entries("services"))

    def allocate_cluster_ip(self, wanted: str) -> str:
        """The wanted address if it is free, else a fresh one."""
        used = {
            address for service in self._services() for address in dig(service, "spec", "clusterIPs") or ()
        }
        if wanted:
            self._check_address(wanted, used)
            return wanted
        for _ in range(SERVICE_RANGE.num_addresses):
            self._next = self._next % (SERVICE_RANGE.num_addresses - 2) + 1
            address = str(SERVICE_RANGE[self._next])
            if self._next > FIRST_FREE and address not in used:
                return address
        raise ApiError(
            500, "InternalError", "Internal error occurred: failed to allocate a serviceIP: range is full"
        )

    @staticmethod
    def _check_address(wanted: str, used: set[str]) -> None:
        try:
            inside = ipaddress.ip_address(wanted) in SERVICE_RANGE
        except ValueError:
            inside = False
        why = ""
        if not inside:
            why = (
                f"failed to allocate IP {wanted}: the provided IP ({wanted}) is not in the valid range. "
                f"The range of valid IPs is {SERVICE_RANGE}"
            )
        elif wanted in used:
            why = f"failed to allocate IP {wanted}: provided IP is already allocated"
        if why:
            raise invalid("Service", "", "", [FieldError("spec.clusterIPs", INVALID, [wanted], why)])

    def allocate_node_port(self) -> int:
        ports = (port for service in self._services() for port in dig(service, "spec", "ports") or ())
        used = {port.get("nodePort") for port in ports}
        return next(port for port in NODE_PORTS if port not in used)

    def default_storage_class(self) -> str | None:
        for key, entry in self._storage.entries("storageclasses.storage.k8s.io"):
            if (dig(entry.obj, "metadata", "annotations") or {}).get(_DEFAULT_CLASS) == "true":
                return key[1]
        return None

    def exists(self, resource: str, namespace: str, name: str) -> bool:
        return self._storage.get(resource, (namespace, name)) is not None
