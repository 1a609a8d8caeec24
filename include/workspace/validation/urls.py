"""Checks a dataset URL before anything fetches it: the first wall against server-side request forgery.

Only what the text itself says is judged here; the dataset pod resolves the name, checks every address and pins it.
Functions here must never resolve or open anything, and what they give back never holds a query or a password.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

SCHEMES = ("https", "http")
# Names that lead to a cloud's metadata service or to the machine itself (KAITO's list, rule U7).
FORBIDDEN_HOSTS = frozenset(
    {"localhost", "metadata.google.internal", "metadata.google", "instance-data.ec2.internal", "metadata"}
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def redact(url: str) -> str:
    """The URL without user, password, query and fragment: these may hold a token."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return url.split("?")[0].split("#")[0].rpartition("@")[2]
    query = "?..." if parts.query else ""
    return SplitResult(parts.scheme, f"{host}{port}", parts.path, "", "").geturl() + query


def url_fault(url: str, allowed_networks: Sequence[str] = ()) -> tuple[str, str] | None:
    """Why a dataset URL is refused, as (message, hint), or None when it is fine.

    `allowed_networks` are CIDRs whose addresses are let through although they are private (off by default).
    """
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        return f"is not a URL ({error})", "write https://host/path"
    if parts.scheme.lower() not in SCHEMES:
        return "only http and https URLs are fetched", "write https://host/path"
    if not host:
        return "the URL names no host", "write https://host/path"
    if port == 0 or any(ch.isspace() for ch in url.strip()):
        return "is not a URL", "write https://host/path, with spaces as %20"
    if parts.username or parts.password:
        return "the URL holds a user name or password", "put access into a signed URL or use a volume"
    address = _address(host)
    if address is not None and any(address in network for network in _networks(allowed_networks)):
        return None
    if _forbidden_name(host) or (address is not None and not address.is_global):
        hint = "use a public address, a volume or an image"
        return "the host is inside the cluster's own network or a metadata service", hint
    return None


def _forbidden_name(host: str) -> bool:
    return host.lower() in FORBIDDEN_HOSTS or host.lower().endswith((".localhost", ".local", ".internal"))


def _networks(cidrs: Sequence[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]


def _address(host: str) -> Address | None:
    """The address that a literal host means, in the odd spellings too that resolvers take (0x7f.1, 2130706433)."""
    try:
        address: Address = ipaddress.ip_address(host)
    except ValueError:
        return _odd_ipv4(host)
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return mapped or address


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
    try:
        if text.lower().startswith("0x"):
            return int(text, 16)
        if len(text) > 1 and text.startswith("0"):
            return int(text, 8)
        return int(text) if text.isdecimal() and text.isascii() else None
    except ValueError:
        return None
