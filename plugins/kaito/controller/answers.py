"""What a pass asks besides its lists: Airflow about runs, pods and services about their work, clouds about pools, and
the cluster for the Events about pods that do not begin.

Only what decisions need is asked. What is not answered is not known: nothing is concluded from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from include.pools.observed import ObservedPool
from include.reconcile import Activity, Observed, runs_to_ask
from include.reconcile.due import asks_for_metrics
from include.reconcile.idle import asks_for_pools
from include.reconcile.rollout import silent_about
from include.workspace.api import names
from kaito.controller import trouble
from kaito.controller.dag_runs import AirflowRuns
from kaito.controller.fingerprints import Key
from kaito.controller.service_probe import activity_of, pools_of, workspace_pools
from kaito.controller.snapshot import Snapshot, progress_of
from kaito.hooks.api import NODE, POD, CloudError, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.logger import Logger
from kaito.pod_events import events_about
from kaito.providers.selection import Chooser
from kaito.providers.settings import PoolSettings

Object = Mapping[str, Any]


@dataclass
class Service:
    """What was asked about a service and its machines; None for what was not, or was not answered."""

    activity: Activity | None = None
    pools: list[ObservedPool] | None = None


class Answers:
    """The answers of one pass.

    :param slots: how much is asked at the same time.
    """

    def __init__(
        self, hook: AsyncKaitoClusterHook, runs: AirflowRuns, log: Logger, slots: asyncio.Semaphore
    ) -> None:
        self.hook, self.runs, self.log, self._slots = hook, runs, log, slots
        self._states: dict[tuple[str, str], str | None] = {}
        self._progress: dict[Key, Object | None] = {}
        self._choices: dict[Key, PoolSettings] = {}
        self._service: dict[Key, Service] = {}
        self._events: dict[Key, list[dict[str, Any]]] = {}

    async def ask(self, snapshot: Snapshot) -> None:
        """Ask all that matters about the Workspaces of a snapshot."""
        await self._ask_runs(snapshot)
        await self._ask_who_makes_machines(snapshot)
        await self._ask_services(snapshot)
        await self._ask_events(snapshot)

    def observed(
        self, snapshot: Snapshot, key: Key, workspace: Object, ended: Mapping[str, datetime]
    ) -> Observed:
        """Return all that was seen of one Workspace: its objects, and what was answered about it.

        :param ended: when machines were seen to go, by the uids of what shows them.
        """
        pools = snapshot.pools(key)
        asked = runs_to_ask(workspace, snapshot.of(key, POD), pools)
        service = self._service.get(key, Service())
        return snapshot.observed(
            key,
            {run_id: self._states[dag, run_id] for dag, run_id in asked if (dag, run_id) in self._states},
            self._progress.get(key),
            ended=ended,
            events=self._events.get(key, ()),
            activity=service.activity,
            pools=workspace_pools(pools, snapshot.of(key, NODE), self._choices.get(key), service.pools),
        )

    async def _ask_runs(self, snapshot: Snapshot) -> None:
        """Ask Airflow about the runs that matter, and running tuning pods how far they are."""
        wanted: dict[Key, list[tuple[str, str]]] = {}
        for key, workspace in snapshot.workspaces.items():
            if asked := runs_to_ask(workspace, snapshot.of(key, POD), snapshot.pools(key)):
                wanted[key] = asked
        self._states = await self.runs.states(run for asked in wanted.values() for run in asked)
        answers = await asyncio.gather(
            *(self._in_slot(progress_of(self.hook, snapshot.of(key, POD))) for key in wanted)
        )
        self._progress = dict(zip(wanted, answers, strict=True))

    async def _ask_who_makes_machines(self, snapshot: Snapshot) -> None:
        chooser = Chooser(self.hook)
        for key, workspace in snapshot.workspaces.items():
            try:
                self._choices[key] = (await chooser.choose(workspace)).settings
            except (ClusterError, ValueError) as error:
                # Then nothing is concluded from machines that are not there.
                self.log.info("%s/%s: who makes its machines is not known: %s", *key, trouble.words(error))

    async def _ask_services(self, snapshot: Snapshot) -> None:
        """Ask services how they are used, and whoever makes their machines what is left of them, where it matters."""
        now = datetime.now(UTC)
        for key, workspace in snapshot.workspaces.items():
            if asks_for_metrics(workspace, now) or asks_for_pools(workspace, snapshot.stateful_set(key)):
                self._service[key] = Service()
        await asyncio.gather(*(self._in_slot(self._ask_service(snapshot, key, now)) for key in self._service))

    async def _ask_service(self, snapshot: Snapshot, key: Key, now: datetime) -> None:
        workspace, service = snapshot.workspaces[key], self._service[key]
        if asks_for_metrics(workspace, now):
            service.activity = await activity_of(self.hook, snapshot.of(key, POD))
        chosen = self._choices.get(key)
        if chosen and asks_for_pools(workspace, snapshot.stateful_set(key)):
            try:
                async with asyncio.timeout(trouble.SECONDS_EACH):
                    service.pools = await pools_of(self.hook, workspace, chosen)
            except (ClusterError, CloudError, ValueError, TimeoutError) as error:
                # What is not seen counts as there, and as not gone: it is looked at again.
                self.log.warning("%s/%s: its pools cannot be seen: %s", *key, trouble.words(error))

    async def _ask_events(self, snapshot: Snapshot) -> None:
        """Ask for the Events about what of a service does not begin, and does not tell why."""
        silent = {
            key: found
            for key in snapshot.workspaces
            if (found := silent_about(snapshot.stateful_set(key), _serving(snapshot.of(key, POD))))
        }
        asked = (self._in_slot(events_about(self.hook, found, self.log)) for found in silent.values())
        self._events = dict(zip(silent, await asyncio.gather(*asked), strict=True))

    async def _in_slot(self, work: Awaitable[Any]) -> Any:
        async with self._slots:
            return await work


def _serving(pods: Iterable[Object]) -> list[Object]:
    return [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(names.COMPONENT) == "serving"]
