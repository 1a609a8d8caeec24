"""Image references: which registry, which repository, which tag or digest, with Docker Hub's short forms."""

from __future__ import annotations

import re
from dataclasses import dataclass

from include.workloads.contract import UserConfigError

DOCKER_HUB = "docker.io"
DOCKER_HUB_NAMES = frozenset(
    {"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}
)
DOCKER_HUB_API = "registry-1.docker.io"

# The grammar of https://github.com/distribution/reference (regexp.go).
_DOMAIN = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
_REGISTRY = re.compile(rf"(?:{_DOMAIN}|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """A parsed reference; `tag` is None only when a digest is there."""

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
        return self.by_digest(self.digest) if self.digest else f"{self.name}{tag}"


def parse_reference(text: str) -> Reference:
    """`[registry/]repository[:tag][@digest]`; UserConfigError says which part is wrong."""
    rest, at, digest = text.strip().partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _wrong(text, f"{digest!r} is not a digest like sha256:<64 hex digits>")
    head, slash, tail = rest.partition("/")
    has_registry = bool(slash) and ("." in head or ":" in head or head == "localhost")
    registry, path = (head, tail) if has_registry else (DOCKER_HUB, rest)
    if not _REGISTRY.fullmatch(registry):
        raise _wrong(text, f"{registry!r} is not a registry's host name")
    repository, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, f"{tag!r} is not a tag")
    if not _REPOSITORY.fullmatch(repository):
        raise _wrong(text, f"{repository!r} is not a repository name (lower case letters, digits, . _ - /)")
    if registry in DOCKER_HUB_NAMES:
        registry = DOCKER_HUB
        repository = repository if "/" in repository else f"library/{repository}"
    return Reference(registry, repository, tag or (None if digest else "latest"), digest or None)


def _wrong(text: str, why: str) -> UserConfigError:
    return UserConfigError(f"{text!r} is not an image reference: {why}.")
