"""Waits, without a worker, until some Workspace needs a look; ends with the names of those that do.

The API server's watches say what changed, the clock says what is due, and a resync every few minutes makes sure that
nothing depends on either. The wait also holds the Lease that keeps two Airflow deployments apart: without it, it
waits passively. All that it writes to a Workspace is its initial status (kaito.controller.initial_status); everything
else is left to the task that follows.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

from include.contracts.plural import plural
from include.reconcile import awaits_initial_status, due
from include.workspace.api import names
from include.workspace.status import conditions
from kaito import settings
from kaito.controller.cache import ClusterView
from kaito.controller.dag_runs import AirflowRuns
from kaito.controller.dispatch import Dispatch
from kaito.controller.fingerprints import Key
from kaito.controller.informer import Backoff, changes
from kaito.controller.initial_status import InitialStatusReconciler
from kaito.controller.leader_election import RENEW_EVERY, Election, ObservedLease
from kaito.hooks.api import (
    CONFIG_MAP,
    NODE,
    POD,
    SERVICE,
    STATEFUL_SET,
    WORKSPACE,
    ClusterError,
    Kind,
)
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.installation import installation
from kaito.providers.registry import watched

#: What the Workspaces own, and the nodes of their machines: all carry the Workspace's label. What providers make and
#: let us watch comes to it.
CHILDREN: tuple[Kind, ...] = (POD, STATEFUL_SET, SERVICE, NODE)
#: How often the clock is asked who is due.
TICK = 1.0
#: Whoever is due within that time goes along with those who are due now.
TOGETHER = 3.0
#: Names shown in the log when many Workspaces are handed out.
SHOWN = 10

#: What this triggerer process has seen, by connection: it outlives each single wait.
_VIEWS: dict[str, ClusterView] = {}
_LEASES: dict[str, ObservedLease] = {}


class WorkspaceChangesTrigger(BaseTrigger):
    """Succeeds with ``{"keys": [[namespace, name], ...], "reason", "token", "identity", "ended"}``.

    ``keys`` None means all; ``ended`` has when machines of theirs were seen to go, by the uids of what shows them.

    :param kubernetes_conn_id: Airflow connection to the cluster.
    :param quiet_seconds: more changes that come within that time go along.
    :param longest_seconds: no change waits longer than that for others.
    :param resync_seconds: look at everything that often.
    """

    def __init__(
        self,
        *,
        kubernetes_conn_id: str,
        quiet_seconds: float = 0.2,
        longest_seconds: float = 1.0,
        resync_seconds: float = 300.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kubernetes_conn_id = kubernetes_conn_id
        self.quiet_seconds = quiet_seconds
        self.longest_seconds = longest_seconds
        self.resync_seconds = resync_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        cls = type(self)
        arguments = list(inspect.signature(cls.__init__).parameters)[1:]
        return f"{cls.__module__}.{cls.__qualname__}", {name: getattr(self, name) for name in arguments}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        view = _VIEWS.setdefault(self.kubernetes_conn_id, ClusterView())
        backoff, begin = Backoff(), time.monotonic()
        while True:
            hook = AsyncKaitoClusterHook(conn_id=self.kubernetes_conn_id)
            try:
                async with hook.connected():
                    wait = _Wait(self, hook, view, self._election(hook))
                    event = await wait.until_due(begin + self.resync_seconds)
            except ClusterError as error:
                pause = backoff.next()
                self.log.warning("The cluster cannot be watched, trying again in %.0f s: %s", pause, error)
                await asyncio.sleep(pause)
                continue
            if event is not None:
                yield event
                return

    def _election(self, hook: AsyncKaitoClusterHook) -> Election:
        seen = _LEASES.setdefault(self.kubernetes_conn_id, ObservedLease())
        return Election(
            hook, settings.deployment_id(), settings.base_url(), settings.lease_namespace(), seen=seen
        )


class _Wait:
    """One wait over one connection to the cluster."""

    def __init__(
        self,
        trigger: WorkspaceChangesTrigger,
        hook: AsyncKaitoClusterHook,
        view: ClusterView,
        election: Election,
    ) -> None:
        self.trigger, self.hook, self.view, self.election = trigger, hook, view, election
        self.log = trigger.log
        self.news = asyncio.Event()
        self.kinds: list[Kind] = []
        self.active = False
        self.not_before = 0.0
        self.began = time.monotonic()
        #: Who was given a initial status, or could not be: once in a wait, the rest is the task's.
        self.reported: set[Key] = set()

    async def until_due(self, deadline: float) -> TriggerEvent | None:
        """Return the event that ends the wait; None when the Lease was lost and the wait begins again."""
        if not await self._become_active(deadline):
            return TaskSkippedEvent()
        #: What costs from its beginning to its end.
        self.machines = (NODE, *watched())
        self.kinds = [
            WORKSPACE,
            *CHILDREN,
            *watched(),
            *([CONFIG_MAP] if self.view.names_config_maps() else []),
        ]
        tasks = [asyncio.create_task(self._follow(kind)) for kind in self.kinds]
        tasks.append(asyncio.create_task(self._hold_lease()))
        try:
            return await self._watch_and_wait(tasks, deadline)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _become_active(self, deadline: float) -> bool:
        """Wait for the Lease; returns False when it is still another deployment's at the deadline."""
        said = ""
        while True:
            leadership = await self.election.stand()
            if leadership.mine:
                break
            if leadership.message != said:
                self.log.warning("%s", leadership.message)
                said = leadership.message
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(RENEW_EVERY)
        self.log.info("%s", leadership.message)
        if said:  # another deployment has acted meanwhile
            self.view.forget()
        if not self.view.acknowledge(leadership.last_pass):
            pause = min(30.0, 2.0 ** min(self.view.refusals, 5))
            self.log.warning(
                "The last reconcile task did not end well: its Workspaces are due again in %.0f s.", pause
            )
            self.not_before = time.monotonic() + pause
        self.active = True
        return True

    async def _hold_lease(self) -> None:
        while self.active:
            await asyncio.sleep(RENEW_EVERY)
            leadership = await self.election.stand()
            if not leadership.mine:
                self.log.warning("%s", leadership.message)
                self.active = False
        self.news.set()

    async def _follow(self, kind: Kind) -> None:
        """Keep the view up to date with one kind."""
        labels = None if kind in (WORKSPACE, CONFIG_MAP) else {names.WORKSPACE: None}
        since = self.view.versions.get(kind.plural, "")
        async for change in changes(self.hook, kind, labels, since=since, metadata_only=kind is CONFIG_MAP):
            self.view.take(kind.plural, change)
            if change.type == "DELETED" and kind in self.machines:
                self.view.record_deletion(change.objects, conditions.timestamp(datetime.now(UTC)))
            self.news.set()
            if change.type == "PAGE":
                await asyncio.sleep(0)

    async def _watch_and_wait(
        self, tasks: Sequence[asyncio.Task[None]], deadline: float
    ) -> TriggerEvent | None:
        first_seen: float | None = None
        while self.active:
            self.news.clear()
            for task in tasks:
                if task.done() and self.active:
                    task.result()  # raises what ended it
            now = time.monotonic()
            if self._complete() and now >= self.not_before:
                await self._write_initial_statuses()
                if self._everything_is_due():
                    return self._dispatch(None, "first look" if self.view.resynced is None else "resync")
                if (
                    now - self.began >= TICK
                ):  # what was written since the last wait has come in: the clock judges by it
                    self._ask_the_clock()
                if self.view.due:
                    first_seen = first_seen or now
                    if now - first_seen >= self.trigger.longest_seconds or not await self._more_news():
                        return self._dispatch(dict(self.view.due), "")
                    continue
            if now > deadline and not self.view.workspaces:
                return TaskSkippedEvent()
            await self._news_within(TICK)
        return None

    async def _write_initial_statuses(self) -> None:
        """Tell the authors of new Workspaces at once what a worker would tell them seconds later."""
        if self._pending():
            await InitialStatusReconciler(self.hook, AirflowRuns(), installation(), self.log).to_all(
                self._next, self.reported
            )

    async def _next(self) -> list[Key]:
        return self._pending() if self.active else []

    def _pending(self) -> list[Key]:
        """Those who are due and have no condition yet."""
        return [key for key in self.view.due if key not in self.reported and self._silent(key)]

    def _silent(self, key: Key) -> bool:
        workspace = self.view.workspaces.get(key)
        return workspace is not None and awaits_initial_status(workspace)

    def _complete(self) -> bool:
        """Whether every kind was listed once: what is looked at before that would be looked at again."""
        return all(kind.plural in self.view.versions for kind in self.kinds)

    def _everything_is_due(self) -> bool:
        now = time.time()
        if not self.view.workspaces:
            self.view.resynced = self.view.resynced or now
            return False
        return self.view.resynced is None or now - self.view.resynced >= self.trigger.resync_seconds

    def _ask_the_clock(self) -> None:
        """Note who is due; when somebody is, those who would be in a moment come along, to save a run of their own."""
        now = datetime.now(UTC)
        soon: list[Key] = []
        for key, workspace in self.view.workspaces.items():
            looked = self.view.looked.get(key)
            left = due(workspace, datetime.fromtimestamp(looked, UTC) if looked else None, now)
            if left is not None and left <= TOGETHER:
                soon.append(key)
                if left == 0:
                    self.view.due.setdefault(key, "its time has come")
        if self.view.due:
            for key in soon:
                self.view.due.setdefault(key, "its time comes soon")

    async def _more_news(self) -> bool:
        return await self._news_within(self.trigger.quiet_seconds)

    async def _news_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.news.wait()
        except TimeoutError:
            return False
        return True

    def _dispatch(self, due_keys: dict[Key, str] | None, reason: str) -> TriggerEvent:
        token = uuid.uuid4().hex[:12]
        keys = None if due_keys is None else sorted(due_keys)
        if due_keys is None:
            reason = f"{reason}, {plural(len(self.view.workspaces), 'Workspace')}"
        else:
            shown = [f"{ns}/{name} ({due_keys[ns, name]})" for ns, name in (keys or [])[:SHOWN]]
            reason = ", ".join(shown) + (
                f" and {len(due_keys) - SHOWN} more" if len(due_keys) > SHOWN else ""
            )
        self.log.info("To be looked at: %s", reason)
        now = time.time()
        self.view.dispatch(keys, token, now)
        dispatch = Dispatch(
            keys=None if keys is None else tuple(keys),
            token=token,
            reason=reason,
            identity=self.election.identity,
            at=now,
            ended=self.view.ended_of(keys),
        )
        return TaskSuccessEvent(xcoms={"return_value": dispatch.to_xcom()})
