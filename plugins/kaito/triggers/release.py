"""Waits until nothing of a deleted Workspace is left, or until its release is given up."""

from __future__ import annotations

from include.workspace import conditions
from kaito.hooks.api import WORKSPACE
from kaito.hooks.cluster import AsyncKaitoClusterHook
from kaito.hooks.release import look_async
from kaito.triggers.base import Observation, WorkspaceTrigger


class ReleasedTrigger(WorkspaceTrigger):
    """Succeeds when everything is gone; says meanwhile what is left, and by which finalizers.

    :param deadline_seconds: after so long from its deletion the Workspace is let go whatever is left.
    """

    subject = "the end of everything"
    phases = (conditions.Phase.DELETING,) * 3
    even_deleting = True

    def __init__(
        self,
        *,
        workspace: str,
        namespace: str,
        kubernetes_conn_id: str,
        timeout_seconds: float,
        poll_seconds: float,
        deadline_seconds: float,
    ) -> None:
        super().__init__(
            workspace=workspace,
            namespace=namespace,
            kubernetes_conn_id=kubernetes_conn_id,
            timeout_seconds=timeout_seconds,
            poll_seconds=poll_seconds,
        )
        self.deadline_seconds = deadline_seconds

    async def _fence(self, hook: AsyncKaitoClusterHook) -> None:
        """A Workspace that is gone is what this wait is for."""

    async def observe(self, hook: AsyncKaitoClusterHook) -> Observation:
        live = await hook.find(WORKSPACE, self.workspace, self.namespace)
        if live is None or not live["metadata"].get("deletionTimestamp"):
            return Observation(True, "The Workspace is gone.", silent=True)
        self.serve(live)
        remains = await look_async(hook, live, self.deadline_seconds)
        if not remains.left:
            return Observation(True, "Nothing is left.")
        if remains.forced:
            return Observation(True, f"Given up, since {remains.forced}. Left: {remains}")
        return Observation(False, f"Waiting for the end of: {remains}")
