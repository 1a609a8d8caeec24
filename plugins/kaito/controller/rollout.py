"""Whether a rolled-out service answers: the reconciler's own judgement, for operators and triggers."""

from __future__ import annotations

from include.reconcile.rollout import (
    CRASHES_ALLOWED,
    HOPELESS_REASONS,
    PULL_REASONS,
    START_REASONS,
    STUCK_AFTER,
    RolloutStatus,
    rollout_status,
)

__all__ = [
    "CRASHES_ALLOWED",
    "HOPELESS_REASONS",
    "PULL_REASONS",
    "START_REASONS",
    "STUCK_AFTER",
    "RolloutStatus",
    "rollout_status",
]
