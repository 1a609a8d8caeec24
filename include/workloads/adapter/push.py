"""Push a tuned adapter as an image; pushing it again changes nothing.

The digest is known before anything is sent, so what the registry reports afterwards is compared with it.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from include.workloads.adapter.check import check_adapter
from include.workloads.adapter.layout import MODEL_FILE, AdapterImage, build_image
from include.workloads.adapter.referrer import push_report
from include.workloads.contract import TryAgain, UserConfigError, UserDataError, file_write_error, required
from include.workloads.oci.media import OCI_MANIFEST, sha256
from include.workloads.oci.registry import RegistryClient
from include.workloads.oci.session import connect, read_reference

log = logging.getLogger("adapter")


def push_adapter() -> dict[str, Any]:
    """The `push` command: the adapter in ADAPTER_DIR to ADAPTER_IMAGE."""
    folder = Path(os.environ.get("ADAPTER_DIR") or "/mnt/results/adapter")
    reference = read_reference(required("ADAPTER_IMAGE"))
    if reference.digest:
        raise UserConfigError(f"{reference} names a digest; an image is pushed to a tag, such as :0.0.1.")
    annotations = _annotations()
    check_adapter(folder, f"The adapter folder {folder}")
    _check_weights(folder)
    client = connect(reference)
    try:
        with tempfile.TemporaryDirectory(prefix="adapter-") as work:
            image = build_image(folder, annotations, Path(work))
            log.info("adapter image %s, %.1f MiB", image.digest, image.size / (1 << 20))
            pushed = push_image(client, image)
        report = _report(client, image)
    except OSError as error:
        raise file_write_error(error, "the adapter's layer", Path(tempfile.gettempdir())) from None
    log.info("%s %s", "pushed" if pushed else "already there:", reference.by_digest(image.digest))
    return {
        "image": str(reference),
        "digest": image.digest,
        "reference": reference.by_digest(image.digest),
        "size": image.size,
        "layer_digest": image.layer_digest,
        "pushed": pushed,
        **({"report": report} if report else {}),
    }


def _report(client: RegistryClient, image: AdapterImage) -> str | None:
    """Push the report of EVALUATION_DIR beside the image, where it is set; the digest of its manifest."""
    folder = os.environ.get("EVALUATION_DIR", "").strip()
    if not folder:
        return None
    subject = {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": len(image.manifest)}
    return push_report(client, Path(folder), subject, os.environ.get("EVALUATION_DIGEST") or None)


def _check_weights(folder: Path) -> None:
    """The weights must be those that the training has reported (ADAPTER_SHA256, where it is set)."""
    expected = os.environ.get("ADAPTER_SHA256", "").strip()
    if not expected:
        return
    with (folder / MODEL_FILE).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise UserDataError(
            f"{folder / MODEL_FILE} has the digest {found}, but the training made {expected}: another adapter lies "
            "there now, and it is not pushed."
        )


def push_image(client: RegistryClient, image: AdapterImage) -> bool:
    """Push to the client's tag; False when the tag already means this very image."""
    tag = client.reference.version
    if client.reported_digest(tag) == image.digest:
        return False
    log.info("pushing to %s", client.reference)
    client.put_blob(image.layer_digest, lambda: image.layer_path.open("rb"))
    client.put_blob(sha256(image.config), lambda: io.BytesIO(image.config))
    client.put_manifest(tag, image.manifest)
    reported = client.reported_digest(tag)
    if reported != image.digest:
        raise TryAgain(
            f"The registry {client.reference.registry} reports {reported} for {client.reference} after "
            f"{image.digest} was pushed; somebody else may have pushed to the same tag."
        )
    return True


def _annotations() -> dict[str, str]:
    text = os.environ.get("ADAPTER_ANNOTATIONS", "").strip()
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserConfigError("ADAPTER_ANNOTATIONS is not a JSON object of strings.")
    return found
