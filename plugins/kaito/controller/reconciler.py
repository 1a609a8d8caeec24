"""One pass of the reconciler: see, decide, carry out, for many Workspaces at once.

The decisions are made in include.reconcile. This part reads the cluster once for all, writes the first news of every
Workspace before the slower work of any, and keeps the troubles of one Workspace from the others: they go into its
status, with a time for the next attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from include.contracts.plural import plural
from include.reconcile import AddFinalizer, Decision, ReconcileConfig, StartRun, decide
from include.workspace import Fault
from include.workspace.status import conditions
from include.workspace.status.transitions import transition_events
from kaito.controller import event_recorder as events
from kaito.controller import trouble
from kaito.controller.actions import Actions
from kaito.controller.answers import Answers
from kaito.controller.dag_runs import AirflowRuns, RunRefused
from kaito.controller.fingerprints import Key
from kaito.controller.read_cache import ReadingOnce
from kaito.controller.snapshot import Snapshot, take
from kaito.controller.status_writer import StatusWriter
from kaito.hooks.api import WORKSPACE, CloudError, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.logger import Logger

Object = Mapping[str, Any]
#: Workspaces that are worked on at the same time.
CONCURRENCY = 8
#: Times that a decision is made again because somebody wrote to the Workspace meanwhile.
ATTEMPTS = 3


class _Unseen(Exception):
    """What this Workspace names has not been looked up yet."""


@dataclass(frozen=True)
class Installation:
    """What decisions need to know of the installation.

    :param config: as decisions take them, but ``faults`` and ``versions`` get, as their last argument,
        what ``look_up`` found for the Workspace.
    :param look_up: finds what a judgement needs besides the Workspace.
    """

    config: ReconcileConfig
    look_up: Callable[[ReadingOnce, Object], Awaitable[Any]]


@dataclass
class Outcome:
    """What came of a pass. ``unreported`` failed in a way that could not even be written into their status."""

    looked: int = 0
    changed: int = 0
    troubled: int = 0
    unreported: list[Key] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{plural(self.looked, 'Workspace')} looked at, {self.changed} changed, {self.troubled} in trouble"


@dataclass
class WorkItem:
    """One Workspace on its way through the pass."""

    key: Key
    live: dict[str, Any]
    decision: Decision
    done: list[str] = field(default_factory=list)
    trouble: str = ""
    reported: bool = True
    gone: bool = False


class Reconciler:
    """One look at some Workspaces.

    :param log: gets one line for each Workspace that something was done about.
    :param before_runs: what comes before the first run is started, which from then on takes the machine's time.
    :param ended: when machines were seen to go, by the uids of what shows them.
    """

    def __init__(
        self,
        hook: AsyncKaitoClusterHook,
        runs: AirflowRuns,
        installation: Installation,
        log: Logger,
        *,
        concurrency: int = CONCURRENCY,
        before_runs: Callable[[], Awaitable[None]] | None = None,
        ended: Mapping[str, str] | None = None,
    ) -> None:
        self.hook, self.runs, self.installation, self.log = hook, runs, installation, log
        self.writer = StatusWriter(hook)
        self.snapshot = Snapshot()
        self._before_runs = before_runs
        self._ended = {uid: at for uid, when in (ended or {}).items() if (at := conditions.moment(when))}
        self._reads = ReadingOnce(hook)
        self._found: dict[Key, Any] = {}
        self._slots = asyncio.Semaphore(concurrency)
        self._answers = Answers(hook, runs, log, self._slots)
        self._config = replace(installation.config, faults=self._faults, versions=self._versions)

    async def run(self, keys: Collection[Key] | None) -> Outcome:
        """Look at these Workspaces (None: all), and do what is to be done.

        :raises ClusterError: the cluster could not be read; nothing was done.
        """
        self.snapshot, self._reads = await take(self.hook, keys), ReadingOnce(self.hook)
        await self._answers.ask(self.snapshot)
        outcome = Outcome(looked=len(self.snapshot.workspaces))
        items = [item for item in await self._decide_all() if item.trouble or _something(item.decision)]
        await asyncio.gather(*(self._in_slot(self._tell_trouble(item)) for item in items if item.trouble))
        await self._each(items, self._write_first)
        if self._before_runs and any(_starts_a_run(item.decision) for item in items):
            await self._before_runs()
        await self._each(items, self._act)
        for item in items:
            self._account(item, outcome)
        return outcome

    async def _in_slot(self, work: Awaitable[Any]) -> Any:
        async with self._slots:
            return await work

    async def _decide_all(self) -> list[WorkItem]:
        """Decide about all; what a few of them name is looked up on the way."""
        result: list[WorkItem] = []
        unseen: list[Key] = []
        for number, (key, workspace) in enumerate(self.snapshot.workspaces.items()):
            if number % 25 == 0:
                await asyncio.sleep(0)  # the Lease is renewed meanwhile
            try:
                result.append(WorkItem(key, workspace, self._decide(key, workspace)))
            except _Unseen:
                unseen.append(key)
            except Exception as error:
                result.append(self._not_decided(key, workspace, error))
        later = await asyncio.gather(*(self._in_slot(self._look_up_and_decide(key)) for key in unseen))
        return [*result, *later]

    async def _look_up_and_decide(self, key: Key) -> WorkItem:
        workspace = self.snapshot.workspaces[key]
        try:
            async with asyncio.timeout(trouble.SECONDS_EACH):
                self._found[key] = await self.installation.look_up(self._reads, workspace)
                return WorkItem(key, workspace, self._decide(key, workspace))
        except Exception as error:
            return self._not_decided(key, workspace, error)

    def _not_decided(self, key: Key, workspace: dict[str, Any], error: Exception) -> WorkItem:
        """A Workspace that cannot even be decided about must not stop the others."""
        if not isinstance(error, ClusterError):
            self.log.exception("Workspace %s/%s: no decision", *key)
        return WorkItem(key, workspace, Decision("undecided"), trouble=trouble.words(error))

    def _decide(self, key: Key, workspace: dict[str, Any]) -> Decision:
        observed = self._answers.observed(self.snapshot, key, workspace, self._ended)
        return decide(workspace, observed, datetime.now(UTC), self._config)

    def _versions(self, workspace: Object) -> Mapping[str, str]:
        metadata = workspace["metadata"]
        key = (metadata.get("namespace") or "default", metadata["name"])
        if key not in self._found:
            raise _Unseen(key)
        result: Mapping[str, str] = self.installation.config.versions(workspace, self._found[key])
        return result

    def _faults(self, workspace: Object, before: Object | None) -> list[Fault]:
        metadata = workspace["metadata"]
        key = (metadata.get("namespace") or "default", metadata["name"])
        if key not in self._found:
            raise _Unseen(key)
        found: list[Fault] = self.installation.config.faults(workspace, before, self._found[key])
        return found

    async def _each(self, items: Iterable[WorkItem], step: Callable[[WorkItem], Awaitable[None]]) -> None:
        await asyncio.gather(*(self._guarded(item, step) for item in items))

    async def _guarded(self, item: WorkItem, step: Callable[[WorkItem], Awaitable[None]]) -> None:
        """Run a step for one Workspace; what goes wrong in it is this Workspace's trouble only."""
        if item.trouble or item.gone:
            return
        async with self._slots:
            try:
                async with asyncio.timeout(trouble.SECONDS_EACH):
                    await step(item)
            except TimeoutError as error:
                item.trouble, item.reported = trouble.words(error), False
            except ClusterError as error:
                item.gone = error.status == 404 and await self._is_gone(item)
                item.trouble = "" if item.gone else trouble.words(error)
                item.reported = not error.transient
            except (RunRefused, CloudError) as error:
                item.trouble = str(error)
            except Exception as error:
                self.log.exception("Workspace %s/%s: failed", *item.key)
                item.trouble = trouble.words(error)
            if item.trouble:
                await self._tell_trouble(item)

    async def _is_gone(self, item: WorkItem) -> bool:
        try:
            return await self.hook.find(WORKSPACE, item.key[1], item.key[0]) is None
        except ClusterError:
            return False

    async def _write_first(self, item: WorkItem) -> None:
        """The finalizer and the status: what a user waits to see. Decided anew when somebody wrote meanwhile."""
        for _ in range(ATTEMPTS):
            try:
                await self._write(item)
                return
            except ClusterError as error:
                if error.status != 409:
                    raise
            fresh = await take(
                self.hook, [item.key]
            )  # its children too: a Workspace is never newer than they are
            live = fresh.workspaces.get(item.key)
            if live is None or live["metadata"]["uid"] != item.live["metadata"]["uid"]:
                item.gone = True
                return
            self.snapshot.renew(item.key, fresh)
            item.live = live
            item.decision = self._decide(item.key, live)
        raise ClusterError(409, "Conflict", "somebody else keeps writing to it")

    async def _write(self, item: WorkItem) -> None:
        doer = Actions(self.hook, self.runs, item.live)
        for action in item.decision.actions:
            if isinstance(action, AddFinalizer):
                await doer.do(action)
        item.live = doer.live
        if item.decision.status is not None:
            item.live = await self.writer.write(doer.live, item.decision.status)

    async def _act(self, item: WorkItem) -> None:
        """Everything else, in its order."""
        rest = [action for action in item.decision.actions if not isinstance(action, AddFinalizer)]
        if rest and item.decision.status is None and not await self._still_so(item):
            return
        doer = Actions(self.hook, self.runs, item.live)
        try:
            for action in rest:
                if done := await doer.do(action):
                    item.done.append(done)
            item.live = await self._forget_trouble(doer.live)
        finally:  # the status has turned, whatever became of the actions
            await events.tell(self.hook, item.live, item.decision.events)

    async def _forget_trouble(self, live: dict[str, Any]) -> dict[str, Any]:
        """What could not be carried out earlier was carried out now."""
        status = live.get("status") or {}
        if not str((status.get("retry") or {}).get("message") or "").startswith(trouble.NOT_DONE):
            return live
        return await self.writer.write(live, {key: value for key, value in status.items() if key != "retry"})

    async def _still_so(self, item: WorkItem) -> bool:
        """A decision holds for the Workspace that was seen; a status that was written has proved it."""
        seen = item.live["metadata"]
        now = await self.hook.find(WORKSPACE, item.key[1], item.key[0])
        return now is not None and now["metadata"]["resourceVersion"] == seen["resourceVersion"]

    async def _tell_trouble(self, item: WorkItem) -> None:
        """Put the trouble where the Workspace's author looks, with a time for the next attempt."""
        try:
            async with asyncio.timeout(trouble.SECONDS_EACH):
                live = await self.hook.find(WORKSPACE, item.key[1], item.key[0])
                if live is None:
                    item.gone, item.trouble = True, ""
                    return
                status = trouble.status_with(live, item.trouble, datetime.now(UTC))
                written = await self.writer.write(live, status)
                turned = transition_events(live.get("status"), status)
                await events.tell(self.hook, written, [trouble.event(item.trouble), *turned])
                item.reported = True
        except (ClusterError, TimeoutError) as error:
            self.log.warning(
                "Workspace %s/%s: its status could not be written: %s", *item.key, trouble.words(error)
            )

    def _account(self, item: WorkItem, outcome: Outcome) -> None:
        if item.gone:
            self.log.info("%s/%s: gone", *item.key)
            return
        if item.trouble:
            outcome.troubled += 1
            self.log.error("%s/%s: %s: %s", *item.key, item.decision.situation, item.trouble)
            if not item.reported:
                outcome.unreported.append(item.key)
            return
        outcome.changed += 1
        state = (item.live.get("status") or {}).get("state") or "no state"
        done = "; ".join(item.done) or ("status written" if item.decision.status is not None else "told")
        self.log.info("%s/%s: %s (%s): %s", *item.key, item.decision.situation, state, done)


def _something(decision: Decision) -> bool:
    return decision.status is not None or bool(decision.actions or decision.events)


def _starts_a_run(decision: Decision) -> bool:
    return any(isinstance(action, StartRun) for action in decision.actions)
