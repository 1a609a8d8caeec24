"""Waits until nothing of a deleted Workspace is left, or until its release is given up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from include.workspace.status import conditions
from kaito.controller.finalizer import agent_pools_left, look
from kaito.hooks.api import WORKSPACE
from kaito.hooks.azure_account import AksError, ConnectionIncomplete
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.triggers.base import Observation, WorkspaceTrigger

#: Azure takes minutes to delete a pool, and counts our questions.
AZURE_SECONDS = 5.0


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
        self._asked_azure = float("-inf")
        self._pools = ""

    async def _fence(self, hook: AsyncKaitoClusterHook) -> None:
        """A Workspace that is gone is what this wait is for."""

    async def observe(self, hook: AsyncKaitoClusterHook) -> Observation:
        live = await hook.find(WORKSPACE, self.workspace, self.namespace)
        if live is None or not live["metadata"].get("deletionTimestamp"):
            return Observation(True, "The Workspace is gone.", silent=True)
        self.serve(live)
        remains = await look(hook, live, self.deadline_seconds)
        left = str(remains) if remains.left else await self._at_azure(live)
        if not left:
            return Observation(True, "Nothing is left.")
        if remains.forced:
            return Observation(True, f"Given up, since {remains.forced}. Left: {left}")
        return Observation(False, f"Waiting for the end of: {left}")

    async def _at_azure(self, live: Mapping[str, Any]) -> str:
        """Agent pools may outlive all that the cluster shows of them; returns them in words, "" when there are none."""
        if time.monotonic() - self._asked_azure >= AZURE_SECONDS:
            try:
                self._pools = "; ".join(await agent_pools_left(live))
            except (AksError, ConnectionIncomplete) as error:  # the deadline ends it
                self._pools = f"agent pools, which cannot be seen ({error})"
            self._asked_azure = time.monotonic()
        return self._pools
