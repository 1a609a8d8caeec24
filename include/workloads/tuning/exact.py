"""A training that has to be the same again (`kaito.sh/rerun: exact`): what it needs, and whether it came out so.

What an earlier training recorded (`reproduce.json`) is held against what this one would do, before the model is loaded.
It must never replace the adapter that lies there by another one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from include.contracts import adapter_record as record
from include.workloads.contract import UserConfigError

_MISSING = object()
SHOWN, VALUE_CHARS = 8, 80
WAY_OUT = "give kaito.sh/rerun another value than exact to train anew"


def former(output: Path) -> dict[str, Any]:
    """What the training before recorded. UserConfigError where that is not there."""
    path = output / record.FOLDER / record.REPRODUCE
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not found.get(record.ADAPTER_SHA256):
        raise UserConfigError(
            f"kaito.sh/rerun: exact needs the record of the training before, and {path} cannot be read: {WAY_OUT}."
        )
    return found


def check(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a training that could not come out the same, naming everything that differs.

    :param before: the record of the training before; `now` is what this one's would be, without the adapter.
    :raises UserConfigError: something that it needs is not the same.
    """
    known = {key: value for key, value in before.items() if key != record.ADAPTER_SHA256}
    told = list(differences(known, json.loads(json.dumps(now, default=str))))
    if told:
        more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        raise UserConfigError(
            f"kaito.sh/rerun: exact cannot be kept, because not everything is as it was: "
            f"{'; '.join(told[:SHOWN])}{more}. Make them the same, or {WAY_OUT}."
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """A phrase for each value that is not the same, such as `packages.torch is "2.9" and was "2.8"`."""
    for key in sorted({*before, *now}):
        old, new, name = before.get(key, _MISSING), now.get(key, _MISSING), f"{place}{key}"
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{name}.")
        else:
            yield f"{name} is {_shown(new)} and was {_shown(old)}"


def _shown(value: object) -> str:
    if value is _MISSING:
        return "not recorded"
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= VALUE_CHARS:
        return text
    return f"text with the digest {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def require_same(before: Mapping[str, Any], sha256: str, device: str) -> None:
    """UserConfigError when the weights that were made are not those of the training before."""
    if before[record.ADAPTER_SHA256] == sha256:
        return
    why = "on a GPU sums may come in another order" if device == "cuda" else "everything recorded is the same"
    raise UserConfigError(
        f"The training came out with the weights {sha256}, and not with {before[record.ADAPTER_SHA256]} as before "
        f"({why}). The adapter before is still there, and nothing is published: {WAY_OUT}."
    )


def make_deterministic() -> None:
    """Ask PyTorch for algorithms that always sum in one order, where it has them; for a GPU."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # NVIDIA's cuBLAS: before its first product
    torch.use_deterministic_algorithms(True, warn_only=True)
