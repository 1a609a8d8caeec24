"""What of a service's machines is missing where Karpenter makes them: a pure judgement of NodePools.

Karpenter replaces machines of a pool by itself, so only the pool and its replicas count here. It must never talk to a
cluster.
"""

from __future__ import annotations

from collections.abc import Iterable

from include.reconcile.case import deleting
from include.reconcile.decision import Object


def replicas(pool: Object) -> int:
    """How many machines a NodePool is to have."""
    return int((pool.get("spec") or {}).get("replicas") or 0)


def shortfall(pools: Iterable[Object], wanted: int) -> str:
    """What is missing of the machines that a live service needs, as a sentence without its full stop; "" if nothing."""
    live = [pool for pool in pools if not deleting(pool)]
    if not live:
        return "its NodePool is gone" if wanted else ""
    have = sum(replicas(pool) for pool in live)
    return f"its NodePool asks for {have} of {wanted} machine(s)" if have < wanted else ""
