"""Whether a pool of AKS agent pools is ready, and if not, why not: a pure judgement of Azure's answers and Nodes.

The messages are Azure's own. Whose a pool is follows from its tag and its node labels alone. It must never talk to a
cloud or a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from include.ledger.unregistered import UnregisteredCapacity
from include.pools.lost_nodes import standing
from include.pools.status import (
    FINAL_CLASSES,
    FailureClass,
    PoolStatus,
    Stage,
    classify,
    node_problem,
    node_stage,
)
from include.workspace.api import names

#: What a pool was asked for as, where its machine type alone does not tell it.
OFFER_TAG = "kaito-offer"
AGENT_POOL_LABEL = "kubernetes.azure.com/agentpool"
#: The tag that says that this project made a pool; Azure's tag names take no slash.
MANAGED_BY_TAG, MANAGED_BY = "kaito-managed-by", names.FIELD_MANAGER
#: Azure has given up on a pool: nothing happens to it until somebody asks.
ENDED_STATES = frozenset({"Failed", "Canceled"})
LEAVING_STATES = frozenset({"Deleting"})
SUCCEEDED, CREATING = "Succeeded", "Creating"

AgentPool = Mapping[str, Any]


def properties(pool: AgentPool) -> Mapping[str, Any]:
    return pool.get("properties") or {}


def state(pool: AgentPool) -> str:
    return str(properties(pool).get("provisioningState") or "")


def labels(pool: AgentPool) -> Mapping[str, str]:
    return properties(pool).get("nodeLabels") or {}


def is_ours(pool: AgentPool) -> bool:
    """Whether this project made the pool: its tag says so, and its nodes belong to a Workspace."""
    tagged = (properties(pool).get("tags") or {}).get(MANAGED_BY_TAG) == MANAGED_BY
    return tagged and names.WORKSPACE in labels(pool)


def belongs(pool: AgentPool, wanted: Mapping[str, str]) -> bool:
    """Whether the pool is ours and its nodes have all these labels."""
    return is_ours(pool) and all(labels(pool).get(key) == value for key, value in wanted.items())


def offer(pool: AgentPool) -> str:
    """What the cloud was asked for: the pool's own mark, else its machine type."""
    tags = properties(pool).get("tags") or {}
    return str(tags.get(OFFER_TAG) or properties(pool).get("vmSize") or "")


def machines(pool: AgentPool) -> int:
    """How many machines the pool is meant to have."""
    return int(properties(pool).get("count") or 0)


def nodes_of(pools: Iterable[AgentPool], nodes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The Nodes of the machines of these pools."""
    wanted = {str(pool["name"]) for pool in pools}
    return [n for n in nodes if (n["metadata"].get("labels") or {}).get(AGENT_POOL_LABEL) in wanted]


def failure(pool: AgentPool) -> tuple[str, str]:
    """Azure's code and sentence for a pool that failed."""
    told = (properties(pool).get("status") or {}).get("provisioningError") or {}
    details = [detail for detail in told.get("details") or [] if detail.get("message")]
    message = " ".join([told.get("message") or "", *(detail["message"] for detail in details)]).strip()
    return str(told.get("code") or state(pool)), message or f"Azure says {state(pool)} and no reason"


def shortfall(
    pools: Iterable[AgentPool], nodes: Iterable[Mapping[str, Any]], wanted: int, now: datetime
) -> str:
    """What is missing of the machines that a live service needs, as a sentence without its full stop; "" if nothing.

    A pool that Azure is working on has the machines that it is to get; any other one those that have joined and report,
    since Azure does not replace by itself a machine that died or was evicted.
    """
    joined = standing(nodes, now)
    settled = ENDED_STATES | {SUCCEEDED}
    have = sum(
        min(machines(pool), len(nodes_of([pool], joined))) if state(pool) in settled else machines(pool)
        for pool in pools
        if state(pool) not in LEAVING_STATES
    )
    return f"{wanted - have} of {wanted} machine(s) of its agent pools are gone" if have < wanted else ""


def unregistered_capacity(pools: Iterable[AgentPool]) -> list[UnregisteredCapacity]:
    """What a ledger has to know of pools whose machines may not all have joined.

    A pool that succeeded has no such machines, and one for which Azure had none of them neither.
    """
    found = []
    for pool in pools:
        asked = labels(pool).get(names.ASKED_AT) or ""
        if state(pool) == SUCCEEDED or not asked.isdecimal():
            continue
        gave_up = state(pool) in ENDED_STATES
        if gave_up and classify(*failure(pool)) != FailureClass.TRANSIENT:
            continue
        found.append(
            UnregisteredCapacity(
                pool=str(pool["name"]),
                run=labels(pool).get(names.RUN_ID, ""),
                purpose=labels(pool).get(names.POOL, ""),
                kind=str(properties(pool).get("vmSize") or ""),
                since=datetime.fromtimestamp(int(asked), UTC),
                count=machines(pool) if gave_up or state(pool) == CREATING else 0,
            )
        )
    return found


def _pool_problem(
    pool: AgentPool, nodes: Sequence[Mapping[str, Any]]
) -> tuple[FailureClass, str, str] | None:
    """Return (class, reason, message) of the first thing that is not done, None when the pool is ready."""
    name, wanted = pool["name"], machines(pool)
    if state(pool) in ENDED_STATES:
        code, message = failure(pool)
        return classify(code, message), code, f"AgentPool {name}: {message}"
    members = nodes_of([pool], nodes)
    if len(members) < wanted:
        told = (
            f"AgentPool {name} is {state(pool)}: {len(members)} of {wanted} node(s) have joined the cluster"
        )
        return FailureClass.TRANSIENT, "NodeNotReady", told
    for node in members:
        if problem := node_problem(node):
            return classify(*problem), *problem
    return None


def agent_pool_status(pools: Sequence[AgentPool], nodes: Iterable[Mapping[str, Any]]) -> PoolStatus:
    """Judge a Workspace's agent pools of one purpose and the cluster's Nodes."""
    live = [pool for pool in pools if state(pool) not in LEAVING_STATES]
    if not live:
        told = "There is no agent pool: it was deleted."
        return PoolStatus((), False, "AgentPoolMissing", told, FailureClass.CONFIG)
    joined = nodes_of(live, nodes)
    members = tuple(sorted(node["metadata"]["name"] for node in joined))
    problems = [(pool, problem) for pool in live if (problem := _pool_problem(pool, joined))]
    if not problems:
        told = f"{len(members)} GPU node(s) ready: {', '.join(members)}"
        return PoolStatus(members, True, "NodesReady", told, offer=offer(live[0]))
    # The worst cause speaks: a quota error is the news, not the sibling that still boots.
    ranked = sorted(problems, key=lambda p: (state(p[0]) not in ENDED_STATES, p[1][0] not in FINAL_CLASSES))
    pool, (failed, reason, message) = ranked[0]
    stages = (
        node_stage(problem[1]) if len(nodes_of([own], joined)) >= machines(own) else Stage.LAUNCH
        for own, problem in problems
    )
    slowest = min(stages, key=list(Stage).index)
    ended = state(pool) in ENDED_STATES
    return PoolStatus(members, False, reason, message, failed, ended=ended, stage=slowest, offer=offer(pool))
