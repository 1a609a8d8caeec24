"""The Docker configuration in a Secret, for what the control plane itself asks of a registry."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

KEY = ".dockerconfigjson"


def docker_config(secret: Mapping[str, Any]) -> str:
    """Return the text of a Secret's Docker configuration, "" where it holds none that can be read."""
    try:
        return base64.b64decode(str((secret.get("data") or {}).get(KEY) or ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
