"""Waits for GPU machines: until they can take GPU work, or until they are gone."""

from __future__ import annotations

from include.workspace import conditions
from include.workspace.adapter import published
from kaito.hooks.cluster import AsyncKaitoClusterHook
from kaito.hooks.pool import PoolKey, Purpose, observe_node_claims
from kaito.triggers.base import Observation, WorkspaceTrigger


class GpuPoolReadyTrigger(WorkspaceTrigger):
    """Succeeds when all machines of a Workspace's pool are Ready and offer GPUs.

    :param purpose: ``tuning`` or ``serving``.
    """

    subject = "the GPU nodes"
    phases = (conditions.Phase.NODES_READY, conditions.Phase.NODES_PENDING, conditions.Phase.NODES_FAILED)

    def __init__(
        self,
        *,
        workspace: str,
        namespace: str,
        purpose: str,
        kubernetes_conn_id: str,
        timeout_seconds: float,
        poll_seconds: float,
    ) -> None:
        super().__init__(
            workspace=workspace,
            namespace=namespace,
            kubernetes_conn_id=kubernetes_conn_id,
            timeout_seconds=timeout_seconds,
            poll_seconds=poll_seconds,
        )
        self.purpose = purpose

    async def observe(self, hook: AsyncKaitoClusterHook) -> Observation:
        if self.purpose == Purpose.TUNING and published(self.live):
            return Observation(True, "The adapter is published already: no machines are needed.", silent=True)
        pool = await observe_node_claims(hook, PoolKey(self.workspace, self.namespace, self.purpose))
        why = f"{pool.failure_class}: " if pool.failed else ""
        reason = None if pool.ready else pool.reason
        return Observation(pool.ready, why + pool.message, pool.failed, reason, pool.nodes)
