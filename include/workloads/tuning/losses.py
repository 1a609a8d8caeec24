"""What the losses of a training say: that it has left what it learnt, or that it gets no better.

Pure functions of the losses so far, so that a resumed training comes to the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

#: How many losses are compared, and by how much their median must have grown since the start.
WINDOW, GROWN_BY, GROWN_SHARE = 10, 1.0, 0.5


def training_losses(history: Sequence[Mapping[str, Any]]) -> list[float]:
    """Of the trainer's log history, in order."""
    return [float(entry["loss"]) for entry in history if "loss" in entry]


def held_out_losses(history: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(step, loss on the held-out rows) of each evaluation, in order."""
    return [(int(entry["step"]), float(entry["eval_loss"])) for entry in history if "eval_loss" in entry]


def rewards(entry: Mapping[str, Any]) -> dict[str, float]:
    """What an evaluation of a training by preferences says of the held-out rows; empty for any other.

    `reward_margin`: how much more the adapter has come to prefer good answers to bad ones than the base model does
    (the mean of beta times the difference of their log-likelihood ratios). `reward_accuracy`: the share of pairs
    whose better answer it prefers so; of marked answers, which are no pairs, there is none.
    """
    chosen, rejected = entry.get("eval_rewards/chosen"), entry.get("eval_rewards/rejected")
    if chosen is None or rejected is None:
        return {}
    found = {"reward_margin": round(float(chosen) - float(rejected), 6)}
    if (accuracy := entry.get("eval_rewards/accuracies")) is not None:
        found["reward_accuracy"] = round(float(accuracy), 4)
    return found


def diverged(history: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """(median of the first losses, of the last) when a training has become worse than it was at its start.

    A single bad batch says nothing, and a loss that rises from a low point is overfitting or noise: only the
    median of the last ten, well above that of the first ten, is what no longer training mends.

    :param history: the trainer's log history; it is asked after every step, so only its ends are looked at.
    """
    ends = 2 * WINDOW  # evaluations stand between the losses
    known = training_losses(history if len(history) < 2 * ends else [*history[:ends], *history[-ends:]])
    if len(known) < 2 * WINDOW:
        return None
    first, last = median(known[:WINDOW]), median(known[-WINDOW:])
    return (first, last) if last > first + max(GROWN_BY, GROWN_SHARE * first) else None


@dataclass(frozen=True)
class Patience:
    """When to stop early: after `evaluations` in a row without a loss lower by more than `threshold`. 0: never."""

    evaluations: int = 0
    threshold: float = 0.0

    def is_over(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the last evaluations brought nothing better than what was before them."""
        lowest, since = float("inf"), 0
        for _, loss in held_out_losses(history):
            better = loss < lowest - self.threshold
            lowest, since = (loss, 0) if better else (lowest, since + 1)
        return 0 < self.evaluations <= since

    def sentence(self) -> str:
        """What is said of a training that was ended by it."""
        return f"stopped early: no better loss on the held-out rows in {self.evaluations} evaluations"


def best(evaluations: Sequence[tuple[int, float]]) -> tuple[int, float] | None:
    """(step, loss) of the lowest loss on the held-out rows, the earliest of equal ones."""
    return min(evaluations, key=lambda one: one[1]) if evaluations else None
