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

from include.pools.observed import ObservedPool
from include.reconcile import Activity, AddFinalizer, Decision, ReconcileConfig, StartRun, decide, runs_to_ask
from include.reconcile.backoff import failed
from include.reconcile.idle import asks_for_metrics, asks_for_pools
from include.workspace import Fault
from include.workspace.status import conditions
from include.workspace.status.conditions import ConditionType, Reason
from include.workspace.status.transitions import WARNING, Event, transition_events
from kaito.controller import event_recorder as events
from kaito.controller.actions import Actions
from kaito.controller.dag_runs import AirflowRuns, RunRefused
from kaito.controller.fingerprints import Key
from kaito.controller.read_cache import ReadingOnce
from kaito.controller.service_probe import activity_of, pools_of, workspace_pools
from kaito.controller.snapshot import Snapshot, progress_of, take
from kaito.controller.status_writer import StatusWriter
from kaito.hooks.api import NODE, POD, WORKSPACE, CloudError, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.logger import Logger
from kaito.providers.selection import Chooser
from kaito.providers.settings import PoolSettings

Object = Mapping[str, Any]
#: Workspaces that are worked on at the same time.
CONCURRENCY = 8
#: More than that for one Workspace, and it is left for the next pass.
SECONDS_EACH = 60.0
#: Times that a decision is made again because somebody wrote to the Workspace meanwhile.
ATTEMPTS = 3
#: How a trouble of this shell begins in status.retry; the decisions keep their own there.
NOT_DONE = "Not carried out: "


class _Unseen(Exception):
    """What this Workspace names has not been looked up yet."""


@dataclass
class _Service:
    """What was asked about a service and its machines; None for what was not, or was not answered."""

    activity: Activity | None = None
    pools: list[ObservedPool] | None = None


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
        return f"{self.looked} Workspace(s) looked at, {self.changed} changed, {self.troubled} in trouble"


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
        self._states: dict[tuple[str, str], str | None] = {}
        self._progress: dict[Key, Object | None] = {}
        self._choices: dict[Key, PoolSettings] = {}
        self._service: dict[Key, _Service] = {}
        self._slots = asyncio.Semaphore(concurrency)
        self._config = replace(installation.config, faults=self._faults, versions=self._versions)

    async def run(self, keys: Collection[Key] | None) -> Outcome:
        """Look at these Workspaces (None: all), and do what is to be done.

        :raises ClusterError: the cluster could not be read; nothing was done.
        """
        self.snapshot, self._reads = await take(self.hook, keys), ReadingOnce(self.hook)
        await self._ask_runs()
        await self._ask_who_makes_machines()
        await self._ask_services()
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

    async def _ask_runs(self) -> None:
        """Ask Airflow about the runs that matter, and running tuning pods how far they are."""
        wanted: dict[Key, list[tuple[str, str]]] = {}
        for key, workspace in self.snapshot.workspaces.items():
            if asked := runs_to_ask(workspace, self.snapshot.of(key, POD), self.snapshot.pools(key)):
                wanted[key] = asked
        self._states = await self.runs.states(run for asked in wanted.values() for run in asked)
        told = await asyncio.gather(*(self._in_slot(self._ask_pod(key)) for key in wanted))
        self._progress = dict(zip(wanted, told, strict=True))

    async def _ask_pod(self, key: Key) -> Object | None:
        return await progress_of(self.hook, self.snapshot.of(key, POD))

    async def _ask_who_makes_machines(self) -> None:
        chooser = Chooser(self.hook)
        for key, workspace in self.snapshot.workspaces.items():
            try:
                self._choices[key] = (await chooser.choose(workspace)).settings
            except (ClusterError, ValueError) as error:
                # Then nothing is concluded from machines that are not there.
                self.log.info("%s/%s: who makes its machines is not known: %s", *key, _words(error))

    async def _ask_services(self) -> None:
        """Ask services how they are used, and whoever makes their machines what is left of them, where it matters."""
        now = datetime.now(UTC)
        for key, workspace in self.snapshot.workspaces.items():
            if asks_for_metrics(workspace, now) or asks_for_pools(workspace, self.snapshot.stateful_set(key)):
                self._service[key] = _Service()
        await asyncio.gather(*(self._in_slot(self._ask_service(key, now)) for key in self._service))

    async def _ask_service(self, key: Key, now: datetime) -> None:
        workspace, told = self.snapshot.workspaces[key], self._service[key]
        if asks_for_metrics(workspace, now):
            told.activity = await activity_of(self.hook, self.snapshot.of(key, POD))
        chosen = self._choices.get(key)
        if chosen and asks_for_pools(workspace, self.snapshot.stateful_set(key)):
            try:
                async with asyncio.timeout(SECONDS_EACH):
                    told.pools = await pools_of(self.hook, workspace, chosen)
            except (ClusterError, CloudError, ValueError, TimeoutError) as error:
                # What is not seen counts as there, and as not gone: it is looked at again.
                self.log.warning("%s/%s: its pools cannot be seen: %s", *key, _words(error))

    async def _in_slot(self, work: Awaitable[Any]) -> Any:
        async with self._slots:
            return await work

    async def _decide_all(self) -> list[WorkItem]:
        """Decide about all; what a few of them name is looked up on the way."""
        found: list[WorkItem] = []
        unseen: list[Key] = []
        for number, (key, workspace) in enumerate(self.snapshot.workspaces.items()):
            if number % 25 == 0:
                await asyncio.sleep(0)  # the Lease is renewed meanwhile
            try:
                found.append(WorkItem(key, workspace, self._decide(key, workspace)))
            except _Unseen:
                unseen.append(key)
            except Exception as error:
                found.append(self._not_decided(key, workspace, error))
        later = await asyncio.gather(*(self._in_slot(self._look_up_and_decide(key)) for key in unseen))
        return [*found, *later]

    async def _look_up_and_decide(self, key: Key) -> WorkItem:
        workspace = self.snapshot.workspaces[key]
        try:
            async with asyncio.timeout(SECONDS_EACH):
                self._found[key] = await self.installation.look_up(self._reads, workspace)
                return WorkItem(key, workspace, self._decide(key, workspace))
        except Exception as error:
            return self._not_decided(key, workspace, error)

    def _not_decided(self, key: Key, workspace: dict[str, Any], error: Exception) -> WorkItem:
        """A Workspace that cannot even be decided about must not stop the others."""
        if not isinstance(error, ClusterError):
            self.log.exception("Workspace %s/%s: no decision", *key)
        return WorkItem(key, workspace, Decision("undecided"), trouble=_words(error))

    def _decide(self, key: Key, workspace: dict[str, Any]) -> Decision:
        pools = self.snapshot.pools(key)
        asked = runs_to_ask(workspace, self.snapshot.of(key, POD), pools)
        runs = {run_id: self._states[dag, run_id] for dag, run_id in asked if (dag, run_id) in self._states}
        told = self._service.get(key, _Service())
        observed = self.snapshot.observed(
            key,
            runs,
            self._progress.get(key),
            ended=self._ended,
            activity=told.activity,
            pools=workspace_pools(pools, self.snapshot.of(key, NODE), self._choices.get(key), told.pools),
        )
        return decide(workspace, observed, datetime.now(UTC), self._config)

    def _versions(self, workspace: Object) -> Mapping[str, str]:
        metadata = workspace["metadata"]
        key = (metadata.get("namespace") or "default", metadata["name"])
        if key not in self._found:
            raise _Unseen(key)
        found: Mapping[str, str] = self.installation.config.versions(workspace, self._found[key])
        return found

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
                async with asyncio.timeout(SECONDS_EACH):
                    await step(item)
            except TimeoutError as error:
                item.trouble, item.reported = _words(error), False
            except ClusterError as error:
                item.gone = error.status == 404 and await self._is_gone(item)
                item.trouble = "" if item.gone else _words(error)
                item.reported = not error.transient
            except (RunRefused, CloudError) as error:
                item.trouble = str(error)
            except Exception as error:
                self.log.exception("Workspace %s/%s: failed", *item.key)
                item.trouble = _words(error)
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
        if not str((status.get("retry") or {}).get("message") or "").startswith(NOT_DONE):
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
            async with asyncio.timeout(SECONDS_EACH):
                live = await self.hook.find(WORKSPACE, item.key[1], item.key[0])
                if live is None:
                    item.gone, item.trouble = True, ""
                    return
                status = troubled(live, item.trouble, datetime.now(UTC))
                written = await self.writer.write(live, status)
                turned = transition_events(live.get("status"), status)
                await events.tell(self.hook, written, [_trouble_event(item.trouble), *turned])
                item.reported = True
        except (ClusterError, TimeoutError) as error:
            self.log.warning("Workspace %s/%s: its status could not be written: %s", *item.key, _words(error))

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


def troubled(live: Object, message: str, now: datetime) -> dict[str, Any]:
    """Return the status that tells of a trouble of the reconciler itself with this Workspace."""
    status = dict(live.get("status") or {})
    status["retry"] = failed(status.get("retry"), now, NOT_DONE + message)
    told = conditions.condition(status, ConditionType.WORKSPACE_READY)
    if told is None or (told["status"] == "False" and told["reason"] == Reason.PENDING):
        generation = int(live["metadata"].get("generation") or 1)
        for kind in (ConditionType.WORKSPACE_SUCCEEDED, ConditionType.WORKSPACE_READY):
            status["conditions"] = conditions.set_condition(
                status.get("conditions") or (), kind, False, Reason.PENDING, message, generation, now
            )
    return status


def _trouble_event(message: str) -> Event:
    return Event(WARNING, "ReconcileFailed", message, once=f"trouble {message}")


def _something(decision: Decision) -> bool:
    return decision.status is not None or bool(decision.actions or decision.events)


def _starts_a_run(decision: Decision) -> bool:
    return any(isinstance(action, StartRun) for action in decision.actions)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"took longer than {SECONDS_EACH:.0f} s"
    return str(error) or type(error).__name__
