"""How long the pure core takes over 1,000 unchanged Workspaces: `python -m tests.bench.reconcile_decisions`.

Every second one serves, the others have been tuned; nothing is to be done about any of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from include.reconcile import due, runs_to_ask
from tests.support.reconcile.story import Story, ready, run_ended

WORKSPACES = 1000
ROUNDS = 5


def _idle(kind: str) -> Story:
    story = Story(kind).lives(lambda s: ready(s) and run_ended(s))
    for _ in range(3):
        story.reconcile()
    return story


def _best(work: Callable[[], object]) -> float:
    """The shortest of a few rounds, in seconds of CPU."""
    taken = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return min(taken)


def main() -> None:
    stories = [_idle("inference"), _idle("tuning")]
    looks = [stories[number % 2].look() for number in range(WORKSPACES)]
    shell = stories[0].shell
    children = [
        [
            *look.observed.pods,
            *look.observed.stateful_sets,
            *look.observed.services,
        ]
        for look in looks
    ]

    def decide_all() -> None:
        for look in looks:
            decision = shell.decide(look)
            assert not decision.actions
            assert decision.status is None

    def ask_all() -> None:
        for look, owned in zip(looks, children, strict=True):
            assert runs_to_ask(look.workspace, owned, look.observed.pools.pools) == []
            assert due(look.workspace, look.now, look.now) is None

    for name, work in (("decide", decide_all), ("runs_to_ask and due", ask_all)):
        print(f"{name}: {_best(work):.3f} s of CPU for {WORKSPACES} unchanged Workspaces")


if __name__ == "__main__":
    main()
