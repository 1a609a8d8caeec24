"""Pools of GPU machines as pure tests tell them: by the objects that the providers of the product keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from include.janitor import Inventory
from include.ledger.machines import HeldMachine, machines
from include.pools import aks, nodeclaim, nodepool
from include.pools.observed import ObservedPool, WorkspacePools, machines_of
from include.workspace.api.names import ProviderName

Obj = Mapping[str, Any]
#: What each makes, and what shows only where it is asked for.
KINDS = {
    ProviderName.NODE_CLAIM: nodeclaim.KIND,
    ProviderName.NODE_POOL: nodepool.KIND,
    ProviderName.AKS: aks.KIND,
    ProviderName.BYO: "Node",
}


def pools_of(
    node_claims: Sequence[Obj] = (),
    node_pools: Sequence[Obj] | None = (),
    agent_pools: Sequence[Obj] | None = (),
    nodes: Sequence[Obj] = (),
    now: datetime | None = None,
) -> list[ObservedPool]:
    by_name = {str(node["metadata"]["name"]): node for node in nodes}
    found = [nodepool.observed(pool, node_claims, nodes, now=now) for pool in node_pools or ()]
    found += [nodeclaim.observed(claim, by_name) for claim in node_claims]
    return [*found, *(aks.observed(pool, nodes, now) for pool in agent_pools or ())]


def workspace_pools(
    provider: str = ProviderName.NODE_CLAIM,
    *,
    asked: bool = False,
    nodes: Sequence[Obj] = (),
    now: datetime | None = None,
    **objects: Any,
) -> WorkspacePools:
    """What was seen of a Workspace's machines. `asked`: what does not show at every look was looked at."""
    pools = pools_of(nodes=nodes, now=now, **objects)
    machines = machines_of(pools, nodes)
    if not provider:
        return WorkspacePools(pools=tuple(pools), machines=machines)
    watched = provider == ProviderName.NODE_CLAIM
    remote = provider == ProviderName.AKS
    told = tuple(pool.unregistered for pool in pools if pool.unregistered)
    return WorkspacePools(
        provider=provider,
        kind=KINDS[ProviderName(provider)],
        watched=watched,
        complete=asked or watched or provider == ProviderName.BYO,
        makes_machines=provider != ProviderName.BYO,
        pools=tuple(pools),
        machines=machines,
        unregistered=told if asked or not remote else None,
    )


@dataclass(frozen=True, slots=True)
class RawInventory(Inventory):
    """What a janitor sees, told by the objects that make machines and by Nodes."""

    node_claims: Sequence[Obj] = ()
    node_pools: Sequence[Obj] = ()
    agent_pools: Sequence[Obj] = ()
    nodes: Sequence[Obj] = ()

    def __post_init__(self) -> None:
        pools = pools_of(self.node_claims, self.node_pools, self.agent_pools, self.nodes)
        object.__setattr__(self, "pools", pools)


def held_machines(claims: Sequence[Obj], nodes: Sequence[Obj], pods: Sequence[Obj]) -> list[HeldMachine]:
    """What a ledger sees of these NodeClaims, Nodes and pods."""
    return machines(machines_of(pools_of(claims, nodes=nodes), nodes), pods)
