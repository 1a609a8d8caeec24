"""Reads the user's `inference_config.yaml` as far as planning needs it: KAITO's mapping `vllm` of server flags.

It must never judge the file; a value that cannot be used is as good as none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROOT = "vllm"


def server_flags(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The flags under `vllm`, their names with dashes as vLLM spells them."""
    found = (config or {}).get(ROOT)
    if not isinstance(found, Mapping):
        return {}
    return {str(name).replace("_", "-"): value for name, value in found.items()}


def asked_context(config: Mapping[str, Any] | None) -> int | None:
    """The `max-model-len` of an inference config in tokens, or None when there is no usable one."""
    value = server_flags(config).get("max-model-len")
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
