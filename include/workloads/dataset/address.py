"""Which addresses a dataset may be fetched from: a URL in a Workspace must be no way into the cluster.

A name is resolved here, every address is checked, and the caller connects to exactly these addresses: it must
never resolve the name a second time, because the second answer may differ (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from include.workloads.contract import TryAgain, UserConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], list[str]]

PUBLIC_PORTS = frozenset({80, 443})
# Azure's WireServer gives out machine secrets, and its address is from a public range.
NEVER = (ipaddress.ip_network("168.63.129.16/32"),)
# The well-known prefix of NAT64 (RFC 6052): how a cluster without IPv4 reaches the IPv4 internet.
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """CIDRs as networks; UserConfigError names the one that is none."""
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError as error:
            raise UserConfigError(
                f"DATASET_ALLOWED_NETWORKS: {text!r} is not a network like 10.0.0.0/8 ({error})."
            ) from None
    return tuple(networks)


def system_resolve(host: str, port: int) -> list[str]:
    """All addresses of a host in the resolver's order, without repeats."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _faces(address: Address) -> list[Address]:
    """What traffic to an address may reach: the IPv4 address inside it, where a translator stands in between."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    tunnelled = [address.sixtofour, *(address.teredo or ())]
    return [address, *(face for face in tunnelled if face is not None)]


def is_public(address: Address) -> bool:
    """Whether an address is an ordinary public one: not private, loopback, link-local, CGNAT, ULA..."""
    return all(
        face.is_global
        and not (face.is_multicast or face.is_reserved or face.is_unspecified)
        and not any(face in network for network in NEVER)
        for face in _faces(address)
    )


@dataclass(frozen=True)
class AddressPolicy:
    """Public addresses on ports 80 and 443, plus whatever the allowed networks hold, on any port."""

    allowed: tuple[Network, ...] = ()
    resolve: Resolve = system_resolve

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses to connect to, all of them checked.

        UserConfigError when one of them is forbidden or the name does not exist, TryAgain when the resolver
        fails; their sentences are the end of one that begins with the URL.
        """
        try:
            found = self.resolve(host, port)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise TryAgain(f"The name {host} could not be looked up for now.") from None
            raise UserConfigError(f"the host name {host} does not exist") from None
        except UnicodeError:
            raise UserConfigError(f"{host!r} is not a host name") from None
        for text in found:
            self._check(host, text, port)
        return found

    def _check(self, host: str, text: str, port: int) -> None:
        address = ipaddress.ip_address(text.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        if any(mapped in network for network in self.allowed):
            return
        if not is_public(address):
            shown = host if host == text else f"{host} ({text})"
            raise UserConfigError(
                f"{shown} is not a public address; datasets come from public addresses or from networks "
                "that the administrator allows (DATASET_ALLOWED_NETWORKS)"
            )
        if port not in PUBLIC_PORTS:
            raise UserConfigError(
                f"port {port} of {host} is not allowed; on public addresses it must be 80 or 443"
            )
