"""Where datasets, adapters and services are, in OpenLineage's words: a namespace, a name in it, and a version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from include.contracts.dataset_urls import ABFS, scheme_of
from include.contracts.image_reference import InvalidReference, parse_reference

IMAGES = "oci://"
SERVICES = "x-kaito://served"


@dataclass(frozen=True, slots=True)
class Place:
    """One thing that others look for; `version` is its digest, "" where nobody knows it."""

    namespace: str
    name: str
    version: str = ""


def dataset_places(workspace: Mapping[str, Any], digest: str | None) -> list[Place]:
    """Where a Workspace's dataset lies: each URL without its query, its image, or its volume's claim.

    :param digest: of all rows together.
    """
    source = (workspace.get("tuning") or {}).get("input") or {}
    version = digest or ""
    if urls := source.get("urls"):
        parts = [urlsplit(str(url)) for url in urls]
        return [Place(f"{one.scheme}://{_authority(one)}", one.path or "/", version) for one in parts]
    if image := source.get("image"):
        return [place for place in (_image(str(image)),) if place]
    claim = ((source.get("volumeSource") or {}).get("persistentVolumeClaim") or {}).get("claimName")
    return [Place("x-kaito://volumes", str(claim), version)] if claim else []


def _authority(url: SplitResult) -> str:
    """The host, without a user or a port; of Azure's file systems with the container, as OpenLineage names them."""
    of_azure = scheme_of(url.geturl()) == ABFS and ":" not in url.netloc
    return url.netloc if of_azure else url.hostname or ""


def adapter_place(image: str | None, digest: str | None) -> list[Place]:
    """Where an adapter lies, [] for one without an image."""
    found = _image(image) if image else None
    return [Place(found.namespace, found.name, digest or found.version)] if found else []


def service_place(namespace: str, name: str, digest: str | None) -> Place:
    """A Workspace's service, and the adapter that it answers with."""
    return Place(SERVICES, f"{namespace}/{name}", digest or "")


def _image(image: str) -> Place | None:
    try:
        parsed = parse_reference(image)
    except InvalidReference:
        return None
    return Place(f"{IMAGES}{parsed.registry}", parsed.repository, parsed.digest or parsed.tag or "")
