"""Finds the LoRA adapters under /mnt/adapter and checks them before anything is loaded.

A broken adapter must end the start with a sentence, never be left out in silence: the user would get the base
model's answers and believe them tuned. Only safetensors are accepted, because other formats can run code.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.contracts.adapter_keys import ADAPTER_FOLDER, largest_rank
from include.workloads.contract import UserConfigError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """One adapter folder; `strength` (0 to 1) scales its effect, `dora` says that it is one (`use_dora`)."""

    name: str
    path: Path
    rank: int
    base_model: str | None
    strength: float
    dora: bool = False


def find_adapters(folder: Path, environment: Mapping[str, str] = os.environ) -> list[Adapter]:
    """All adapters, one per sub-folder, sorted by name; [] when the folder is missing or empty.

    KAITO gives an adapter's strength in an environment variable of exactly its name.
    Raises UserConfigError naming every broken adapter.
    """
    found: list[Adapter] = []
    faults: list[str] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.is_dir() or path.name.startswith((".", "lost+found")):
            continue
        # A tuning leaves the adapter beside its report: such a volume is a source as it is.
        made = path / ADAPTER_FOLDER
        inner = made if not (path / CONFIG).exists() and (made / CONFIG).is_file() else path
        try:
            found.append(read_adapter(inner, environment, path.name))
        except UserConfigError as error:
            faults.append(str(error))
    if faults:
        raise UserConfigError(" ".join(faults))
    return found


def read_adapter(path: Path, environment: Mapping[str, str] = os.environ, name: str | None = None) -> Adapter:
    """The adapter in a folder, checked; `name` in place of the folder's. Raises UserConfigError.

    A folder may hold one version of an adapter, `<name>@<digest12>`: the strength is the name's.
    """
    config = _config(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UserConfigError(f"Adapter {path.name}: peft_type is {kind}; only LORA adapters can be served.")
    _check_weights(path)
    base = config.get("base_model_name_or_path")
    return Adapter(
        name=name or path.name,
        path=path,
        rank=_rank(path, config),
        base_model=str(base) if base else None,
        strength=_strength(path.name, environment.get((name or path.name).partition("@")[0])),
        dora=bool(config.get("use_dora")),
    )


def _rank(path: Path, config: Mapping[str, Any]) -> int:
    try:
        return largest_rank(config)
    except ValueError as error:
        raise UserConfigError(f"Adapter {path.name}: {CONFIG}: {error}.") from None


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / CONFIG).read_text())
    except FileNotFoundError:
        raise UserConfigError(f"Adapter {path.name}: there is no {CONFIG} in its image's /data.") from None
    except (OSError, ValueError) as error:
        raise UserConfigError(f"Adapter {path.name}: {CONFIG} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise UserConfigError(f"Adapter {path.name}: {CONFIG} is not a JSON object.")
    return config


def _check_weights(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    weights = path / WEIGHTS
    if not weights.is_file():
        others = [other.name for other in path.glob("adapter_model.*")]
        found = f" (found {', '.join(others)}, a format that can run code)" if others else ""
        raise UserConfigError(f"Adapter {path.name}: there is no {WEIGHTS} in its image's /data{found}.")
    try:
        with safe_open(weights, framework="numpy") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise UserConfigError(f"Adapter {path.name}: {WEIGHTS} is damaged: {error}.") from error
    if not any("lora_" in name for name in names):
        raise UserConfigError(f"Adapter {path.name}: {WEIGHTS} holds no LoRA tensors.")


def _strength(name: str, text: str | None) -> float:
    if text is None:
        return 1.0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise UserConfigError(f"Adapter {name}: its strength is {text!r}; it must be a number from 0 to 1.")
    return value


def base_names(served: str, environment: Mapping[str, str] = os.environ) -> set[str]:
    """All names of the base model here: the one that it is served under, and the preset's and the hub's for it."""
    return {served, environment.get("MODEL_NAME", ""), environment.get("MODEL_ID", "")} - {""}


def check_base(adapters: list[Adapter], base_names: set[str]) -> list[str]:
    """Warnings for adapters that name another base model; a name may differ and still be the same weights."""
    return [
        f"Adapter {adapter.name} says it was made for {adapter.base_model}, this is "
        f"{' / '.join(sorted(base_names))}: loading fails if the shapes differ."
        for adapter in adapters
        if adapter.base_model and base_names and adapter.base_model not in base_names
    ]
