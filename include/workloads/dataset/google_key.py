"""The JSON key of a service account of Google: signs what asks for the list of a bucket; obstore signs objects only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from include.contracts.dataset_keys import GOOGLE_KEY
from include.workloads.contract import UserConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_EXPECTED = 'the JSON file that Google gives for one, with "client_email" and "private_key"'


@dataclass(frozen=True)
class ServiceAccount:
    """Whose key it is, and the key. Where else the file would lead is not looked at."""

    email: str
    key: RSAPrivateKey = field(repr=False)

    @classmethod
    def of(cls, text: str) -> ServiceAccount:
        """The account of a key file's text.

        :raises UserConfigError: it is none, or its key is no RSA key. Nothing of it is quoted.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

        try:
            document = json.loads(text)
            email, pem = document["client_email"], document["private_key"]
            key = serialization.load_pem_private_key(pem.encode(), None)
        except (ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, RSAPrivateKey) or not isinstance(email, str) or not email:
            raise UserConfigError(
                f"The key {GOOGLE_KEY} of the Secret in kaito.sh/dataset-secret is no key of a service account: it "
                f"must be {_EXPECTED}."
            )
        return cls(email, key)

    def sign(self, text: str) -> str:
        """The RSA signature (PKCS #1 v1.5, SHA-256) of a text, in hexadecimal."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        return self.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()).hex()
