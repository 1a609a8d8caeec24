"""Push what belongs to an adapter beside it, as OCI referrers: an evaluation's report, the training's record.

Whoever has the adapter's digest asks the registry for what refers to it, and finds the report, by any OCI client. A
registry without that question gets the list under a tag that the specification names for it (OCI distribution 1.1,
"Pushing Manifests with Subject" and "Referrers Tag Schema").
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from include.contracts import adapter_record
from include.contracts.evaluation import (
    PAGE_FILE,
    PAGE_MEDIA_TYPE,
    REPORT_ARTIFACT_TYPE,
    REPORT_FILE,
    digest_of,
)
from include.workloads.contract import UserDataError
from include.workloads.oci.media import OCI_INDEX, OCI_MANIFEST, sha256
from include.workloads.oci.registry import RegistryClient
from include.workloads.oci.transfers import put_big_blob

log = logging.getLogger("adapter")

EMPTY, EMPTY_TYPE = b"{}", "application/vnd.oci.empty.v1+json"
MAX_REPORT_BYTES = 64 << 20
TITLE = "org.opencontainers.image.title"

Descriptor = dict[str, Any]


def push_report(
    client: RegistryClient, folder: Path, subject: Descriptor, expected: str | None = None
) -> str:
    """Push the report in a folder as a referrer of `subject`; the digest of its manifest. Again changes nothing.

    :param subject: the descriptor of the adapter image's manifest (mediaType, digest, size).
    :param expected: the report's digest, as the evaluation has said it.
    :raises UserDataError: there is no such report.
    """
    files = {}
    for name, media_type in ((REPORT_FILE, REPORT_ARTIFACT_TYPE), (PAGE_FILE, PAGE_MEDIA_TYPE)):
        content = _read(folder / name)
        if name == REPORT_FILE and expected and digest_of(content) != expected:
            raise UserDataError(
                f"{folder / name} is not the report {expected}: another evaluation's lies there."
            )
        files[name] = (media_type, content)
    return push_files(client, subject, REPORT_ARTIFACT_TYPE, files)


def record_of(folder: Path, weights_sha256: str) -> dict[str, Any] | None:
    """What a training says is needed to repeat it; None where it left no record, or one of other weights."""
    try:
        record: dict[str, Any] = json.loads((folder / adapter_record.REPRODUCE).read_text())
        known = record[adapter_record.ADAPTER_SHA256]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if known != weights_sha256:
        log.info("the record in %s is of another adapter and is left alone", folder)
        return None
    return record


def push_record(
    client: RegistryClient, folder: Path, subject: Descriptor, weights_sha256: str
) -> dict[str, str]:
    """Push what the training left beside the adapter; the digests of the referrers by the names of their parts.

    A record of other weights is none of this adapter's, and is left alone.
    """
    if record_of(folder, weights_sha256) is None:
        return {}
    pushed = {}
    parts = {
        "record": adapter_record.TUNING,
        "dataset_report": adapter_record.DATASET,
        "rows": adapter_record.ROWS,
    }
    for name, artifact in parts.items():
        if all((folder / file).is_file() for file in artifact.files):
            files = {
                file: (kind, folder / file if artifact is adapter_record.ROWS else _read(folder / file))
                for file, kind in artifact.files.items()
            }
            pushed[name] = push_files(client, subject, artifact.artifact_type, files)
    return pushed


def push_files(
    client: RegistryClient,
    subject: Descriptor,
    artifact_type: str,
    files: Mapping[str, tuple[str, bytes | Path]],
) -> str:
    """Push files as one referrer of `subject`; the digest of its manifest. Again changes nothing.

    :param files: media type and content by name; big content as a file, which is not read as a whole.
    """
    layers = [
        put_content(client, content, media_type) | {"annotations": {TITLE: name}}
        for name, (media_type, content) in files.items()
    ]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": put_content(client, EMPTY, EMPTY_TYPE),
            "layers": layers,
            "subject": subject,
        },
        separators=(",", ":"),
    ).encode()
    digest = sha256(manifest)
    answer = client.call(
        "PUT",
        f"{client.base}/manifests/{digest}",
        {"Content-Type": OCI_MANIFEST},
        data=lambda: manifest,
        ok=(200, 201, 202),
    )
    entry = {
        "mediaType": OCI_MANIFEST,
        "digest": digest,
        "size": len(manifest),
        "artifactType": artifact_type,
    }
    if not _names(answer.headers, str(subject["digest"])):
        _list_under_tag(client, str(subject["digest"]), entry)
    log.info("%s refers to %s (%s)", digest, subject["digest"], artifact_type)
    return digest


def _names(headers: Mapping[str, str], subject: str) -> bool:
    """Whether the registry has taken note of the subject: it says so by this header."""
    return next((value for key, value in headers.items() if key.lower() == "oci-subject"), None) == subject


def put_content(client: RegistryClient, content: bytes | Path, media_type: str) -> Descriptor:
    """Upload content unless it is there; its descriptor."""
    if isinstance(content, Path):
        return _big_blob(client, content, media_type)
    digest = sha256(content)
    client.put_blob(digest, lambda: content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _big_blob(client: RegistryClient, path: Path, media_type: str) -> Descriptor:
    def open_at(offset: int) -> BinaryIO:
        file = path.open("rb")
        file.seek(offset)
        return file

    with path.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    size = path.stat().st_size
    put_big_blob(client, digest, size, open_at)
    return {"mediaType": media_type, "digest": digest, "size": size}


def _list_under_tag(client: RegistryClient, subject: str, entry: Descriptor) -> None:
    """Add an entry to the index that a registry without referrers keeps under the subject's tag."""
    tag = subject.replace(":", "-")
    known = client.manifest(tag)
    entries = list((known.document if known else {}).get("manifests") or [])
    if any(one.get("digest") == entry["digest"] for one in entries if isinstance(one, dict)):
        return
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, entry]}
    content = json.dumps(index, separators=(",", ":")).encode()
    client.call(
        "PUT",
        f"{client.base}/manifests/{tag}",
        {"Content-Type": OCI_INDEX},
        data=lambda: content,
        ok=(200, 201, 202),
    )


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise UserDataError(f"{path} is too big to be a report.")
        return path.read_bytes()
    except OSError as error:
        raise UserDataError(f"The report {path} cannot be read: {error.strerror}.") from None
