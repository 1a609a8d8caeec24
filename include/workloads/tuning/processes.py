"""How one update is shared by several processes, one a GPU: the same updates whatever their number.

An attempt may run on another machine than the one before (a spot machine was taken, and the next choice has other
GPUs). Its checkpoints only fit a training whose updates take as many sequences as before. So that number is kept on the
volume, and a later attempt divides it among the processes that it has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from include.contracts.plural import plural
from include.contracts.preference_keys import least_batch
from include.workloads.contract import atomic_write

NOTE = "updates.json"
#: What only says how an update is cut into pieces; not what is learnt.
SIZES = frozenset(
    (
        *("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size"),
        *("gradient_checkpointing", "ddp_find_unused_parameters"),
    )
)


def count() -> int:
    """The processes of this training, as the launcher says; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_chief() -> bool:
    """Whether this is the first process, which speaks and writes for all of them."""
    return int(os.environ.get("RANK") or 0) == 0


def sequences(training: Mapping[str, Any], processes: int) -> int:
    """Sequences that one update takes, over all processes."""
    batch, accumulation = _sizes(training)
    return batch * accumulation * processes


def spread(training: Mapping[str, Any], processes: int, total: int) -> dict[str, Any] | None:
    """The same training with updates of `total` sequences, by this many processes. None where they do not divide it.

    :param training: the arguments for SFTConfig; never more sequences at a time than these have.
    """
    each, rest = divmod(total, processes)
    if rest or not each:
        return None
    most = min(_sizes(training)[0], each)
    least = least_batch(training)
    batch = next((size for size in range(most, least - 1, -1) if each % size == 0), None)
    if batch is None:
        return None
    return {
        **training,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": each // batch,
    }


def as_before(
    training: Mapping[str, Any], processes: int, noted: int | None
) -> tuple[Mapping[str, Any], str]:
    """The training as an attempt before it began, and a sentence where that needs one ("" elsewhere).

    :param noted: sequences an update of the attempts before; None for the first.
    """
    own = sequences(training, processes)
    if noted is None or noted == own:
        return training, ""
    kept = spread(training, processes, noted)
    if kept is None:
        return training, (
            f"The attempts before took {plural(noted, 'sequence')} an update, which {plural(processes, 'process')} "
            f"cannot share: "
            f"with {own} an update the training starts anew."
        )
    batch, accumulation = _sizes(kept)
    return kept, (
        f"The attempts before took {plural(noted, 'sequence')} an update: {plural(processes, 'process')} with "
        f"{batch} at a time, one update every {accumulation}."
    )


def noted(output: Path, identity: str) -> int | None:
    """Sequences an update of the attempts before this one; None where there were none of this very training."""
    try:
        note = json.loads((output / NOTE).read_text())
        return int(note["sequences"]) if note["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note(output: Path, identity: str, total: int) -> None:
    """Keep for later attempts how many sequences an update takes."""
    atomic_write(output / NOTE, json.dumps({"identity": identity, "sequences": total}).encode())


def _sizes(training: Mapping[str, Any]) -> tuple[int, int]:
    return int(training["per_device_train_batch_size"]), int(training.get("gradient_accumulation_steps") or 1)
