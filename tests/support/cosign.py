"""Keys as `cosign generate-key-pair` writes them."""

from __future__ import annotations

import base64
import hashlib
import json

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nacl.secret import SecretBox
from nacl.utils import random

#: cosign takes 65536; the tests need not wait for it.
COST = {"N": 1024, "r": 8, "p": 1}


def key_pair(password: str | None = None) -> tuple[str, str]:
    """cosign.key and cosign.pub; without a password the key is in plain PKCS#8."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    plain = serialization.NoEncryption()
    if password is None:
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        return pem.decode(), public.decode()
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, plain)
    return sealed(der, password), public.decode()


def sealed(der: bytes, password: str) -> str:
    """A key in cosign's encryption."""
    salt, nonce = random(32), random(SecretBox.NONCE_SIZE)
    made = hashlib.scrypt(password.encode(), salt=salt, n=COST["N"], r=COST["r"], p=COST["p"], dklen=32)
    box = {
        "kdf": {"name": "scrypt", "params": COST, "salt": base64.b64encode(salt).decode()},
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(nonce).decode()},
        "ciphertext": base64.b64encode(SecretBox(made).encrypt(der, nonce).ciphertext).decode(),
    }
    text = base64.encodebytes(json.dumps(box).encode()).decode()
    return f"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n{text}-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"
