"""BYO nodes (bring your own) with GPUs: nothing is made and nothing is deleted, only looked at.

Which nodes they are is the Workspace's labelSelector's
matter, so a provider is for one Workspace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.manifests import ManifestSettings
from include.planning import Plan
from include.pools.byo import own_nodes_status
from include.pools.status import PoolStatus
from include.workspace import parse_workspace
from kaito.hooks.api import NODE
from kaito.hooks.kubernetes import AsyncKaitoClusterHook, KaitoClusterHook
from kaito.providers.base import GpuPool, PoolKey


def nodes_wanted(workspace: Mapping[str, Any]) -> int:
    """How many nodes the work needs: a preset runs on one, a template says it itself."""
    ws = parse_workspace(workspace)
    return 1 if ws.preset is not None else ws.node_count


class OwnNodes:
    """BYO nodes for one Workspace."""

    def __init__(self, hook: KaitoClusterHook, workspace: Mapping[str, Any]) -> None:
        self.hook = hook
        self.workspace = workspace

    def request(
        self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings
    ) -> GpuPool:
        """Return a pool of nothing."""
        return GpuPool(PoolKey.of(workspace, plan.purpose), run_id, plan.instance_type, ())

    def create(self, pool: GpuPool) -> list[str]:
        """Make nothing."""
        return []

    def delete(self, key: PoolKey, run_id: str) -> list[str]:
        """Delete nothing."""
        return []

    def delete_and_wait(self, key: PoolKey, run_id: str, *, timeout: float, poll: float = 0.3) -> None:
        """Delete nothing and wait for nothing."""

    def unregistered_capacity(self, key: PoolKey) -> None:
        """Nothing is charged to a Workspace."""

    def observe(self, key: PoolKey) -> PoolStatus:
        ws = parse_workspace(self.workspace)
        return own_nodes_status(ws, self.hook.list(NODE), nodes_wanted(self.workspace))


async def observe_own_nodes(hook: AsyncKaitoClusterHook, workspace: Mapping[str, Any]) -> PoolStatus:
    """As :meth:`OwnNodes.observe`, for triggers."""
    return own_nodes_status(parse_workspace(workspace), await hook.list(NODE), nodes_wanted(workspace))
