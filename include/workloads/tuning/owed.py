"""An evaluation that a stop came before: the checkpoint says that it is owed, and the next attempt makes it first.

A long evaluation does not fit into the grace of a pod, and the work since the last checkpoint must not be lost with it.
Without the evaluation a training that stops early, or keeps its best adapter, would come to another one than a training
that was never stopped.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from include.workloads.tuning import checkpoints

log = logging.getLogger("workload")

FILE = "evaluation-owed"
STATE = "trainer_state.json"


class EvaluationStopped(Exception):
    """A stop was asked for while the held-out rows were looked at."""


def note(checkpoint: Path) -> None:
    """Say in a checkpoint, before it is marked as complete, that its evaluation is owed."""
    (checkpoint / FILE).touch()


def is_owed(checkpoint: Path | None) -> bool:
    """Whether the attempt before was stopped before it had evaluated what it saved there."""
    return checkpoint is not None and (checkpoint / FILE).is_file()


def settle(trainer: Any, checkpoint: Path, identity: str) -> None:
    """Evaluate what a checkpoint holds, and write the finding into it; every process must call this.

    :param trainer: with the weights and the state of the checkpoint.
    :raises EvaluationStopped: and the evaluation is owed still.
    """
    log.info("The held-out rows first: the attempt before was stopped before it had looked at them.")
    trainer._determine_best_metric(metrics=trainer.evaluate(), trial=None)
    state = trainer.state
    if state.best_global_step == state.global_step:
        state.best_model_checkpoint = str(checkpoint)
    if trainer.is_world_process_zero():
        (checkpoint / checkpoints.MARK).unlink()
        state.save_to_json(str(checkpoint / STATE))
        (checkpoint / FILE).unlink()
        checkpoints.mark_complete(checkpoint, identity)
    trainer.accelerator.wait_for_everyone()
