"""What manifests are called, and what digests look like. Needs no library, so that the control plane has it too."""

from __future__ import annotations

import hashlib

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = ", ".join((OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST))


def sha256(content: bytes) -> str:
    """Digest in OCI's spelling."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
