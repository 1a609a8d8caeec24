"""Waits until a rolled-out service can answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from include.reconcile.pod_problems import PodProblem, stuck_seconds
from include.reconcile.rollout import RolloutStatus, rollout_status, silent_about
from include.reconcile.startup_log import Startup
from include.workspace.api import names
from include.workspace.status import conditions
from kaito.hooks.api import EVENT, POD, STATEFUL_SET
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.pod_events import LatestEvents
from kaito.triggers.base import Observation, WorkspaceTrigger
from kaito.triggers.startup import StartupLog


class RolloutReadyTrigger(WorkspaceTrigger):
    """Succeeds when all replicas of the Workspace's service are ready; prints what its pods meet on the way."""

    subject = "the service"
    phases = (
        conditions.Phase.INFERENCE_READY,
        conditions.Phase.ROLLING_OUT,
        conditions.Phase.INFERENCE_FAILED,
    )

    #: What keeps the service from being ready, and since when (monotonic seconds).
    _cause: tuple[str, float] | None = None

    @cached_property
    def _startup(self) -> StartupLog:
        return StartupLog(self.log)

    @cached_property
    def _events(self) -> LatestEvents:
        return LatestEvents(self.log)

    async def observe(self, hook: AsyncKaitoClusterHook) -> Observation:
        stateful_set = await hook.find(STATEFUL_SET, self.workspace, self.namespace)
        pods = await hook.list(
            POD, self.namespace, labels={names.WORKSPACE: self.workspace, names.COMPONENT: "serving"}
        )
        status, events, said = rollout_status(stateful_set, pods), [], None
        if not status.ready:
            events = await hook.list(EVENT, self.namespace, fields="type=Warning")
            events += await self._events.about(hook, silent_about(stateful_set, pods))
            status = self._patience(rollout_status(stateful_set, pods, events))
            said = None if status.failed else await self._startup.read(hook, self.namespace, pods)
        mine = {pod["metadata"]["uid"] for pod in pods}
        warnings = (event for event in events if event.get("type") == "Warning")
        notes = tuple(_line(e) for e in warnings if (e.get("involvedObject") or {}).get("uid") in mine)
        seen = Observation(status.ready, status.message, status.failed, status.reason, notes=notes)
        return _with(seen, said) if said else seen

    def _patience(self, status: RolloutStatus) -> RolloutStatus:
        """Give up on a cause that should have passed by now."""
        now = time.monotonic()
        if self._cause is None or self._cause[0] != status.reason:
            self._cause = (status.reason, now)
        patience = stuck_seconds(PodProblem(status.reason, status.message), holds_machines=True)
        stuck = patience is not None and now - self._cause[1] > patience
        return replace(status, failed=True) if stuck else status


def _with(seen: Observation, said: Startup) -> Observation:
    """Add how far the server is; only a step of it is news, since each is a write that everybody sees who watches."""
    return replace(
        seen,
        message=f"{seen.message}, {said}",
        news=f"{seen.message}, {said.step_of_it}",
        progress=said.status(),
    )


def _line(event: Mapping[str, Any]) -> str:
    return f"{event['involvedObject'].get('name')}: {event.get('reason')}: {event.get('message')}"
