"""Pull an image's /data into a folder, every byte verified, and put an adapter where serving finds it.

The folder appears complete or not at all. Works for images of any tool: several layers are laid over each other
in order, as a container runtime would.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.contracts.image_reference import ImageReference
from include.workloads.adapter.check import check_adapter
from include.workloads.adapter.cosign_keys import public_keys
from include.workloads.adapter.layout import FILES
from include.workloads.adapter.signing import PublicKeys, require_signature
from include.workloads.contract import UserConfigError, UserDataError, file_write_error, required
from include.workloads.oci.manifests import digest_in, find_manifest
from include.workloads.oci.registry import RegistryClient
from include.workloads.oci.session import connect, read_reference
from include.workloads.oci.unpack import Wanted, unpack_layer

log = logging.getLogger("adapter")

MAX_ADAPTER_BYTES = 16 << 30
MAX_CONFIG_BYTES = 4 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Pulled:
    """What was pulled: the digest of the image's manifest and the manifest's annotations."""

    reference: str
    digest: str
    annotations: dict[str, Any]


def trusted_keys() -> PublicKeys:
    """The keys of ADAPTER_PUBLIC_KEYS, one of which must have signed what is served; none where it is not set."""
    pem = os.environ.get("ADAPTER_PUBLIC_KEYS", "")
    return public_keys(pem) if pem else ()


def pull_image(
    client: RegistryClient, target: Path, wanted: Wanted, max_bytes: int, keys: PublicKeys = ()
) -> Pulled:
    """Unpack the wanted files under the image's /data into `target`, an existing folder.

    :param keys: one of them must have signed the image; none: whether it is signed is not asked.
    """
    reference = client.reference
    manifest = find_manifest(client)
    if keys:
        require_signature(client, manifest.digest, keys)
    document = manifest.document
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".layers-") as folder:
        diff_ids = _diff_ids(client, document, Path(folder))
        room = max_bytes
        for number, layer in enumerate(_layers(document, reference)):
            blob = Path(folder) / f"{number}"
            client.get_blob_into(layer["digest"], blob, room)
            diff_id = diff_ids[number] if number < len(diff_ids) else None
            try:
                room -= unpack_layer(blob, diff_id, target, wanted, room)
            except UserDataError as error:
                raise UserDataError(f"The image {reference} cannot be used: {error}.") from None
            blob.unlink()
    annotations = document.get("annotations")
    return Pulled(
        reference.by_digest(manifest.digest),
        manifest.digest,
        annotations if isinstance(annotations, dict) else {},
    )


def _layers(document: dict[str, Any], reference: ImageReference) -> list[dict[str, str]]:
    layers = document.get("layers")
    if not isinstance(layers, list) or not layers:
        raise UserDataError(f"{reference} is not an image: its manifest lists no layers.")
    for layer in layers:
        digest_in(layer, reference)
        media_type = str(layer.get("mediaType", ""))
        if "zstd" in media_type or "tar" not in media_type:
            raise UserDataError(
                f"{reference} has a layer of the type {media_type!r}; expected tar or tar+gzip."
            )
    return layers


def _diff_ids(client: RegistryClient, document: dict[str, Any], folder: Path) -> list[str]:
    """Digests of the uncompressed layers, from the config; an empty list when the image has none."""
    path = folder / "config"
    client.get_blob_into(digest_in(document.get("config"), client.reference), path, MAX_CONFIG_BYTES)
    try:
        found = json.loads(path.read_bytes())["rootfs"]["diff_ids"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def pull_adapter() -> dict[str, Any]:
    """The `pull` command: ADAPTER_IMAGE into $ADAPTERS_DIR/$ADAPTER_NAME."""
    reference = read_reference(required("ADAPTER_IMAGE"))
    name = required("ADAPTER_NAME")
    if not _NAME.fullmatch(name):
        raise UserConfigError(f"ADAPTER_NAME={name!r} is not a plain name (letters, digits, . _ -).")
    adapters = Path(os.environ.get("ADAPTERS_DIR") or "/mnt/adapter")
    try:
        adapters.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=adapters, prefix=f".{name}-"))
    except OSError as error:
        raise file_write_error(error, f"the adapter in {adapters}", adapters) from None
    try:
        return _pull_into(reference, name, adapters, work)
    except OSError as error:
        raise file_write_error(error, f"the adapter in {adapters}", adapters) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _pull_into(reference: ImageReference, name: str, adapters: Path, work: Path) -> dict[str, Any]:
    log.info("pulling adapter %s from %s", name, reference)
    fresh = work / "new"
    fresh.mkdir()
    pulled = pull_image(
        connect(reference), fresh, lambda path: str(path) in FILES, MAX_ADAPTER_BYTES, trusted_keys()
    )
    config = check_adapter(fresh, f"The adapter image {reference}")
    final = adapters / name
    if final.exists():
        final.replace(work / "old")
    fresh.replace(final)
    size = sum((final / file).stat().st_size for file in FILES)
    log.info("adapter %s is ready: rank %s, %.1f MiB, %s", name, config["r"], size / (1 << 20), pulled.digest)
    return {
        "name": name,
        "image": str(reference),
        "digest": pulled.digest,
        "path": str(final),
        "bytes": size,
        "model": pulled.annotations.get("sh.kaito.model.name"),
    }
