"""Whether BYO nodes (bring your own) can take a Workspace's work, and if not, why not: a pure judgement.

Which nodes they are, the labelSelector says; what GPUs they must offer, their own labels say. Machines that were made
for some Workspace are never taken for BYO nodes. It must never talk to a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from include.catalog.node_labels import NodeLabelsIncomplete, machine_from_labels
from include.contracts.plural import plural
from include.pools.status import (
    GPU_RESOURCE,
    FailureClass,
    PoolStatus,
    Stage,
    node_problem,
    node_stage,
)
from include.workspace.api import names
from include.workspace.api.models import Workspace
from include.workspace.api.selector import node_labels

Node = Mapping[str, Any]


def own_nodes(ws: Workspace, nodes: Iterable[Node]) -> list[Node]:
    """The nodes that match the Workspace's labelSelector and were not made for any Workspace."""
    wanted = node_labels(ws).items()
    return [node for node in unclaimed(nodes) if wanted <= _labels(node).items()]


def unclaimed(nodes: Iterable[Node]) -> list[Node]:
    """The nodes that were not made for any Workspace."""
    return [node for node in nodes if names.WORKSPACE not in _labels(node)]


def own_nodes_status(ws: Workspace, nodes: Iterable[Node], wanted: int = 1) -> PoolStatus:
    """Judge the nodes that match: `wanted` of them must be Ready, schedulable, and offer all their GPUs."""
    found = own_nodes(ws, nodes)
    problems = [(node, problem) for node in found if (problem := _problem(node))]
    troubled = {node["metadata"]["name"] for node, _ in problems}
    good = tuple(sorted(name for node in found if (name := node["metadata"]["name"]) not in troubled))
    if len(good) >= wanted:
        return PoolStatus(
            good, True, "NodesReady", f"{plural(len(good), 'GPU node')} ready: {', '.join(good)}"
        )
    if problems:
        _, (reason, message) = problems[0]
        sentence = f"{message} ({len(good)} of {wanted} machines ready)"
        return PoolStatus(good, False, reason, sentence, FailureClass.TRANSIENT, stage=node_stage(reason))
    shown = ",".join(f"{key}={value}" for key, value in sorted(node_labels(ws).items())) or "any label"
    sentence = (
        f"{len(found)} of {plural(wanted, 'node')} with {shown} in the cluster: bring more of your own (BYO)"
    )
    return PoolStatus(good, False, "NodeNotReady", sentence, FailureClass.TRANSIENT, stage=Stage.LAUNCH)


def _problem(node: Node) -> tuple[str, str] | None:
    name = node["metadata"]["name"]
    if (node.get("spec") or {}).get("unschedulable"):
        return "NodeNotReady", f"Node {name} is cordoned: kubectl uncordon {name}"
    if problem := node_problem(node):
        return problem
    try:
        gpus = machine_from_labels(_labels(node)).gpus
    except NodeLabelsIncomplete as error:
        return "NodePluginsNotReady", f"Node {name}: {error}"
    offered = int(((node.get("status") or {}).get("allocatable") or {}).get(GPU_RESOURCE, "0"))
    if offered < gpus:
        return "NodePluginsNotReady", f"Node {name} has {gpus} GPUs by its labels and offers {offered}"
    return None


def _labels(node: Node) -> Mapping[str, str]:
    return node["metadata"].get("labels") or {}
