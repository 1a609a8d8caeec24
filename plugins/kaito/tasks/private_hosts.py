"""What the control plane needs to ask hosts of data: where it may connect to, and a private host's header."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from include.contracts.network_policy import NetworkPolicy
from include.contracts.redaction import hide
from include.workspace.api.access import AUTHORIZATION
from kaito.settings import manifest_settings


def network_policy() -> NetworkPolicy:
    """Return where this installation may connect to."""
    settings = manifest_settings()
    return NetworkPolicy.of(settings.allowed_networks, settings.insecure_registries)


def header_in(secret: Mapping[str, Any]) -> str:
    """Return the value of the Authorization header in a Secret, hidden from every log; "" where it has none."""
    given = (secret.get("data") or {}).get(AUTHORIZATION)
    try:
        value = base64.b64decode(str(given or ""), validate=True).decode("ascii").strip()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    hide(value)
    hide(value.rpartition(" ")[2])
    return value if value.isprintable() else ""
