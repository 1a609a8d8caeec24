"""Waits until a rolled-out service can answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from include.contracts.redaction import redact
from include.reconcile.pod_problems import PodProblem, container_statuses, stuck_seconds
from include.reconcile.rollout import RolloutStatus, rollout_status
from include.reconcile.startup_log import startup_stage
from include.workspace.api import names
from include.workspace.status import conditions
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
    _stage: tuple[str, float] = ("", float("-inf"))

    async def observe(self, hook: AsyncKaitoClusterHook) -> Observation:
        stateful_set = await hook.find(STATEFUL_SET, self.workspace, self.namespace)
        pods = await hook.list(
            POD, self.namespace, labels={names.WORKSPACE: self.workspace, names.COMPONENT: "serving"}
        )
        status, events = rollout_status(stateful_set, pods), []
        if not status.ready:
            events = await hook.list(EVENT, self.namespace, fields="type=Warning")
            status = self._patience(rollout_status(stateful_set, pods, events))
            if not status.failed and (stage := await self._startup(hook, pods)):
                status = replace(status, message=f"{status.message}, {stage}")
        mine = {pod["metadata"]["uid"] for pod in pods}
        notes = tuple(_line(e) for e in events if (e.get("involvedObject") or {}).get("uid") in mine)
        return Observation(status.ready, status.message, status.failed, status.reason, notes=notes)

    async def _startup(self, hook: AsyncKaitoClusterHook, pods: Sequence[Mapping[str, Any]]) -> str:
        """Read, now and then, from the log of the first container that starts how far it is."""
        starting = next((where for pod in pods if (where := _starting(pod))), None)
        if starting is None:
            return ""
        stage, read_at = self._stage
        if time.monotonic() - read_at >= LOG_SECONDS:
            pod, container = starting
            request = api.pod_log(
                pod, self.namespace, container, lines=LOG_LINES, max_bytes=LOG_BYTES, timeout=LOG_TIMEOUT
            )
            try:
                async with hook.stream(request) as response:
                    stage = redact(startup_stage(await response.text(errors="replace")))
            except ClusterError as error:  # the wait itself does not need it
                self.log.debug("The log of pod %s cannot be read: %s", pod, error)
            self._stage = stage, time.monotonic()
        return stage

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


def _line(event: Mapping[str, Any]) -> str:
    return f"{event['involvedObject'].get('name')}: {event.get('reason')}: {event.get('message')}"
