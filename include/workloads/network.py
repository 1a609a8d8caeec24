"""Looks names up and hands out only addresses that may be connected to: the pods' half of the network policy.

A name is resolved here, every address is checked, and the caller connects to exactly these addresses: it must never
resolve the name a second time, because the second answer may differ (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from include.contracts.network_policy import NetworkPolicy, Refused
from include.workloads.contract import TryAgain, UserConfigError, comma_list

Resolve = Callable[[str, int], list[str]]


class AddressRefused(UserConfigError):
    """A host that must not be connected to; its sentence is the end of one that begins with who asked."""


def network_policy() -> NetworkPolicy:
    """The policy in this pod's environment: ALLOWED_NETWORKS (CIDRs) and INSECURE_REGISTRIES (host:port)."""
    try:
        return NetworkPolicy.of(comma_list("ALLOWED_NETWORKS"), comma_list("INSECURE_REGISTRIES"))
    except ValueError as error:
        raise UserConfigError(f"ALLOWED_NETWORKS: {error}.") from None


def system_resolve(host: str, port: int) -> list[str]:
    """All addresses of a host in the resolver's order, without repeats."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True)
class AddressPolicy:
    """A network policy with a resolver; `registry` is for connections to registries, which have ports of their own."""

    policy: NetworkPolicy = field(default_factory=NetworkPolicy)
    resolve: Resolve = system_resolve
    registry: bool = False

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses to connect to, all of them checked.

        AddressRefused when one of them is forbidden, UserConfigError when the name does not exist, TryAgain when
        the resolver fails; their sentences are the end of one that begins with the URL.
        """
        try:
            self.policy.check_name(host)
            found = self.resolve(host, port)
            for text in found:
                address = ipaddress.ip_address(text.partition("%")[0])
                self.policy.check_address(address, port, host=host, registry=self.registry)
        except Refused as refused:
            hint = f"; {refused.hint}" if refused.hint else ""
            raise AddressRefused(f"{refused}{hint}") from None
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise TryAgain(f"The name {host} could not be looked up for now.") from None
            raise UserConfigError(f"the host name {host} does not exist") from None
        except UnicodeError:
            raise UserConfigError(f"{host!r} is not a host name") from None
        return found
