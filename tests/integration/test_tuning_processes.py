"""A real training by two processes, as on a machine with two GPUs, but over gloo on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from include.contracts.exit_codes import ExitCode
from tests.support.tuning_runs import (
    ALONE,
    TOGETHER,
    losses,
    make_inputs,
    sixteen_updates,
    start,
    stop_after,
)

pytestmark = [pytest.mark.integration, pytest.mark.weights, pytest.mark.timeout(300)]


def test_two_processes_learn_what_one_does_and_one_goes_on_where_two_were_stopped(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs")
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    of_two = sixteen_updates(
        2
    )  # both attempts are of one config: what it says of each process is for two of them
    two = start(inputs, shared, of_two, *TOGETHER)
    log = stop_after(two, shared, 4)
    assert two.returncode == ExitCode.TRY_AGAIN, log
    one = start(inputs, shared, of_two, *ALONE)
    log, _ = one.communicate(timeout=120)
    assert one.returncode == 0, log
    assert (
        "The attempts before took 4 sequences an update: 1 process with 1 at a time, one update every 4."
        in log
    )
    result = json.loads((shared.with_suffix(".json")).read_text())
    assert result["resumed_from_step"] >= 4
    assert result["steps"] == 16
    whole = start(inputs, alone, sixteen_updates(4), *ALONE)
    log, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0, log
    assert losses(shared) == pytest.approx(losses(alone), abs=2e-3)
    assert losses(alone)[-1] < losses(alone)[0] - 0.2  # there was something to learn
    assert (shared / "adapter" / "adapter_model.safetensors").stat().st_size > 0
