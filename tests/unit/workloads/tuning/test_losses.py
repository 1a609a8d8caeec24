from __future__ import annotations

from typing import Any

import pytest

from include.workloads.tuning.losses import Patience, best, diverged, held_out_losses


def trained(*losses: float) -> list[dict[str, Any]]:
    return [{"loss": loss, "step": step} for step, loss in enumerate(losses, 1)]


def evaluated(*losses: float) -> list[dict[str, Any]]:
    return [{"eval_loss": loss, "step": 10 * number} for number, loss in enumerate(losses, 1)]


@pytest.mark.parametrize(
    "losses",
    [
        [2.0] * 19,  # too few to say
        [2.0] * 10 + [0.01] * 300 + [0.5] * 10,  # worse than it was, better than at the start
        [2.0] * 100 + [90.0] + [2.0] * 5,  # one bad batch
        [2.0] * 50 + [2.9] * 10,  # noise
        [10.0] * 10 + [14.9] * 10,
    ],
)
def test_what_is_no_divergence(losses: list[float]) -> None:
    assert diverged(trained(*losses)) is None


@pytest.mark.parametrize("between", [0, 5, 500])
def test_a_loss_far_above_the_first_ones_is_divergence(between: int) -> None:
    history = trained(*[1.7] * 10, *[1.0] * between, *[7.0] * 10)
    assert diverged(history) == (pytest.approx(1.7), pytest.approx(7.0))


def test_evaluations_between_the_steps_do_not_hide_it() -> None:
    mixed = [
        entry for one in trained(*[1.7] * 60, *[7.0] * 10) for entry in (one, {"eval_loss": 1.0, "step": 1})
    ]
    assert diverged(mixed) == (pytest.approx(1.7), pytest.approx(7.0))


@pytest.mark.parametrize(
    ("losses", "over"),
    [
        ([3, 2, 1], False),
        ([1, 2], False),
        ([1, 2, 2], True),
        ([1, 2, 0.5, 1], False),
        ([3, 2.99, 2.98], True),
        ([], False),
    ],
)
def test_patience_of_two_evaluations(losses: list[float], over: bool) -> None:
    assert Patience(2, 0.1).is_over(evaluated(*losses)) is over


def test_without_patience_nothing_stops() -> None:
    assert not Patience().is_over(evaluated(1, 2, 3, 4))


def test_the_best_is_the_first_of_the_lowest() -> None:
    assert best(held_out_losses([*trained(9.0), *evaluated(2, 1, 1, 3)])) == (20, 1.0)
    assert best([]) is None
