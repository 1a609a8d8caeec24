"""A dataset that comes as an OCI image: the files under its /data, pulled like an adapter."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from include.workloads.adapter.pull import pull_image
from include.workloads.oci.manifests import find_manifest
from include.workloads.oci.session import connect, read_reference


@dataclass(frozen=True)
class PulledData:
    """Where an image's /data lies now, and which image it was."""

    folder: Path
    reference: str
    digest: str


def resolve_digest(image: str) -> str:
    """The digest that the image's reference means now."""
    return find_manifest(connect(read_reference(image))).digest


def pull_data(image: str, folder: Path, max_bytes: int) -> PulledData:
    """Unpack the image's /data into `folder`, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pulled = pull_image(connect(read_reference(image)), folder, lambda path: True, max_bytes)
    return PulledData(folder, pulled.reference, pulled.digest)
