"""Image references: which registry, which repository, which tag or digest.

The grammar is that of https://github.com/distribution/reference, which Docker, containerd and Kubernetes share, with
three differences, each stricter: digests are SHA-256 (the only one that the pods verify), a registry without dot and
port must be `localhost` (Docker takes an upper-case word for one, and it is a slip of the hand), and a port is a port.
Nothing here may ask a registry.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from include.contracts.redaction import redact_url

DOCKER_HUB = "docker.io"
DOCKER_HUB_NAMES = frozenset(
    {"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}
)
DOCKER_HUB_API = "registry-1.docker.io"
NAME_MAX = 255

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::(?P<port>[0-9]{{1,5}}))?")
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IDENTIFIER = re.compile(r"[0-9a-f]{64}")


class InvalidReference(ValueError):
    """A text that is no image reference; str() is the end of a sentence that says which part is wrong."""


@dataclass(frozen=True, slots=True)
class ImageReference:
    """The parts of a reference; `tag` is None only when a digest is there. `registry` is in lower case."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def version(self) -> str:
        """What to ask the registry for: the digest when there is one."""
        return self.digest or self.tag or "latest"

    @property
    def api_host(self) -> str:
        """Host and port of the registry's API."""
        return DOCKER_HUB_API if self.registry == DOCKER_HUB else self.registry

    def by_digest(self, digest: str) -> str:
        """The reference that can never mean anything else."""
        return f"{self.name}@{digest}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def parse_reference(text: str) -> ImageReference:
    """`[registry/]repository[:tag][@sha256:digest]`. Raises InvalidReference, which says which part is wrong."""
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise InvalidReference("the part after @ must be sha256: and 64 hex digits")
    head, colon, tag = rest.rpartition(":")
    if colon and "/" not in tag:
        if not _TAG.fullmatch(tag):
            raise InvalidReference(
                f"{redact_url(tag)!r} is not a tag (letters, digits, '_', '.', '-', at most 128 of them)"
            )
        rest = head
    else:
        tag = ""
    registry, repository = _split(rest)
    for index, part in enumerate(repository.split("/")):
        _check_part(part, maybe_registry=index == 0 and registry == DOCKER_HUB)
    if len(rest) > NAME_MAX:
        raise InvalidReference(f"the name has {len(rest)} characters; at most {NAME_MAX} are allowed")
    if _IDENTIFIER.fullmatch(rest):
        raise InvalidReference("64 hex digits alone are an image's id, not its name")
    return ImageReference(registry, repository, tag or (None if digest else "latest"), digest or None)


def _split(name: str) -> tuple[str, str]:
    """Registry and repository: the first part is a registry when it has a dot or a colon or is localhost."""
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first.lower() == "localhost"):
        return DOCKER_HUB, name if slash else f"library/{name}"
    _check_registry(first)
    registry = first.lower()
    if registry in DOCKER_HUB_NAMES:
        return DOCKER_HUB, rest if "/" in rest else f"library/{rest}"
    return registry, rest


def _check_registry(text: str) -> None:
    match = _REGISTRY.fullmatch(text)
    port = match["port"] if match else None
    if match is None or (port and not 1 <= int(port) <= 65535):
        raise InvalidReference(f"{redact_url(text)!r} is not a registry host")
    if text.startswith("["):
        try:
            ipaddress.IPv6Address(match["host"][1:-1])
        except ValueError:
            raise InvalidReference(f"{redact_url(text)!r} is not a registry host") from None


def _check_part(part: str, maybe_registry: bool) -> None:
    if _PART.fullmatch(part):
        return
    hint = "; repository names are lower case" if part != part.lower() else ""
    if maybe_registry and hint:
        hint += ", and a registry has a dot or a port"
    raise InvalidReference(f"{redact_url(part)!r} is not a part of a repository name{hint}")
