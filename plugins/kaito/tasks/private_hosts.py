"""What the control plane needs to ask hosts of data: where it may connect to, and what a Secret holds for them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from include.contracts.network_policy import NetworkPolicy
from kaito.settings import manifest_settings


def network_policy() -> NetworkPolicy:
    """Return where this installation may connect to."""
    settings = manifest_settings()
    return NetworkPolicy.of(settings.allowed_networks, settings.insecure_registries)


def value_in(secret: Mapping[str, Any], key: str) -> str | None:
    """Return the text under a key of a Secret, None where there is none. Whoever takes it has to hide it."""
    given = (secret.get("data") or {}).get(key)
    try:
        return base64.b64decode(str(given), validate=True).decode() if given else None
    except (binascii.Error, UnicodeDecodeError):
        return None
