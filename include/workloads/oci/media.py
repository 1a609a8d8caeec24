"""What manifests are called, and what digests look like. Needs no library, so that the control plane has it too."""

from __future__ import annotations

import hashlib
import re

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = ", ".join((OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST))

#: What cosign keeps beside an image under tags made of its digest: signatures, attestations, bills of materials.
COSIGN_KINDS = ("sig", "att", "sbom")
_BESIDE = re.compile(r"sha256-[0-9a-f]{64}(\.[a-z]+)?")


def cosign_tag(digest: str, kind: str) -> str:
    """The tag under which cosign looks for what it keeps of a digest; ``kind`` is one of COSIGN_KINDS."""
    return f"{digest.replace(':', '-')}.{kind}"


def stands_beside(tag: str) -> bool:
    """Whether a tag is of a digest: of its referrers, where a registry has no list of them, or cosign's."""
    return bool(_BESIDE.fullmatch(tag))


def sha256(content: bytes) -> str:
    """Digest in OCI's spelling."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
