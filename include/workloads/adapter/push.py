"""Push a tuned adapter as an image; pushing it again changes nothing.

The digest is known before anything is sent, so what the registry reports afterwards is compared with it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from include.contracts import adapter_record
from include.workloads.adapter.check import check_adapter
from include.workloads.adapter.cosign_keys import is_one_of, private_key
from include.workloads.adapter.layout import MODEL_FILE, AdapterImage, build_image
from include.workloads.adapter.pull import trusted_keys
from include.workloads.adapter.referrer import push_record, push_report, record_of
from include.workloads.adapter.signing import provenance, sign_image
from include.workloads.contract import TryAgain, UserConfigError, UserDataError, file_write_error, required
from include.workloads.oci.media import OCI_MANIFEST, sha256
from include.workloads.oci.registry import RegistryClient
from include.workloads.oci.session import connect, read_reference
from include.workloads.oci.transfers import put_big_blob

log = logging.getLogger("adapter")


def push_adapter() -> dict[str, Any]:
    """The `push` command: the adapter in ADAPTER_DIR to ADAPTER_IMAGE."""
    folder = Path(os.environ.get("ADAPTER_DIR") or "/mnt/results/adapter")
    reference = read_reference(required("ADAPTER_IMAGE"))
    if reference.digest:
        raise UserConfigError(f"{reference} names a digest; an image is pushed to a tag, such as :0.0.1.")
    annotations, key = _annotations(), _signing_key()
    check_adapter(folder, f"The adapter folder {folder}")
    client = connect(reference)
    try:
        image = build_image(folder, annotations)
        _check_weights(folder, image)
        log.info("adapter image %s, %.1f MiB", image.digest, image.size / (1 << 20))
        records = folder.parent / adapter_record.FOLDER
        # Before the tag moves: whoever serves only what is signed must not meet it without.
        signature = _sign(client, image, key, records, annotations) if key else None
        pushed = push_image(client, image)
        subject = {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": len(image.manifest)}
        record = push_record(client, records, subject, image.weights_sha256)
        report = _report(client, subject)
    except OSError as error:
        raise file_write_error(error, f"the adapter in {folder}", folder) from None
    log.info("%s %s", "pushed" if pushed else "already there:", reference.by_digest(image.digest))
    return {
        "image": str(reference),
        "digest": image.digest,
        "reference": reference.by_digest(image.digest),
        "size": image.size,
        "layer_digest": image.layer.digest,
        "pushed": pushed,
        **({"signature": signature} if signature else {}),
        **({"report": report} if report else {}),
        **({"reproduce": reference.by_digest(record["record"])} if record.get("record") else {}),
        **({"dataset_report": record["dataset_report"]} if record.get("dataset_report") else {}),
        **({"learnt": reference.by_digest(record["rows"])} if record.get("rows") else {}),
    }


def _signing_key() -> ec.EllipticCurvePrivateKey | None:
    """The key of SIGNING_KEY, where it is set. UserConfigError where those who serve would not trust it."""
    pem = os.environ.get("SIGNING_KEY", "")
    if not pem:
        return None
    key, trusted = private_key(pem, os.environ.get("SIGNING_PASSWORD", "")), trusted_keys()
    if trusted and not is_one_of(key.public_key(), trusted):
        raise UserConfigError(
            "The key of kaito.sh/signing-secret is none of [kaito] adapter_public_keys: the adapter could not be "
            "served. Name a Secret with a key that is trusted."
        )
    return key


def _sign(
    client: RegistryClient,
    image: AdapterImage,
    key: ec.EllipticCurvePrivateKey,
    records: Path,
    annotations: Mapping[str, str],
) -> str:
    """Sign the image and where it comes from, the latter as far as the record is of this adapter."""
    record = record_of(records, image.weights_sha256)
    statement = provenance(client.reference, image.digest, record, annotations.get("sh.kaito.run-id", ""))
    return sign_image(client, image.digest, key, statement)


def _report(client: RegistryClient, subject: dict[str, Any]) -> str | None:
    """Push the report of EVALUATION_DIR beside the image, where it is set; the digest of its manifest."""
    folder = os.environ.get("EVALUATION_DIR", "").strip()
    if not folder:
        return None
    return push_report(client, Path(folder), subject, os.environ.get("EVALUATION_DIGEST") or None)


def _check_weights(folder: Path, image: AdapterImage) -> None:
    """The weights must be those that the training has reported (ADAPTER_SHA256, where it is set)."""
    expected, found = os.environ.get("ADAPTER_SHA256", "").strip(), image.weights_sha256
    if expected and found != expected:
        raise UserDataError(
            f"{folder / MODEL_FILE} has the digest {found}, but the training made {expected}: another adapter lies "
            "there now, and it is not pushed."
        )


def push_image(client: RegistryClient, image: AdapterImage) -> bool:
    """Push to the client's tag; False when the tag already means this very image.

    The tag moves last, to parts that the registry has said it has: whoever pulls meanwhile gets the former image.
    """
    tag = client.reference.version
    if client.reported_digest(tag) == image.digest:
        return False
    log.info("pushing to %s", client.reference)
    put_big_blob(client, image.layer.digest, image.layer.size, image.layer.open_at)
    client.put_blob(sha256(image.config), lambda: image.config)
    _check_there(client, {image.layer.digest: image.layer.size, sha256(image.config): len(image.config)})
    client.put_manifest(tag, image.manifest)
    reported = client.reported_digest(tag)
    if reported != image.digest:
        raise TryAgain(
            f"The registry {client.reference.registry} reports {reported} for {client.reference} after "
            f"{image.digest} was pushed; somebody else may have pushed to the same tag."
        )
    return True


def _check_there(client: RegistryClient, blobs: Mapping[str, int]) -> None:
    """TryAgain when the registry has not each blob whole, whatever it said when it took it."""
    for digest, size in blobs.items():
        held = client.call("HEAD", client.blob_url(digest), ok=(200, 404))
        length = held.headers.get("Content-Length", "")
        if held.status == 404 or (length.isdigit() and int(length) != size):
            what = "does not have it" if held.status == 404 else f"has {length} of {size} bytes"
            raise TryAgain(
                f"{client.reference.name}: the blob {digest} was uploaded, and the registry {what}."
            )


def _annotations() -> dict[str, str]:
    text = os.environ.get("ADAPTER_ANNOTATIONS", "").strip()
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserConfigError("ADAPTER_ANNOTATIONS is not a JSON object of strings.")
    return found
