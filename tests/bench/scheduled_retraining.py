"""What 500 Workspaces that are retrained by schedule add to the reconciler, as a share of a core.

    .venv/bin/python -m tests.bench.scheduled_retraining [Workspaces]

Two things cost CPU while nothing is trained: once a second the clock is asked who is due, and whoever is due is decided
about. The first is measured against the same Workspaces without a schedule. For the second, every Workspace is due once
an hour and starts a run each time, which is more than any of them would. Exits 1 when the share is above the limit.
The cost of the runs themselves is not in it.
"""

from __future__ import annotations

import sys
from datetime import timedelta

from include.reconcile import StartRun, due
from include.workspace.api import names
from include.workspace.status.conditions import timestamp
from tests.support.reconcile.quiet import cpu_seconds, quiet
from tests.support.reconcile.shell import Look
from tests.support.reconcile.story import Story, of

WORKSPACES = 500
LIMIT = 0.01
LOOKS_A_ROUND = 20
#: How often the trigger asks the clock, and how often each Workspace is due.
TICK_SECONDS, PERIOD_SECONDS = 1.0, 3600.0


def clock(look: Look, count: int) -> float:
    """CPU seconds of asking the clock once about so many Workspaces."""

    def ask() -> None:
        for _ in range(count * LOOKS_A_ROUND):
            due(look.workspace, look.now, look.now)

    return cpu_seconds(ask) / LOOKS_A_ROUND


def decision(story: Story, count: int) -> float:
    """CPU seconds of deciding about so many Workspaces whose time has come."""
    retrain = story.status["retrain"]
    retrain["next"] = timestamp(story.look().now - timedelta(seconds=1))
    look = story.look()
    starts = of(story.shell.decide(look), StartRun)
    assert [start.dag_id for start in starts] == ["kaito_retrain"], starts

    def decide() -> None:
        for _ in range(count):
            story.shell.decide(look)

    return cpu_seconds(decide)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else WORKSPACES
    plain, scheduled = quiet("quick"), quiet("quick", **{names.RETRAIN_SCHEDULE: "0 3 * * 1"})
    assert not plain.status.get("retrain")
    assert scheduled.status["retrain"]["next"]
    added = max(0.0, clock(scheduled.look(), count) - clock(plain.look(), count))
    decided = decision(scheduled, count)
    share = added / TICK_SECONDS + decided / PERIOD_SECONDS
    print(
        f"{count} scheduled Workspaces: {share:.3%} of a core (limit {LIMIT:.0%}): {added * 1000:.2f} ms more for each "
        f"look at the clock, {decided:.3f} s for all of them once an hour"
    )
    return 0 if share < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
