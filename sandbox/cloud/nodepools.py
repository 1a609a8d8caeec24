"""The NodePool controller: karpenter's static pools, as many NodeClaims as `spec.replicas`.

A pool without replicas gets none: the sandbox does not provision for pending pods. A deleted pool waits for its claims.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sandbox.api.cluster import Cluster
from sandbox.cloud.crds import GROUP, NODECLAIMS, NODEPOOLS
from sandbox.cloud.nodeclaims import FINALIZER
from sandbox.controllers.ownership import (
    condition_of,
    controlled_by,
    is_terminating,
    owner_reference,
    set_condition,
)
from sandbox.controllers.reconciler import Controller, Feeds, Key, Object, read, remove, write_status

POOL_LABEL = "karpenter.sh/nodepool"
CHECKS = ("ValidationSucceeded", "NodeClassReady", "Ready")


def build_claim(pool: Object) -> Object:
    """A claim of the pool's template; the API server gives it its name."""
    name, template = pool["metadata"]["name"], pool["spec"]["template"]
    shown = template.get("metadata") or {}
    types = [r for r in template["spec"].get("requirements") or [] if r["key"] != POOL_LABEL]
    own = {"key": POOL_LABEL, "operator": "In", "values": [name]}
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "NodeClaim",
        "metadata": {
            "generateName": f"{name}-",
            "labels": {**(shown.get("labels") or {}), POOL_LABEL: name},
            "annotations": dict(shown.get("annotations") or {}),
            "ownerReferences": [owner_reference(pool, f"{GROUP}/v1", "NodePool")],
        },
        "spec": {**template["spec"], "requirements": [*types, own]},
    }


class NodePoolController(Controller):
    resource: ClassVar[str] = NODEPOOLS

    def __init__(self, cluster: Cluster, feeds: Feeds) -> None:
        super().__init__(cluster, feeds)
        self.follow_owned(NODECLAIMS, "NodePool")

    async def reconcile(self, key: Key) -> float | None:
        pool = await read(self.cluster, NODEPOOLS, key)
        if pool is None:
            return None
        listed, _ = await self.cluster.list(NODECLAIMS)
        claims = controlled_by(pool, listed)
        if is_terminating(pool):
            await self._terminate(pool, claims)
            return None
        if FINALIZER not in (pool["metadata"].get("finalizers") or []):
            pool["metadata"]["finalizers"] = [*(pool["metadata"].get("finalizers") or []), FINALIZER]
            pool = await self.cluster.update(NODEPOOLS, pool)
        live = [claim for claim in claims if not is_terminating(claim)]
        await self._scale(pool, live)
        await self._note(pool, live)
        return None

    async def _scale(self, pool: Object, live: list[Object]) -> None:
        wanted: Any = pool["spec"].get("replicas")
        if wanted is None:
            return
        for _ in range(wanted - len(live)):
            await self.cluster.create(NODECLAIMS, build_claim(pool))
        # Unready machines go before ready ones.
        spare = sorted(live, key=lambda c: (condition_of(c, "Ready") or {}).get("status") == "True")
        for claim in spare[: max(0, len(live) - wanted)]:
            await remove(self.cluster, NODECLAIMS, claim)

    async def _note(self, pool: Object, live: list[Object]) -> None:
        status = dict(pool.get("status") or {})
        conditions = list(status.get("conditions") or [])
        for type_ in CHECKS:
            conditions = set_condition(conditions, type_, "True", type_, "")
        status["conditions"] = [{"message": "", **condition} for condition in conditions]
        status["nodes"] = sum(bool((claim.get("status") or {}).get("nodeName")) for claim in live)
        await write_status(self.cluster, NODEPOOLS, pool, status)

    async def _terminate(self, pool: Object, claims: list[Object]) -> None:
        for claim in claims:
            if not is_terminating(claim):
                await remove(self.cluster, NODECLAIMS, claim)
        if not claims and FINALIZER in (pool["metadata"].get("finalizers") or []):
            pool["metadata"]["finalizers"] = [f for f in pool["metadata"]["finalizers"] if f != FINALIZER]
            await self.cluster.update(NODEPOOLS, pool)
