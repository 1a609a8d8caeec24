"""Image references as Docker and the OCI distribution specification write them.

It exists because a wrong reference otherwise shows after hours of tuning, at the push. It must never ask a registry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DOMAIN = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])"
    r"(?::[0-9]{1,5})?"
)
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
DEFAULT_REGISTRY = "docker.io"
NAME_MAX = 255


@dataclass(frozen=True, slots=True)
class ImageReference:
    """The parts of a reference; `tag` is "latest" when neither tag nor digest was given."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def parse_image(text: str) -> ImageReference:
    """The parts of an image reference. Raises ValueError with a sentence that says which part is wrong."""
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError("the part after @ must be sha256: and 64 hex digits")
    head, colon, tag = rest.rpartition(":")
    if colon and "/" not in tag:
        if not _TAG.fullmatch(tag):
            raise ValueError(f"{tag!r} is not a tag (letters, digits, '_', '.', '-', at most 128 of them)")
        rest = head
    else:
        tag = ""
    registry, repository = _split(rest)
    for part in repository.split("/"):
        if not _PART.fullmatch(part):
            lower = "; repository names are lower case" if part != part.lower() else ""
            raise ValueError(f"{part!r} is not a part of a repository name{lower}")
    if len(rest) > NAME_MAX:
        raise ValueError(f"the name has {len(rest)} characters; at most {NAME_MAX} are allowed")
    return ImageReference(registry, repository, tag or (None if digest else "latest"), digest or None)


def _split(name: str) -> tuple[str, str]:
    """Registry and repository: the first part is a registry when it has a dot or a colon or is localhost."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        if not _DOMAIN.fullmatch(first):
            raise ValueError(f"{first!r} is not a registry host")
        return first, rest
    return DEFAULT_REGISTRY, name if slash else f"library/{name}"
