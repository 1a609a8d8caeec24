"""What the end of a starting server's log says of how far it is."""

from __future__ import annotations

import pytest

from include.reconcile.startup_log import startup
from include.workloads.weights.pace import line

MIB = 1 << 20


@pytest.mark.parametrize(
    ("log", "stage"),
    [
        ("", ""),
        ("downloading org/model at main\n", ""),
        (
            f"x\n  {line(512 * MIB, 2048 * MIB, 5.0)}\n",
            "downloading the weights: 512 of 2048 MiB (25%), 102 MiB/s, about 15 s left",
        ),
        (
            f"  the model image: {line(2048 * MIB, 2048 * MIB, 20.0)}",
            "downloading the weights: 2048 of 2048 MiB (100%), 102 MiB/s",
        ),
        (
            "  90 of 100 MiB (90%), 1 MiB/s\nLoading safetensors checkpoint shards:  25% Completed | 1/4\r\n",
            "loading the weights: 25%",
        ),
        (
            "Loading checkpoint shards:   0%|   | 0/1 [00:00<?, ?it/s]\rLoading checkpoint shards: 100%|#| 1/1",
            "loading the weights: 100%",
        ),
        (
            "  5 of 10 MiB (50%), 1 MiB/s\nGET /health 200",
            "downloading the weights: 5 of 10 MiB (50%), 1 MiB/s",
        ),
        ("  9 of 9 MiB (100%), 1 MiB/s\nweights ready: 3 files, 9 MiB in /weights\nstarting", ""),
    ],
)
def test_the_last_line_that_tells_it_counts(log: str, stage: str) -> None:
    assert str(startup(log) or "") == stage


@pytest.mark.parametrize(("left", "seconds"), [("about 15 s left", 15.0), ("about 3 min left", 180.0)])
def test_it_is_a_progress_as_a_training_has_one(left: str, seconds: float) -> None:
    said = startup(f"  512 of 2048 MiB (25%), 102 MiB/s, {left}")
    assert said is not None
    assert said.status() == {
        "stage": "downloading the weights",
        "step": 512,
        "total": 2048,
        "percent": 25,
        "etaSeconds": seconds,
    }
