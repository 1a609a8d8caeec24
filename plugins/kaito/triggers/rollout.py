"""Waits until a rolled-out service can answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from include.reconcile.pod_problems import PodProblem, container_statuses, stuck_seconds
from include.reconcile.rollout import RolloutStatus, rollout_status
from include.reconcile.startup_log import Startup, startup
from include.workspace.api import names
from include.workspace.status import conditions
from include.workspace.status.startup import STEP_PERCENT
from kaito.hooks import api
from kaito.hooks.api import EVENT, POD, STATEFUL_SET, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.triggers.base import Observation, WorkspaceTrigger

#: How often the log of a server that starts is read, how much of it, and how long that may take.
LOG_SECONDS, LOG_LINES, LOG_BYTES, LOG_TIMEOUT = 10.0, 20, 256 << 10, 5.0


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
    #: What the starting server's log said last, and when it was read (monotonic seconds).
    _said: tuple[Startup | None, float] = (None, float("-inf"))

    async def observe(self, hook: AsyncKaitoClusterHook) -> Observation:
        stateful_set = await hook.find(STATEFUL_SET, self.workspace, self.namespace)
        pods = await hook.list(
            POD, self.namespace, labels={names.WORKSPACE: self.workspace, names.COMPONENT: "serving"}
        )
        status, events, said = rollout_status(stateful_set, pods), [], None
        if not status.ready:
            events = await hook.list(EVENT, self.namespace, fields="type=Warning")
            status = self._patience(rollout_status(stateful_set, pods, events))
            said = None if status.failed else await self._startup(hook, pods)
        mine = {pod["metadata"]["uid"] for pod in pods}
        notes = tuple(_line(e) for e in events if (e.get("involvedObject") or {}).get("uid") in mine)
        seen = Observation(status.ready, status.message, status.failed, status.reason, notes=notes)
        return _with(seen, said) if said else seen

    async def _startup(
        self, hook: AsyncKaitoClusterHook, pods: Sequence[Mapping[str, Any]]
    ) -> Startup | None:
        """Read, now and then, from the log of the first container that starts how far it is."""
        starting = next((where for pod in pods if (where := _starting(pod))), None)
        if starting is None:
            return None
        said, read_at = self._said
        if time.monotonic() - read_at >= LOG_SECONDS:
            pod, container = starting
            request = api.pod_log(
                pod, self.namespace, container, lines=LOG_LINES, max_bytes=LOG_BYTES, timeout=LOG_TIMEOUT
            )
            try:
                async with hook.stream(request) as response:
                    said = startup(await response.text(errors="replace"))
            except ClusterError as error:  # the wait itself does not need it
                self.log.debug("The log of pod %s cannot be read: %s", pod, error)
            self._said = said, time.monotonic()
        return said

    def _patience(self, status: RolloutStatus) -> RolloutStatus:
        """Give up on a cause that should have passed by now."""
        now = time.monotonic()
        if self._cause is None or self._cause[0] != status.reason:
            self._cause = (status.reason, now)
        patience = stuck_seconds(PodProblem(status.reason, status.message), holds_machines=True)
        stuck = patience is not None and now - self._cause[1] > patience
        return replace(status, failed=True) if stuck else status


def _starting(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Name the pod and its first container, init containers before the others, that runs and is not ready yet."""
    for one in container_statuses(pod):
        if "running" in (one.get("state") or {}) and not one.get("ready"):
            return str(pod["metadata"]["name"]), str(one["name"])
    return None


def _with(seen: Observation, said: Startup) -> Observation:
    """Add how far the server is; only a step of it is news, since each is a write that everybody sees who watches."""
    return replace(
        seen,
        message=f"{seen.message}, {said}",
        news=f"{seen.message}, {said.stage} {said.percent // STEP_PERCENT}",
        progress=said.status(),
    )


def _line(event: Mapping[str, Any]) -> str:
    return f"{event['involvedObject'].get('name')}: {event.get('reason')}: {event.get('message')}"
