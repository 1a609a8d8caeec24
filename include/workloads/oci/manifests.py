"""The manifest that a reference leads to."""

from __future__ import annotations

import re
from typing import Any

from include.contracts.image_reference import ImageReference
from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.oci.registry import Manifest, RegistryClient

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def find_manifest(client: RegistryClient) -> Manifest:
    """The image's manifest; of a multi-platform index the first for Linux, else the first."""
    reference = client.reference
    manifest = client.manifest(reference.version)
    if manifest is None:
        raise UserConfigError(
            f"The registry {reference.registry} has no image {reference.repository} with "
            f"{reference.version}; check the name, or push it first."
        )
    entries = manifest.document.get("manifests")
    if not entries:
        return manifest
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserDataError(f"{reference} is not an image: its index is no list of manifests.")
    linux = [entry for entry in entries if _system(entry) == "linux"]
    chosen = digest_in((linux or entries)[0], reference)
    found = client.manifest(chosen)
    if found is None:
        raise UserDataError(f"The index of {reference} names a manifest that the registry does not have.")
    return found


def _system(entry: dict[str, Any]) -> object:
    platform = entry.get("platform")
    return platform.get("os") if isinstance(platform, dict) else None


def digest_in(entry: object, reference: ImageReference) -> str:
    """The digest of a manifest's entry; UserDataError where it has none that could be one."""
    digest = entry.get("digest") if isinstance(entry, dict) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise UserDataError(f"The manifest of {reference} has an entry without a sha256 digest.")
    return digest
