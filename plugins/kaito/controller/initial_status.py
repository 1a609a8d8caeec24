"""Writes the first conditions of Workspaces that have none: a pass of the reconciler that stops after the first news.

The wait for changes does this before it hands over, since finding a worker and starting a task takes longer than
judging a Workspace; the task does it for those who came after, before it starts runs that take the machine's time. What
is written is what the task would write (same reads, same decision, same fenced writes); the task agrees and goes on
from there. It must never start, create or delete anything, never ask the internet, and never make a trouble of its own
known: the task meets the same trouble and tells it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from include.reconcile import Decision, awaits_initial_status, initial_status
from include.reconcile.backoff import moment
from include.workspace.status.transitions import Event
from kaito.controller import event_recorder as events
from kaito.controller.fingerprints import Key, key_of
from kaito.controller.reconciler import Reconciler, WorkItem
from kaito.hooks.api import WORKSPACE, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.lookup import asks_the_hub

#: So long may initial statuses hold up what else is due, in seconds; who has none by then gets it from the task.
INITIAL_STATUS_SECONDS = 10.0
#: ... and their Events after them; an Event that is not written is no loss, the conditions say the same.
EVENTS_SECONDS = 10.0
#: Workspaces in one round: the first of them waits until all are judged.
ROUND = 100
#: Who has been there for longer without a word is silent for a reason (paused, or somebody else's).
NEW = timedelta(minutes=2)


class InitialStatusReconciler(Reconciler):
    """One look at Workspaces that nobody has told anything about; :meth:`Reconciler.run` does it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._untold: list[tuple[Mapping[str, Any], Sequence[Event]]] = []

    async def to_all(self, pending: Callable[[], Awaitable[Sequence[Key]]], reported: set[Key]) -> None:
        """Go on until nobody is left, or the time is up: the conditions of all come before the Events of any.

        :param pending: returns who awaits an initial status and is not in `reported`.
        :param reported: gets whoever is looked at, whatever comes of it.
        """
        try:
            async with asyncio.timeout(INITIAL_STATUS_SECONDS):
                while keys := (await pending())[:ROUND]:
                    reported.update(keys)
                    await self.run(keys)
        except (ClusterError, TimeoutError) as error:
            self.log.info("First conditions are left to the task: %s", error or "there are too many")
        await self._tell()

    def _decide(self, key: Key, workspace: dict[str, Any]) -> Decision:
        return initial_status(workspace, super()._decide(key, workspace))

    async def _look_up_and_decide(self, key: Key) -> WorkItem:
        workspace: Mapping[str, Any] = self.snapshot.workspaces[key]
        if asks_the_hub(workspace):  # an answer may take long, and the triggerer has others to serve
            return WorkItem(key, dict(workspace), Decision("pending"))
        return await super()._look_up_and_decide(key)

    async def _write(self, item: WorkItem) -> None:
        await super()._write(item)
        self._untold.append((item.live, item.decision.events))

    async def _act(self, item: WorkItem) -> None:
        """The rest is the task's."""

    async def _tell(self) -> None:
        """Write the Events of what was said."""
        untold, self._untold = self._untold, []
        told = (self._in_slot(events.tell(self.hook, live, what)) for live, what in untold)
        try:
            async with asyncio.timeout(EVENTS_SECONDS):
                await asyncio.gather(*told)
        except TimeoutError:
            self.log.info("Not all Events of the first conditions were written within %.0f s", EVENTS_SECONDS)

    async def _tell_trouble(self, item: WorkItem) -> None:
        item.reported = True


async def newcomers(hook: AsyncKaitoClusterHook, known: Collection[Key]) -> list[Key]:
    """Return the Workspaces that came a moment ago and that nobody has told anything.

    :param known: those who are looked after already.
    :raises ClusterError: the cluster does not say.
    """
    since = datetime.now(UTC) - NEW
    result: list[Key] = []
    async for page, _ in hook.pages(WORKSPACE):
        for workspace in page:
            made = moment(workspace["metadata"].get("creationTimestamp"))
            if awaits_initial_status(workspace) and made and made > since and key_of(workspace) not in known:
                result.append(key_of(workspace))
    return result
