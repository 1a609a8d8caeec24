"""Keys of signatures: a private one as `cosign generate-key-pair` or openssl writes it, and public ones in PEM.

cosign encrypts a private key with NaCl's secretbox under a key that scrypt makes of the password (sigstore/sigstore,
pkg/cryptoutils and secure-systems-lab/go-securesystemslib, encrypted).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from include.workloads.contract import UserConfigError

_COSIGN = re.compile(
    r"-----BEGIN (ENCRYPTED (?:SIGSTORE|COSIGN) PRIVATE KEY)-----\s([A-Za-z0-9+/=\s]+)\s-----END \1-----"
)
_PUBLIC = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
#: Of scrypt: cosign takes N = 65536 and r = 8, which is 64 MiB. More is not the work of cosign.
MOST_MEMORY = 1 << 28
_EXPECTED = "an ECDSA key on the curve P-256, as `cosign generate-key-pair` makes it"


def private_key(pem: str, password: str = "") -> ec.EllipticCurvePrivateKey:
    """The key that signs.

    :param pem: the content of cosign.key, or a key in PKCS#8, encrypted or not.
    :param password: what it is encrypted with; not used where it is not.
    :raises UserConfigError: it is no such key, or the password is another. Nothing of either is quoted.
    """
    secret = password.encode()
    try:
        found = _COSIGN.search(pem)
        if found:
            der = _opened(json.loads(base64.b64decode(found[2])), secret)
            key = serialization.load_der_private_key(der, None)
        else:
            encrypted = "ENCRYPTED PRIVATE KEY" in pem
            key = serialization.load_pem_private_key(pem.encode(), secret if encrypted else None)
    except (ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        raise UserConfigError(
            "The Secret of kaito.sh/signing-secret has no key that can be read: cosign.key must be "
            f"{_EXPECTED}, and cosign.password its password."
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UserConfigError(
            f"The key cosign.key of the Secret of kaito.sh/signing-secret is not {_EXPECTED}."
        )
    return key


def _opened(box: Any, secret: bytes) -> bytes:
    """The key in a file of cosign. Raises ValueError, also for another password."""
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    kdf, cipher = box["kdf"], box["cipher"]
    if (kdf["name"], cipher["name"]) != ("scrypt", "nacl/secretbox"):
        raise ValueError("unknown encryption")
    cost = {key.lower(): int(kdf["params"][key]) for key in ("N", "r", "p")}
    made = hashlib.scrypt(
        secret, salt=base64.b64decode(kdf["salt"]), maxmem=MOST_MEMORY, dklen=SecretBox.KEY_SIZE, **cost
    )
    try:
        return SecretBox(made).decrypt(base64.b64decode(box["ciphertext"]), base64.b64decode(cipher["nonce"]))
    except CryptoError:
        raise ValueError("another password") from None


def public_keys(pem: str) -> list[ec.EllipticCurvePublicKey]:
    """The keys that are trusted.

    :param pem: one after the other, as in cosign.pub; what stands between them is not read.
    :raises UserConfigError: there is none, or one is of another kind.
    """
    found: list[ec.EllipticCurvePublicKey] = []
    for block in _PUBLIC.findall(pem):
        try:
            key = serialization.load_pem_public_key(block.encode())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise UserConfigError(f"[kaito] adapter_public_keys: key {len(found) + 1} is not {_EXPECTED}.")
        found.append(key)
    if not found:
        raise UserConfigError("[kaito] adapter_public_keys has no public key in PEM.")
    return found


def is_one_of(key: ec.EllipticCurvePublicKey, others: Sequence[ec.EllipticCurvePublicKey]) -> bool:
    """Whether a key is among others."""
    numbers = key.public_numbers()
    return any(other.public_numbers() == numbers for other in others)
