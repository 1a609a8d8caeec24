"""Signatures and provenance of adapter images in cosign's form, and the check of them before an adapter is served.

A signature is a manifest under the tag `sha256-DIGEST.sig`, whose layers are statements about that digest with their
signatures as annotations (sigstore/cosign, specs/SIGNATURE_SPEC.md). The provenance is an in-toto statement with the
predicate SLSA v1 in a DSSE envelope, likewise under `sha256-DIGEST.att`: what `cosign verify --key cosign.pub` and
`cosign verify-attestation --type slsaprovenance1` read. Nothing goes to a transparency log, which is public.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from include.contracts.image_reference import ImageReference
from include.contracts.plural import plural
from include.workloads.adapter.referrer import put_content
from include.workloads.contract import UserDataError
from include.workloads.oci.manifests import digest_in
from include.workloads.oci.media import OCI_MANIFEST, cosign_tag, sha256
from include.workloads.oci.registry import Manifest, RegistryClient

log = logging.getLogger("adapter")

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
DSSE = "application/vnd.dsse.envelope.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
CLAIM = "cosign container image signature"
IN_TOTO = "application/vnd.in-toto+json"
STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD_TYPE, BUILDER = "https://kaito.sh/airflow/tuning/v1", "https://kaito.sh/airflow"
#: Layers of a manifest that are looked at, and bytes of one: whoever may push could add many.
MOST_SIGNATURES, MOST_BYTES = 32, 1 << 20
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_ALGORITHM = ec.ECDSA(hashes.SHA256())
_COMMIT = re.compile(r"[0-9a-f]{40}")

PublicKeys = Sequence[ec.EllipticCurvePublicKey]
Layer = dict[str, Any]


def claim(reference: ImageReference, digest: str) -> bytes:
    """What is signed of an image: the same bytes each time."""
    repository = f"{reference.registry}/{reference.repository}"
    image, identity = {"docker-manifest-digest": digest}, {"docker-reference": repository}
    return _json({"critical": {"identity": identity, "image": image, "type": CLAIM}, "optional": None})


def provenance(
    reference: ImageReference, digest: str, record: Mapping[str, Any] | None, run: str = ""
) -> bytes:
    """An in-toto statement about how an image came to be: the same bytes each time.

    :param record: what the training says is needed to repeat it (`reproduce.json`); None where it left none.
    :param run: the run that made it.
    """
    known = dict(record or {})
    config = {
        key: known[key] for key in ("method", "objective", "training_config", "arguments") if key in known
    }
    inner = {key: known[key] for key in ("packages", "device", "image") if known.get(key)}
    build = {
        "buildType": BUILD_TYPE,
        "externalParameters": config,
        "internalParameters": inner,
        "resolvedDependencies": list(_dependencies(known)),
    }
    details = {"builder": {"id": BUILDER}, "metadata": {"invocationId": run} if run else {}}
    subject = {
        "name": f"{reference.registry}/{reference.repository}",
        "digest": {"sha256": digest.partition(":")[2]},
    }
    predicate = {"buildDefinition": build, "runDetails": details}
    return _json(
        {"_type": STATEMENT, "subject": [subject], "predicateType": PREDICATE, "predicate": predicate}
    )


def _dependencies(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if model := record.get("base_model"):
        revision = str(record.get("revision") or "")
        commit = {"digest": {"gitCommit": revision}} if _COMMIT.fullmatch(revision) else {}
        yield {"name": "base model", "uri": f"pkg:huggingface/{model}", **commit}
    dataset = record.get("dataset") or {}
    for source in dataset.get("sources") or ():
        digest = {"digest": {"sha256": source["sha256"]}} if source.get("sha256") else {}
        yield {"name": "dataset source", "uri": source.get("url"), **digest}
    if rows := str(dataset.get("digest") or "").partition(":")[2]:
        yield {"name": "rows of the dataset", "digest": {"sha256": rows}}
    if start := str(record.get("started_from") or ""):
        hexed = start.partition("sha256:")[2]
        yield {
            "name": "adapter that the training went on from",
            **({"digest": {"sha256": hexed}} if hexed else {}),
        }


def sign_image(client: RegistryClient, digest: str, key: ec.EllipticCurvePrivateKey, statement: bytes) -> str:
    """Sign an image, and what is said of it; the digest of the signature's manifest. Again changes nothing.

    Signatures of others stay. The image itself need not be there yet: so its tag never means an unsigned image.
    """
    mine = [key.public_key()]
    signed = _signed_by(client, digest, mine)
    if signed is None:
        payload = claim(client.reference, digest)
        signature = base64.b64encode(key.sign(payload, _ALGORITHM)).decode()
        signed = _add(client, cosign_tag(digest, "sig"), payload, SIMPLE_SIGNING, {SIGNATURE: signature})
        log.info("signed %s: %s", digest, cosign_tag(digest, "sig"))
    if not any(_said(one) == statement and _is_of(one, mine) for one in _envelopes(client, digest)):
        sealed = base64.b64encode(key.sign(_pae(statement), _ALGORITHM)).decode()
        envelope = {
            "payloadType": IN_TOTO,
            "payload": base64.b64encode(statement).decode(),
            "signatures": [{"keyid": "", "sig": sealed}],
        }
        notes = {SIGNATURE: "", "predicateType": PREDICATE}
        _add(client, cosign_tag(digest, "att"), _json(envelope), DSSE, notes)
        log.info("provenance of %s: %s", digest, cosign_tag(digest, "att"))
    return signed


def require_signature(client: RegistryClient, digest: str, keys: PublicKeys) -> None:
    """Take nothing but what one of the keys has signed.

    :param digest: of the image's manifest, as it was computed of the bytes that came.
    :raises UserDataError: no signature of this very digest is by one of the keys.
    """
    if _signed_by(client, digest, keys) is None:
        found = len(_entries(client.manifest(cosign_tag(digest, "sig")), SIMPLE_SIGNING))
        there = "has no signature" if not found else f"has {plural(found, 'signature')}, none of them"
        by = " by one of the keys of [kaito] adapter_public_keys" if found else ""
        raise UserDataError(
            f"The adapter image {client.reference.by_digest(digest)} {there}{by}. It is not served: sign it "
            "(`cosign sign --key cosign.key`, or kaito.sh/signing-secret on the Workspace that tunes it)."
        )
    log.info("%s is signed by a trusted key", digest)


def _signed_by(client: RegistryClient, digest: str, keys: PublicKeys) -> str | None:
    """The manifest with a signature of a digest by one of the keys."""
    manifest = client.manifest(cosign_tag(digest, "sig"))
    for layer, payload in _layers(client, manifest, SIMPLE_SIGNING):
        signature = (layer.get("annotations") or {}).get(SIGNATURE)
        if _claims(payload) == digest and any(_verifies(one, signature, payload) for one in keys):
            return manifest.digest if manifest else None
    return None


def _claims(payload: bytes) -> str | None:
    try:
        critical = json.loads(payload)["critical"]
        return str(critical["image"]["docker-manifest-digest"]) if critical["type"] == CLAIM else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _verifies(key: ec.EllipticCurvePublicKey, signature: object, content: bytes) -> bool:
    try:
        key.verify(base64.b64decode(str(signature), validate=True), content, _ALGORITHM)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _envelopes(client: RegistryClient, digest: str) -> Iterator[Mapping[str, Any]]:
    for _, content in _layers(client, client.manifest(cosign_tag(digest, "att")), DSSE):
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def _said(envelope: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(str(envelope.get("payload")), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _is_of(envelope: Mapping[str, Any], keys: PublicKeys) -> bool:
    signatures = envelope.get("signatures")
    given = (
        [one.get("sig") for one in signatures if isinstance(one, dict)]
        if isinstance(signatures, list)
        else []
    )
    return any(_verifies(key, one, _pae(_said(envelope))) for key in keys for one in given)


def _pae(statement: bytes) -> bytes:
    """What a DSSE envelope's signature is over (secure-systems-lab/dsse, protocol.md)."""
    return b"DSSEv1 %d %s %d %s" % (len(IN_TOTO), IN_TOTO.encode(), len(statement), statement)


def _entries(manifest: Manifest | None, media_type: str = "") -> list[Layer]:
    """The layers of a manifest, all or those of one type."""
    layers = manifest.document.get("layers") if manifest else None
    found = [one for one in layers if isinstance(one, dict)] if isinstance(layers, list) else []
    return [one for one in found if not media_type or one.get("mediaType") == media_type]


def _layers(
    client: RegistryClient, manifest: Manifest | None, media_type: str
) -> Iterator[tuple[Layer, bytes]]:
    """The layers of this type with their contents, which are those of their digests; one without is passed over."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "blob"
        for layer in _entries(manifest, media_type)[:MOST_SIGNATURES]:
            try:
                digest = digest_in(layer, client.reference)
            except UserDataError:
                continue
            client.get_blob_into(digest, target, MOST_BYTES)
            yield layer, target.read_bytes()


def _add(
    client: RegistryClient, tag: str, content: bytes, media_type: str, annotations: Mapping[str, str]
) -> str:
    """Add a layer to the manifest of a tag; the digest of the new one."""
    layer = put_content(client, content, media_type) | {"annotations": dict(annotations)}
    layers = [*_entries(client.manifest(tag)), layer]
    config = _json(
        {
            "architecture": "",
            "config": {},
            "created": "0001-01-01T00:00:00Z",
            "history": [{"created": "0001-01-01T00:00:00Z"} for _ in layers],
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": [one.get("digest") for one in layers]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": put_content(client, config, _CONFIG_TYPE),
            "layers": layers,
        }
    )
    client.put_manifest(tag, manifest)
    return sha256(manifest)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True, default=str).encode()
