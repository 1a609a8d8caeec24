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
    return whole(server_flags(config).get("max-model-len"), 1)


def whole(value: Any, least: int) -> int | None:
    """A whole number of at least so much, which may be written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        number = int(value)
    except ValueError:
        return None
    return number if number >= least else None
