"""What providers share whose pools are Karpenter's objects in the cluster: NodeClaims, and NodePools that make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from include.planning import Plan
from include.pools.observed import ObservedPool
from kaito.hooks.api import Kind
from kaito.providers.base import PoolProvider, labels_of
from kaito.providers.rights import need_rights


class KarpenterProvider(PoolProvider):
    """A provider whose pools are cluster-scoped objects of the kind `objects`."""

    objects: ClassVar[Kind]

    async def delete_observed(self, pool: ObservedPool, *, unchanged: bool = False) -> bool:
        version = pool.version if unchanged else ""
        return await self.cluster.delete(
            self.objects, pool.name, uid=pool.uid or None, version=version or None
        )

    async def may_own(self) -> bool:
        """Whoever was chosen later: an earlier choice may have left some, and looking costs little."""
        return True

    async def check_availability(self, plans: Sequence[Plan]) -> dict[str, str]:
        """Kubernetes says what our account may do; whether there are machines shows when they are asked for."""
        if self.context.workspace is not None and plans:
            await need_rights(self.cluster, self.objects, labels_of(self.context.workspace))
        return {}
