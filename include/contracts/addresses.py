"""Which IP addresses are ordinary public ones: the IANA special-purpose registries as a table of our own.

Python's `is_global` follows the registries of the day that Python was built, so two Pythons judge one address
differently. Source of the tables: https://www.iana.org/assignments/iana-ipv4-special-registry and
iana-ipv6-special-registry (as of October 2025), RFC 6890 and its updates; to them come the addresses that clouds answer
on themselves. Nothing here may look a name up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_V4_SPECIAL = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT, pods of many clouds, Alibaba's metadata 100.100.100.200
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's WireServer gives out machine secrets, from a public range
            "169.254.0.0/16",  # link-local, most clouds' metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # IETF protocols; 192.0.0.192 is Oracle's metadata
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
_V4_PUBLIC = tuple(map(ipaddress.IPv4Network, ("192.0.0.9/32", "192.0.0.10/32")))  # anycast PCP and TURN

_V6_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that IANA has given out as global unicast
_V6_SPECIAL = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # IETF protocols: benchmarks, ORCHID
            "2001:db8::/32",  # documentation
            "3fff::/20",  # documentation
        ),
    )
)
_V6_PUBLIC = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001:1::1/128",
            "2001:1::2/128",
            "2001:1::3/128",
            "2001:3::/32",
            "2001:4:112::/48",
            "2001:20::/28",
            "2001:30::/28",
        ),
    )
)
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64 = ipaddress.IPv6Network(
    "64:ff9b::/96"
)  # how a cluster without IPv4 reaches the IPv4 internet (RFC 6052)
_SIXTOFOUR = ipaddress.IPv6Network("2002::/16")
_TEREDO = ipaddress.IPv6Network("2001::/32")
_WORD = 0xFFFFFFFF


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """CIDRs as networks. Raises ValueError with a sentence that names the one that is none."""
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError as error:
            raise ValueError(f"{text!r} is not a network like 10.0.0.0/8 ({error})") from None
    return tuple(networks)


def reached(address: Address) -> tuple[Address, ...]:
    """What traffic to an address may reach: the IPv4 addresses in it, where a translator or a tunnel stands between."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    number = int(address)
    if address in _MAPPED or address in _NAT64:
        return (ipaddress.IPv4Address(number & _WORD),)
    if address in _SIXTOFOUR:
        return (ipaddress.IPv4Address(number >> 80 & _WORD),)
    if address in _TEREDO:  # server, and the client with its bits turned over
        return ipaddress.IPv4Address(number >> 64 & _WORD), ipaddress.IPv4Address(~number & _WORD)
    return (address,)


def is_public(address: Address) -> bool:
    """Whether an address is an ordinary public one, and so is whatever it leads to."""
    return all(_is_public(face) for face in reached(address))


def is_allowed(address: Address, networks: Iterable[Network]) -> bool:
    """Whether the networks hold an address, or everything that it leads to."""
    known = tuple(networks)
    return any(address in network for network in known) or all(
        any(face in network for network in known) for face in reached(address)
    )


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        special = any(address in network for network in _V4_SPECIAL)
        return not special or any(address in network for network in _V4_PUBLIC)
    if address not in _V6_UNICAST:
        return False
    special = any(address in network for network in _V6_SPECIAL)
    return not special or any(address in network for network in _V6_PUBLIC)


def literal(host: str) -> Address | None:
    """The address that a host means without any lookup; in the odd spellings too that resolvers take (0x7f.1)."""
    bare = host.rstrip(".")
    try:
        return ipaddress.ip_address(bare.strip("[]").partition("%")[0])
    except ValueError:
        return _odd_ipv4(bare)


def _odd_ipv4(host: str) -> ipaddress.IPv4Address | None:
    """inet_aton's grammar: one to four numbers, decimal, octal or hexadecimal, the last one filling up."""
    parts = host.split(".")
    if not 1 <= len(parts) <= 4:
        return None
    numbers = [_number(part) for part in parts]
    if any(number is None for number in numbers):
        return None
    *high, last = [number or 0 for number in numbers]
    room = 8 * (4 - len(high))
    if any(number > 255 for number in high) or last >= 1 << room:
        return None
    value = last
    for index, number in enumerate(high):
        value |= number << (24 - 8 * index)
    return ipaddress.IPv4Address(value)


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isalnum() or len(text) > 40:
        return None
    try:
        if text.lower().startswith("0x"):
            return int(text[2:] or "0", 16)
        return int(text, 8 if len(text) > 1 and text.startswith("0") else 10)
    except ValueError:
        return None
