"""Bring your own (BYO): GPU nodes that are there anyhow. Nothing is made and nothing is deleted, only looked at.

Which nodes they are is the Workspace's labelSelector's matter, so a provider is for one Workspace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.manifests import ManifestSettings
from include.planning import Plan
from include.pools.byo import own_nodes_status
from include.pools.observed import ObservedPool
from include.pools.status import PoolStatus
from include.workspace import parse_workspace
from include.workspace.api import names
from kaito.hooks.api import NODE
from kaito.providers.base import GpuPool, PoolKey, PoolProvider


def nodes_wanted(workspace: Mapping[str, Any]) -> int:
    """How many nodes the work needs: a preset runs on one, a template says it itself."""
    ws = parse_workspace(workspace)
    return 1 if ws.preset is not None else ws.node_count


class OwnNodes(PoolProvider):
    """BYO nodes of one Workspace."""

    name = names.ProviderName.BYO
    kind = "Node"
    makes_machines = False

    def request(
        self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings
    ) -> GpuPool:
        """Return a pool of nothing."""
        return GpuPool(PoolKey.of(workspace, plan.purpose), run_id, plan.instance_type, ())

    async def create(self, pool: GpuPool) -> list[str]:
        """Make nothing."""
        return []

    async def request_deletion(
        self, key: PoolKey, run_id: str, timeout: float | None = None
    ) -> tuple[list[str], list[str]]:
        """Delete nothing."""
        return [], []

    async def list_owned(self, labels: Mapping[str, str] | None = None) -> list[ObservedPool]:
        """Nothing of it is ours."""
        return []

    async def delete_observed(self, pool: ObservedPool, *, unchanged: bool = False) -> bool:
        return False

    async def may_own(self) -> bool:
        return False

    async def observe(self, key: PoolKey, wanted: int = 1) -> PoolStatus:
        if self.context.workspace is None:
            raise ValueError(f"Provider {self.name} needs a Workspace to choose nodes for.")
        ws = parse_workspace(self.context.workspace)
        return own_nodes_status(ws, await self.cluster.list(NODE), nodes_wanted(self.context.workspace))
