"""Reads one small file of an image from the control plane, which has no library of OCI and no disk to speak of.

Nothing is taken that the manifest's digests do not vouch for, and nothing beyond the limit is kept, however an archive
is packed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from include.contracts.image_reference import ImageReference
from include.contracts.network_policy import NetworkPolicy
from include.workloads.contract import UserDataError
from include.workloads.deadline import Deadline
from include.workloads.network import AddressRefused
from include.workloads.oci.asking import SECONDS, NotToBeHad, Repository, Unanswered, describe, unanswered
from include.workloads.oci.authorization import TokenRefused
from include.workloads.oci.credentials import Credentials, advice
from include.workloads.oci.media import ACCEPT, sha256
from include.workloads.oci.transport import TooBig
from include.workloads.oci.unpack import unpack_layer

#: Layers of an image that holds a few small files.
MAX_LAYERS = 16
#: Room for what an archive has besides the file: headers, padding, other files.
OVERHEAD = 4 << 20


def read_file(
    reference: ImageReference,
    credentials: Credentials | None,
    policy: NetworkPolicy,
    name: str,
    max_bytes: int,
) -> bytes:
    """The content of the file `/data/<name>` of an image.

    :param max_bytes: how big the file may be.
    :raises NotToBeHad: there is no such image, no such file, or it is bigger; the sentence says which.
    :raises Unanswered: the registry could not be asked.
    """
    found = describe(reference, credentials, policy)
    repository = Repository(reference, credentials, policy, SECONDS)
    document = found.document
    if entries := document.get("manifests"):
        document = _chosen(repository, entries)
    layers = document.get("layers")
    if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS:
        raise NotToBeHad(f"{reference} is not an image with a few small files: it has no layers, or many")
    limit = max_bytes + OVERHEAD
    with tempfile.TemporaryDirectory(prefix="kaito-image-") as folder:
        target = Path(folder) / "data"
        target.mkdir()
        for layer in layers:
            blob = Path(folder) / "layer"
            blob.write_bytes(_get(repository, "blobs", layer, limit))
            try:
                unpack_layer(blob, None, target, lambda path: str(path) == name, limit)
            except UserDataError as error:
                raise NotToBeHad(f"{reference} cannot be used: {error}") from None
        path = target / name
        if not path.is_file():
            raise NotToBeHad(f"{reference} has no file /data/{name}")
        if path.stat().st_size > max_bytes:
            raise NotToBeHad(f"/data/{name} of {reference} has more than {max_bytes} bytes")
        return path.read_bytes()


def _chosen(repository: Repository, entries: object) -> Mapping[str, Any]:
    """The manifest of the first entry for Linux, else of the first."""
    known = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    linux = [one for one in known if (one.get("platform") or {}).get("os") == "linux"]
    content = _get(repository, "manifests", (linux or known or [{}])[0], OVERHEAD)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        raise NotToBeHad(f"{repository.reference} is not an image: its manifest is not a JSON object")
    return found


def _get(repository: Repository, kind: str, entry: object, limit: int) -> bytes:
    """What an entry of a manifest names, with the digest that it gives."""
    reference = repository.reference
    digest = str(entry.get("digest") or "") if isinstance(entry, Mapping) else ""
    headers = {"Accept": ACCEPT} if kind == "manifests" else {}
    with Deadline(SECONDS) as deadline:
        try:
            answer = repository.ask("GET", f"{repository.url}/{kind}/{digest}", headers, limit=limit)
        except TooBig:
            raise NotToBeHad(f"a layer of {reference} has more than {limit} bytes") from None
        except (AddressRefused, TokenRefused) as error:
            raise NotToBeHad(f"the registry {reference.registry} cannot be used: {error}") from None
        except requests.RequestException as error:
            raise Unanswered(unanswered(reference, error, deadline)) from None
        if deadline.expired:
            raise Unanswered(unanswered(reference, TimeoutError(), deadline))
    if answer.status >= 500:
        raise Unanswered(f"the registry {reference.registry} answered {answer.status}")
    if answer.status != 200:
        why = advice(repository.credentials, reference)
        raise NotToBeHad(f"{reference} cannot be read: the registry answered {answer.status}; {why}")
    if sha256(answer.content) != digest:
        raise Unanswered(f"{reference}: {digest or 'a layer'} arrived changed or cut short")
    return answer.content
