"""How long the pure core takes over 1,000 unchanged Workspaces: `python -m tests.bench.reconcile_decisions`.

Every second one serves, the others have been tuned; nothing is to be done about any of them.
"""

from __future__ import annotations

from include.reconcile import due, runs_to_ask
from tests.support.reconcile.quiet import cpu_seconds, quiet

WORKSPACES = 1000


def main() -> None:
    stories = [quiet("inference"), quiet("tuning")]
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
        print(f"{name}: {cpu_seconds(work):.3f} s of CPU for {WORKSPACES} unchanged Workspaces")


if __name__ == "__main__":
    main()
