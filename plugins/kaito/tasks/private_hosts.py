"""What the control plane needs to ask hosts of data: where it may connect to, and a private host's header."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from include.contracts.dataset_keys import AUTHORIZATION
from include.contracts.network_policy import NetworkPolicy
from include.contracts.redaction import hide
from kaito.settings import manifest_settings


def network_policy() -> NetworkPolicy:
    """Return where this installation may connect to."""
    settings = manifest_settings()
    return NetworkPolicy.of(settings.allowed_networks, settings.insecure_registries)


def header_in(secret: Mapping[str, Any]) -> str:
    """Return the value of the Authorization header in a Secret, hidden from every log; "" where it has none."""
    value = (value_in(secret, AUTHORIZATION) or "").strip()
    if not value.isascii() or not value.isprintable():
        return ""
    hide(value)
    hide(value.rpartition(" ")[2])
    return value


def value_in(secret: Mapping[str, Any], key: str) -> str | None:
    """Return the text under a key of a Secret, None where there is none. Whoever takes it has to hide it."""
    given = (secret.get("data") or {}).get(key)
    try:
        return base64.b64decode(str(given), validate=True).decode() if given else None
    except (binascii.Error, UnicodeDecodeError):
        return None
