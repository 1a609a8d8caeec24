"""Waits for one pod of a service that has two for a while, and gives the word back to the task that made it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.triggers.base import TriggerEvent

from include.reconcile import surge
from include.reconcile.pod_problems import begins_late
from include.workspace.api import names
from include.workspace.status import conditions
from kaito.hooks.api import POD, STATEFUL_SET
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.pod_events import LatestEvents
from kaito.triggers.base import Observation, WorkspaceTrigger


class SurgePodTrigger(WorkspaceTrigger):
    """Ends when the pod answers, cannot be placed on any Node, or cannot become ready; the other one answers meanwhile.

    :param ordinal: the number of the pod.
    """

    subject = "the new pod of the service"
    #: The service answers all the time; what becomes of a pod that fails, the task decides.
    phases = (conditions.Phase.INFERENCE_READY,) * 3

    def __init__(self, *, ordinal: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ordinal = ordinal

    @cached_property
    def _events(self) -> LatestEvents:
        return LatestEvents(self.log)

    async def observe(self, hook: AsyncKaitoClusterHook) -> Observation:
        stateful_set = await hook.find(STATEFUL_SET, self.workspace, self.namespace)
        labels = {names.WORKSPACE: self.workspace, names.COMPONENT: "serving"}
        pods = await hook.list(POD, self.namespace, labels=labels)
        events = await self._events.about(hook, filter(begins_late, pods))
        seen = surge.status(stateful_set, pods, self.ordinal, events)
        return Observation(
            seen.ready, seen.message, seen.failed, facts={"room": seen.reason != surge.NO_ROOM}
        )

    def success(self, last: Observation) -> TriggerEvent:
        return TriggerEvent({"ready": True, "message": last.message})

    def failure(self, last: Observation) -> TriggerEvent:
        stale = {"stale": True} if last.silent else {}
        return TriggerEvent({"ready": False, "message": last.message, **last.facts, **stale})
