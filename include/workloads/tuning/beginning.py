"""Keeps how an adapter began, where the published one is the difference to that (include.contracts.principal_start).

It is kept on the volume once for each training: an attempt on another machine may decompose the weights a little
otherwise, and what is published has to be the difference to the beginning that was trained from. It is never published.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from include.contracts import principal_start
from include.workloads.contract import atomic_write
from include.workloads.tuning.recipe import Recipe

FOLDER, MARK = "beginning", "of.json"


def keep(output: Path, identity: str, recipe: Recipe, model: Any) -> None:
    """Write the untrained adapter down, unless an earlier attempt of this very training has.

    :param identity: of the training, as its checkpoints have it.
    :param model: the PeftModel, before its first step.
    """
    folder = output / FOLDER
    if not principal_start.is_asked(recipe.lora) or _is_of(folder, identity):
        return
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, save_embedding_layers=False)
    atomic_write(folder / MARK, json.dumps({"identity": identity}).encode())


def conversion(output: Path, recipe: Recipe) -> dict[str, str]:
    """What `PeftModel.save_pretrained` is told so that it saves the difference; nothing for other adapters."""
    if not principal_start.is_asked(recipe.lora):
        return {}
    return {"path_initial_model_for_weight_conversion": str(output / FOLDER)}


def _is_of(folder: Path, identity: str) -> bool:
    try:
        return bool(json.loads((folder / MARK).read_text())["identity"] == identity)
    except (OSError, ValueError, KeyError, TypeError):
        return False
