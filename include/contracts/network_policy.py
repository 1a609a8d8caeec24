"""Where a Workspace may make the cluster connect to: dataset URLs, registries, and whatever these redirect to.

A URL or an image in a Workspace must be no way into the cluster's network (server-side request forgery). `check` and
the preflight judge what the text alone says, the pods judge every address that a name leads to, right before they
connect to it; both ask the same `NetworkPolicy`. Nothing here may resolve or open anything, and no sentence may hold a
query or a password.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from include.contracts.addresses import Address, Network, is_allowed, is_public, literal, parse_networks
from include.contracts.image_reference import ImageReference

SCHEMES = ("https", "http")
DEFAULT_PORTS = {"http": 80, "https": 443}
DATASET_PORTS = frozenset(DEFAULT_PORTS.values())
#: Registries on public addresses: https, and the ports from 1024 up that people give them (5000, 5050, 8443).
UNPRIVILEGED = 1024
# Names that lead to a cloud's metadata service or to the machine itself (KAITO's list, rule U7).
FORBIDDEN_HOSTS = frozenset(
    {"localhost", "metadata.google.internal", "metadata.google", "instance-data.ec2.internal", "metadata"}
)
FORBIDDEN_ENDINGS = (".localhost",)
INSIDE_ENDINGS = (".local", ".internal")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_WRITE = "write https://host/path"


class Refused(ValueError):
    """A place that may not be connected to; str() says why, `hint` what would do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL leads: scheme and host in lower case, IPv6 without brackets, the port always said."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """Public addresses on the usual ports; besides, what the administrator allows, on any port.

    `networks` are the setting `allowed_networks`; `registries` are the hosts (host:port, as references write them) of
    the setting `insecure_registries`: who lists one has vouched for it, wherever it is.
    """

    networks: tuple[Network, ...] = ()
    registries: frozenset[str] = frozenset()

    @classmethod
    def of(cls, networks: Iterable[str] = (), registries: Iterable[str] = ()) -> NetworkPolicy:
        """From the settings' texts. Raises ValueError that names the one that is no network."""
        return cls(parse_networks(networks), frozenset(one.lower() for one in registries))

    def check_name(self, host: str) -> None:
        """What the name alone says. Raises Refused."""
        name = host.rstrip(".").lower()
        inside = name.endswith(INSIDE_ENDINGS) and not self.networks
        if name in FORBIDDEN_HOSTS or name.endswith(FORBIDDEN_ENDINGS) or inside:
            raise Refused(
                f"the host {host} is inside the cluster's own network or a metadata service", _INSIDE_HINT
            )

    def check_address(self, address: Address, port: int, *, host: str = "", registry: bool = False) -> None:
        """Whether this address may be connected to on this port. Raises Refused.

        `host` is the name that led there, for the sentence; registries may have ports that datasets may not.
        """
        if is_allowed(address, self.networks):
            return
        shown = f"{host} ({address})" if host and literal(host) != address else str(host or address)
        if not is_public(address):
            raise Refused(
                f"{shown} is not a public address, but inside a network or a metadata service", _INSIDE_HINT
            )
        self._check_port(shown, port, registry)

    def check_dataset(self, url: str) -> Place:
        """A dataset's URL as far as its text says; where it leads. Raises Refused."""
        place = parse_place(url)
        self._check_place(place.host, place.port, registry=False)
        return place

    def check_registry(self, reference: ImageReference) -> None:
        """A registry as far as its name says. Raises Refused."""
        if reference.registry in self.registries:
            return
        place = parse_place(f"https://{reference.api_host}/")
        self._check_place(place.host, place.port, registry=True)

    def _check_place(self, host: str, port: int, *, registry: bool) -> None:
        self.check_name(host)
        address = literal(host)
        if address is not None:
            self.check_address(address, port, host=host, registry=registry)
        elif not self.networks:  # else the name may lead into one of them, where every port will do
            self._check_port(host, port, registry)

    @staticmethod
    def _check_port(host: str, port: int, registry: bool) -> None:
        if registry:
            if port not in DATASET_PORTS and port < UNPRIVILEGED:
                raise Refused(f"port {port} of {host} is not one that a registry listens on", "use 443")
        elif port not in DATASET_PORTS:
            raise Refused(f"port {port} of {host} is not allowed: on public addresses it must be 80 or 443")


_INSIDE_HINT = (
    "use a public address, a volume or an image, or ask your administrator to list the network in the setting "
    "allowed_networks"
)


def parse_place(url: str) -> Place:
    """The place that an http or https URL names. Raises Refused for what is no URL that can be fetched.

    Stricter than browsers: no user or password, no backslash or control character, a host name that is one.
    """
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise Refused("is not a URL", f"{_WRITE}, with spaces as %20")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refused(f"is not a URL ({_reason(error)})", _WRITE) from None
    scheme = parts.scheme.lower()
    if scheme not in SCHEMES:
        raise Refused("only http and https URLs are fetched", _WRITE)
    if "@" in parts.netloc:
        raise Refused("the URL holds a user name or password", "put access into a signed URL or use a volume")
    if not host:
        raise Refused("the URL names no host", _WRITE)
    if port == 0:
        raise Refused("is not a URL (port 0)", _WRITE)
    if parts.netloc.startswith("[") and not re.fullmatch(r"\[[^][]*\](:\d*)?", parts.netloc):
        raise Refused("is not a URL (only a port may stand behind the brackets)", _WRITE)
    return Place(scheme, _host(host, bracketed=parts.netloc.startswith("[")), port or DEFAULT_PORTS[scheme])


def _host(host: str, *, bracketed: bool) -> str:
    if bracketed:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise Refused("is not a URL (no IPv6 address between the brackets)", _WRITE) from None
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not _HOST.fullmatch(name.removesuffix(".")) or len(name) > 253:
        raise Refused("the host is not a host name", _WRITE)
    return name.lower()


def _reason(error: ValueError) -> str:
    """Python's words about a URL, unless they quote it."""
    text = str(error)
    return "its host or port cannot be read" if "'" in text or '"' in text else text
