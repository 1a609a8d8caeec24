"""Workspaces with nothing left to do, and what work over them costs: for the benches of the reconciler."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.reconcile.story import Story, ready, run_ended

ROUNDS = 5


def quiet(kind: str, **annotations: str) -> Story:
    """A Workspace of this kind whose run has ended well, and about which nothing is to be done."""
    story = Story(kind, **annotations).lives(lambda s: ready(s) and run_ended(s))
    for _ in range(3):
        story.reconcile()
    return story


def cpu_seconds(work: Callable[[], object]) -> float:
    """The CPU seconds of the shortest of a few rounds."""
    taken = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return min(taken)
