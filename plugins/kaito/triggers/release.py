"""Waits until nothing of a deleted Workspace is left, or until its release is given up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from include.workspace.status import conditions
from kaito.controller.finalizer import look
from kaito.hooks.api import WORKSPACE, CloudError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.triggers.base import Observation, WorkspaceTrigger

#: Clouds take minutes to delete a pool, and count our questions.
CLOUD_SECONDS = 5.0


class ReleasedTrigger(WorkspaceTrigger):
    """Succeeds when everything is gone; says meanwhile what is left, and by which finalizers.

    :param deadline_seconds: after so long from its deletion the Workspace is let go whatever is left.
    """

    subject = "the end of everything"
    phases = (conditions.Phase.DELETING,) * 3
    even_deleting = True

    def __init__(self, *, deadline_seconds: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deadline_seconds = deadline_seconds
        self._asked_clouds = float("-inf")
        self._pools = ""

    async def _fence(self, hook: AsyncKaitoClusterHook) -> None:
        """A Workspace that is gone is what this wait is for."""

    async def observe(self, hook: AsyncKaitoClusterHook) -> Observation:
        live = await hook.find(WORKSPACE, self.workspace, self.namespace)
        if live is None or not live["metadata"].get("deletionTimestamp"):
            return Observation(True, "The Workspace is gone.", silent=True)
        self.serve(live)
        remains = await look(hook, live, self.deadline_seconds, remote=False)
        left = str(remains) if remains.left else await self._in_clouds(hook, live)
        if not left:
            return Observation(True, "Nothing is left.")
        if remains.forced:
            return Observation(True, f"Given up, since {remains.forced}. Left: {left}")
        return Observation(False, f"Waiting for the end of: {left}")

    async def _in_clouds(self, hook: AsyncKaitoClusterHook, live: Mapping[str, Any]) -> str:
        """Pools of a cloud may outlive all that the cluster shows of them; returns them in words, "" for none."""
        if time.monotonic() - self._asked_clouds >= CLOUD_SECONDS:
            try:
                remains = await look(hook, live, self.deadline_seconds, remote=True)
                self._pools = "; ".join(map(str, remains.left))
            except (CloudError, ValueError) as error:  # the deadline ends it
                self._pools = f"machines of a cloud, which cannot be seen ({error})"
            self._asked_clouds = time.monotonic()
        return self._pools
