"""When a stop within an update writes a checkpoint of the last whole one: whenever something would be lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from include.workloads import contract
from include.workloads.tuning.losses import Patience
from include.workloads.tuning.progress import Progress
from include.workloads.tuning.trainer import Watch


@pytest.mark.parametrize(
    ("events", "step", "saves"),
    [
        ((), 0, False),
        ((), 5, True),
        (("save",), 5, False),
        (("save", "evaluate"), 5, True),  # of an epoch: else the next attempt never knows of it
        (("evaluate", "save"), 5, False),
        (("evaluate",), 0, False),
    ],
)
def test_a_stop_within_an_update_saves_what_no_checkpoint_has(
    events: tuple[str, ...], step: int, saves: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(Progress(None), "me", 3600, Patience(0, 0.0))
    saved: list[bool] = []
    watch.trainer = SimpleNamespace(  # type: ignore[assignment]
        save_last_update=lambda: saved.append(True), require_numbers=lambda step: None
    )
    args = SimpleNamespace(output_dir=str(tmp_path), learning_rate=1e-4)
    state, control = (
        SimpleNamespace(global_step=step, is_world_process_zero=True, log_history=[]),
        SimpleNamespace(),
    )
    for event in events:
        getattr(watch, f"on_{event}")(args, state, control, metrics={"eval_loss": 1.0})
    monkeypatch.setattr(contract, "stop_requested", lambda: True)
    watch.on_substep_end(args, state, control)
    assert control.should_training_stop
    assert bool(saved) is saves
