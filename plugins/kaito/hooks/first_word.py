"""Writes the first conditions of Workspaces that have none: a pass of the reconciler that stops after the first news.

The wait for changes does this before it hands over, since finding a worker and starting a task takes longer than
judging a Workspace. What is written is what the task would write (same reads, same decision, same fenced writes); the
task agrees and goes on from there. It must never start, create or delete anything, never ask the internet, and never
make a trouble of its own known: the task meets the same trouble and tells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.reconcile import Decision, first_word
from kaito.hooks.fingerprints import Key
from kaito.hooks.reconciling import Case, Pass
from kaito.lookup import asks_the_hub


class FirstWord(Pass):
    """One look at Workspaces that nobody has told anything about; :meth:`Pass.over` does it."""

    def _decide(self, key: Key, workspace: dict[str, Any]) -> Decision:
        return first_word(workspace, super()._decide(key, workspace))

    async def _look_up_and_decide(self, key: Key) -> Case:
        workspace: Mapping[str, Any] = self.snapshot.workspaces[key]
        if asks_the_hub(workspace):  # an answer may take long, and the triggerer has others to serve
            return Case(key, dict(workspace), Decision("unheard"))
        return await super()._look_up_and_decide(key)

    async def _tell_trouble(self, case: Case) -> None:
        case.settled = True
