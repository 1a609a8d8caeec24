"""Refuses a model that the installed transformers cannot load by itself, before its weights are read.

Code that comes with a model is never run. transformers would ask for leave at a terminal that a pod has not, or advise
an installation, and whoever reads that cannot tell what is wrong with the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from include.workloads.contract import UserConfigError


def require_known(weights: Path) -> None:
    """UserConfigError for a model whose config.json transformers cannot read without code of the model's own.

    A config that is not there is none of this function's business.
    """
    import transformers

    path = weights / "config.json"
    if not path.is_file():
        return
    try:
        transformers.AutoConfig.from_pretrained(weights, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # its checks of a config have errors of their own
        raise UserConfigError(_why(_document(path), weights, transformers.__version__, error)) from error


def text_config(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's config.json says of its text: a model that sees or hears too has it in a part of its own."""
    part = document.get("text_config")
    return {**document, **(part if isinstance(part, Mapping) else {})}


def context(weights: Path) -> int | None:
    """How many tokens the model in this folder reads, where its config.json says so."""
    found = text_config(_document(weights / "config.json")).get("max_position_embeddings")
    return found if isinstance(found, int) else None


def load_tokenizer(weights: Path, **options: Any) -> Any:
    """The model's tokenizer. UserConfigError where it needs code of the model's own, or transformers cannot read it."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            weights, local_files_only=True, trust_remote_code=False, **options
        )
    except (ValueError, TypeError, KeyError, ImportError) as error:
        mapped = _document(weights / "tokenizer_config.json").get("auto_map")
        what = (
            "needs code of its own (auto_map), which is never run: choose a model without it"
            if mapped
            else f"cannot be read: {_begin(error)}"
        )
        raise UserConfigError(f"The tokenizer of the model in {weights} {what}.") from error


def _why(document: dict[str, Any], weights: Path, version: str, error: Exception) -> str:
    kind = document.get("model_type")
    if document.get("auto_map"):
        return (
            f"The model in {weights} ({kind}) needs code of its own (auto_map in its config.json), which is never run: "
            "choose a model that transformers knows by itself."
        )
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        return f"The model in {weights} is of the type {kind!r}, which transformers {version} does not know."
    return f"The config.json of the model in {weights} cannot be used: {_begin(error)}."


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _begin(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300].rstrip(".")
