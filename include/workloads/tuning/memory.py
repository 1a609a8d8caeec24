"""What a training does when memory runs out: the same updates from smaller pieces, in a process of its own.

Half as many sequences at a time and twice the accumulation are the same update in half of the memory. How often that
was done is kept on the volume, so that a later attempt does not run out again. The process starts anew because only
that gives all memory back: what failed in the middle of a step still holds some, and on several GPUs the other
processes wait for the one that failed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from include.contracts.plural import plural
from include.contracts.preference_keys import least_batch
from include.workloads.contract import atomic_write
from include.workloads.tuning.recipe import Recipe

NOTE = "memory.json"
#: How a process of several tells its launcher to start all of them again; no exit code of the contract.
AGAIN = 76
MODULE = "include.workloads.tuning"


class Again(Exception):
    """The training has to start again, with what the note says."""


def lighter(training: Mapping[str, Any], chosen_by_user: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same training in less memory: as many sequences an update, fewer at a time. None where nothing is left.

    :param training: the arguments for SFTConfig.
    :param chosen_by_user: what the training config sets; gradient checkpointing that it sets is left alone.
    """
    batch = int(training["per_device_train_batch_size"])
    evaluated = int(training.get("per_device_eval_batch_size") or batch)
    least = least_batch(training)
    total = batch * int(training.get("gradient_accumulation_steps") or 1)
    fewer = next((size for size in range(max(batch // 2, least), least - 1, -1) if total % size == 0), batch)
    if fewer < batch or evaluated > 1:
        return {
            **training,
            "per_device_train_batch_size": fewer,
            "gradient_accumulation_steps": total // fewer,
            "per_device_eval_batch_size": max(1, evaluated // 2),
        }
    if training.get("gradient_checkpointing") or "gradient_checkpointing" in chosen_by_user:
        return None
    return {**training, "gradient_checkpointing": True}


def reduced(recipe: Recipe, chosen_by_user: Mapping[str, Any], times: int) -> tuple[Recipe, str]:
    """The recipe after memory ran out `times` times, and the sentence about it ("" for the recipe as it was)."""
    training = dict(recipe.training)
    for _ in range(times):
        training = lighter(training, chosen_by_user) or training
    if training == recipe.training:
        return recipe, ""
    batch, accumulation = _sizes(training)
    told = (
        f"Memory ran out before: {plural(batch, 'sequence')} at a time now, one update every "
        f"{accumulation} (as many sequences an update as before)"
    )
    if training.get("gradient_checkpointing") != recipe.training.get("gradient_checkpointing"):
        told += "; activations are computed again instead of kept"
    return replace(recipe, training=training, reasons=[*recipe.reasons, f"{told}."]), f"{told}."


def _sizes(training: Mapping[str, Any]) -> tuple[int, int]:
    return int(training["per_device_train_batch_size"]), int(training.get("gradient_accumulation_steps") or 1)


def times_noted(output: Path, identity: str) -> int:
    """How often memory ran out for this very run."""
    try:
        note = json.loads((output / NOTE).read_text())
        return int(note["times"]) if note["identity"] == identity else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def note(output: Path, identity: str, times: int) -> None:
    """Keep for later attempts how often memory ran out. Several processes may write the same."""
    atomic_write(output / NOTE, json.dumps({"identity": identity, "times": times}).encode())


def start_again() -> NoReturn:
    """Start the training in a fresh process, which goes on from the last checkpoint.

    A stop that is asked for meanwhile is kept: signals are held back until the new process listens (`contract.run`).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if "RANK" in os.environ:
        raise SystemExit(AGAIN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    os.execv(sys.executable, [sys.executable, "-m", MODULE])  # noqa: S606 - this very program
