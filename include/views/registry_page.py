"""Where a browser shows an image of a registry that has pages for people."""

from __future__ import annotations

import re
from urllib.parse import quote

#: host[:port]/repository, with a tag, a digest or both; a first part without a dot or port is Docker Hub's.
_REFERENCE = re.compile(
    r"(?:(?P<host>[a-z0-9-]+(?:\.[a-z0-9-]+)+(?::\d+)?|localhost(?::\d+)?|[a-z0-9-]+:\d+)/)?"
    r"(?P<repository>[a-z0-9][a-z0-9._/-]*)(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def registry_page(reference: str) -> str:
    """The address of the page about an image, "" for a registry that is not known to have one.

    :param reference: the image as a Workspace's status names it, by its tag or digest.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        return ""
    host, repository, digest = found["host"] or "docker.io", quote(found["repository"]), found["digest"]
    if host in ("docker.io", "index.docker.io"):
        return f"https://hub.docker.com/r/{repository if '/' in repository else f'library/{repository}'}"
    if host == "quay.io":
        return f"https://quay.io/repository/{repository}{f'/manifest/{digest}' if digest else ''}"
    if host == "ghcr.io" or host.endswith((".pkg.dev", ".gcr.io")) or host == "gcr.io":
        return f"https://{host}/{repository}"  # both lead a browser to the page of the package
    return ""
