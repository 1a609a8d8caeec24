"""Signatures of adapter images: in cosign's form, once, and nothing unsigned passes where keys are named."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from include.workloads.adapter.cosign_keys import private_key, public_keys
from include.workloads.adapter.signing import provenance, require_signature, sign_image
from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.oci.media import cosign_tag, sha256
from tests.support.cosign import key_pair
from tests.support.registry_server import Registry

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
RECORD: dict[str, Any] = {
    "base_model": "microsoft/phi-4",
    "revision": "c" * 40,
    "method": "qlora",
    "training_config": "training_config: {}",
    "dataset": {
        "digest": "sha256:" + "d" * 64,
        "sources": [{"url": "https://example.com/rows.jsonl", "sha256": "e" * 64}],
    },
    "started_from": None,
}


def signed(registry: Registry, password: str | None = "secret") -> str:
    """The public key that has signed DIGEST in the registry."""
    key, public = key_pair(password)
    client = registry.client()
    statement = provenance(client.reference, DIGEST, RECORD, "run-1")
    sign_image(client, DIGEST, private_key(key, password or ""), statement)
    return public


def layers(registry: Registry, kind: str) -> list[dict[str, Any]]:
    return list(json.loads(registry.manifests[cosign_tag(DIGEST, kind)])["layers"])


def openssl_verifies(public: str, content: bytes, signature: str, folder: Path) -> bool:
    """Another implementation than the one that signed."""
    for name, data in (("key", public.encode()), ("content", content), ("sig", base64.b64decode(signature))):
        (folder / name).write_bytes(data)
    command = ["openssl", "dgst", "-sha256", "-verify", "key", "-signature", "sig", "content"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def test_a_signature_is_what_cosign_reads(registry: Registry, tmp_path: Path) -> None:
    public = signed(registry)
    (layer,) = layers(registry, "sig")
    payload = registry.blobs[layer["digest"]]
    assert (layer["mediaType"], layer["size"]) == (
        "application/vnd.dev.cosign.simplesigning.v1+json",
        len(payload),
    )
    critical = json.loads(payload)["critical"]
    assert critical["image"]["docker-manifest-digest"] == DIGEST
    assert critical["type"] == "cosign container image signature"
    assert critical["identity"]["docker-reference"].endswith("/team/phi")
    signature = layer["annotations"]["dev.cosignproject.cosign/signature"]
    assert openssl_verifies(public, payload, signature, tmp_path)
    config = json.loads(
        registry.blobs[json.loads(registry.manifests[cosign_tag(DIGEST, "sig")])["config"]["digest"]]
    )
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]


def test_the_provenance_is_a_signed_statement_of_what_it_was_made_of(
    registry: Registry, tmp_path: Path
) -> None:
    public = signed(registry)
    (layer,) = layers(registry, "att")
    assert layer["annotations"]["predicateType"] == "https://slsa.dev/provenance/v1"
    envelope = json.loads(registry.blobs[layer["digest"]])
    kind, payload = envelope["payloadType"], base64.b64decode(envelope["payload"])
    sealed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    assert openssl_verifies(public, sealed, envelope["signatures"][0]["sig"], tmp_path)
    statement = json.loads(payload)
    assert statement["subject"][0]["digest"] == {"sha256": "a" * 64}
    build = statement["predicate"]["buildDefinition"]
    assert build["externalParameters"]["method"] == "qlora"
    assert [one["digest"] for one in build["resolvedDependencies"]] == [
        {"gitCommit": "c" * 40},
        {"sha256": "e" * 64},
        {"sha256": "d" * 64},
    ]
    assert statement["predicate"]["runDetails"]["metadata"] == {"invocationId": "run-1"}


def test_an_unknown_origin_is_no_invented_one(registry: Registry) -> None:
    statement = json.loads(provenance(registry.client().reference, DIGEST, None))
    build = statement["predicate"]["buildDefinition"]
    assert (build["externalParameters"], build["resolvedDependencies"]) == ({}, [])


def test_again_changes_nothing_and_another_key_adds_its_own(registry: Registry) -> None:
    key, public = key_pair()
    client = registry.client()
    statement = provenance(client.reference, DIGEST, RECORD)
    first = sign_image(client, DIGEST, private_key(key), statement)
    before = dict(registry.manifests)
    assert sign_image(client, DIGEST, private_key(key), statement) == first
    assert registry.manifests == before
    other = signed(registry)
    assert len(layers(registry, "sig")) == 2
    for one in (public, other):
        require_signature(client, DIGEST, public_keys(one))


def test_what_no_trusted_key_has_signed_is_refused(registry: Registry) -> None:
    client, (_, stranger) = registry.client(), key_pair()
    with pytest.raises(UserDataError, match="has no signature"):
        require_signature(client, DIGEST, public_keys(stranger))
    public = signed(registry)
    with pytest.raises(UserDataError, match="1 signature, none of them"):
        require_signature(client, DIGEST, public_keys(stranger))
    require_signature(client, DIGEST, public_keys(stranger + public))


def test_a_signature_of_another_image_is_none(registry: Registry) -> None:
    """Somebody who may push copies a good signature under the tag of a bad image."""
    public = signed(registry)
    registry.manifests[cosign_tag(OTHER, "sig")] = registry.manifests[cosign_tag(DIGEST, "sig")]
    with pytest.raises(UserDataError, match="none of them"):
        require_signature(registry.client(), OTHER, public_keys(public))


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "../../secrets"},
        {"digest": None},
        {"annotations": {}},
        {"annotations": None},
        {"annotations": {"dev.cosignproject.cosign/signature": "no base64"}},
        {"annotations": {"dev.cosignproject.cosign/signature": base64.b64encode(b"x" * 70).decode()}},
        {"mediaType": "text/plain"},
    ],
)
def test_a_broken_signature_is_none_and_hides_no_good_one(registry: Registry, change: dict[str, Any]) -> None:
    public = signed(registry)
    tag = cosign_tag(DIGEST, "sig")
    manifest = json.loads(registry.manifests[tag])
    good = manifest["layers"][0]
    client, keys = registry.client(), public_keys(public)
    registry.manifests[tag] = json.dumps({**manifest, "layers": [{**good, **change}]}).encode()
    with pytest.raises(UserDataError, match="sign"):
        require_signature(client, DIGEST, keys)
    registry.manifests[tag] = json.dumps({**manifest, "layers": ["x", {**good, **change}, good]}).encode()
    require_signature(client, DIGEST, keys)


@pytest.mark.parametrize("claim", [b"[]", b"{}", b'{"critical": {"image": 1}}', b"\xff", b"[" * 100_000])
def test_a_signed_claim_of_another_form_is_none(registry: Registry, claim: bytes) -> None:
    pem, public = key_pair()
    key, tag = private_key(pem), cosign_tag(DIGEST, "sig")
    from include.workloads.adapter import signing

    signature = base64.b64encode(key.sign(claim, signing._ALGORITHM)).decode()
    registry.blobs[sha256(claim)] = claim
    layer = {"mediaType": signing.SIMPLE_SIGNING, "digest": sha256(claim), "size": len(claim)}
    layer["annotations"] = {signing.SIGNATURE: signature}
    registry.manifests[tag] = json.dumps({"schemaVersion": 2, "layers": [layer]}).encode()
    with pytest.raises(UserDataError, match="none of them"):
        require_signature(registry.client(), DIGEST, public_keys(public))


@pytest.mark.parametrize("password", [None, "", "p\u00e4ssword"])
def test_keys_are_read_as_cosign_and_openssl_write_them(password: str | None) -> None:
    pem, public = key_pair(password)
    key = private_key(pem, password or "")
    assert key.public_key().public_numbers() == public_keys(public)[0].public_numbers()


def other_keys() -> list[str]:
    """Keys of other kinds, and no keys."""
    made = (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1()))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pems = [key.private_bytes(serialization.Encoding.PEM, form, plain).decode() for key in made]
    return [*pems, "", "secret words", key_pair("right")[0], key_pair("right")[0].replace("\n", "", 3)]


def test_a_key_that_cannot_sign_is_told_without_quoting_it() -> None:
    for pem in other_keys():
        with pytest.raises(UserConfigError, match=r"cosign\.key") as told:
            private_key(pem, "wrong words")
        assert "words" not in str(told.value)
        assert "BEGIN" not in str(told.value)


def test_a_public_key_of_another_kind_is_named_by_its_place() -> None:
    _, good = key_pair()
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    pem = other.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
    with pytest.raises(UserConfigError, match="key 2 is not an ECDSA key"):
        public_keys(good + pem)
    with pytest.raises(UserConfigError, match="has no public key"):
        public_keys("words")
