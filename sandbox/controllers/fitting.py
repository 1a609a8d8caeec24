"""Whether a pod fits a node, and how well: the scheduler's filters and scores as pure functions.

The reasons are worded as kube-scheduler words them, because people and tools search for those words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from sandbox.controllers.ownership import expressions_hold
from sandbox.quantities import parse_quantity, pod_requests

Object = dict[str, Any]

AFFINITY_REASON = "node(s) didn't match Pod's node affinity/selector"
TAINT_REASON = "node(s) had untolerated taint(s)"
BLOCKING = ("NoSchedule", "NoExecute")


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    operator, key = toleration.get("operator") or "Equal", toleration.get("key")
    if operator == "Exists":
        return not key or key == taint["key"]
    return key == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or "")


def untolerated_taint(pod: Object, node: Object) -> Object | None:
    """The first taint of the node that keeps this pod away."""
    tolerations = pod["spec"].get("tolerations") or []
    for taint in node["spec"].get("taints") or []:
        if taint["effect"] in BLOCKING and not any(tolerates(t, taint) for t in tolerations):
            return dict(taint)
    return None


def term_matches(term: Mapping[str, Any], node: Object) -> bool:
    """One node selector term: all its expressions on labels and fields hold; an empty term selects nothing."""
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    labels = node["metadata"].get("labels") or {}
    return expressions_hold(expressions, labels) and expressions_hold(
        fields, {"metadata.name": node["metadata"]["name"]}
    )


def _node_affinity(pod: Object) -> Mapping[str, Any]:
    return (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}


def affinity_matches(pod: Object, node: Object) -> bool:
    """nodeSelector and the required node affinity (terms are alternatives)."""
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
        return False
    required = _node_affinity(pod).get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(term_matches(term, node) for term in required.get("nodeSelectorTerms") or [])


def _free(node: Object, used: Mapping[str, Decimal], resource: str) -> Decimal:
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    return parse_quantity(allocatable.get(resource, 0)) - used.get(resource, Decimal(0))


def obstacles(pod: Object, node: Object, on_node: list[Object]) -> list[str]:
    """Why this pod cannot go to this node; empty when it can. `on_node` are the unfinished pods there."""
    tolerations = pod["spec"].get("tolerations") or []
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if node["spec"].get("unschedulable") and not any(tolerates(t, cordon) for t in tolerations):
        return ["node(s) were unschedulable"]
    if untolerated_taint(pod, node) is not None:
        return [TAINT_REASON]
    if not affinity_matches(pod, node):
        return [AFFINITY_REASON]
    used: dict[str, Decimal] = {}
    for other in on_node:
        for name, value in pod_requests(other["spec"]).items():
            used[name] = used.get(name, Decimal(0)) + value
    reasons = []
    if _free(node, {"pods": Decimal(len(on_node))}, "pods") < 1:
        reasons.append("Too many pods")
    for name, value in pod_requests(pod["spec"]).items():
        if value > 0 and value > _free(node, used, name):
            reasons.append(f"Insufficient {name}")
    return reasons


def is_crowded(pod: Object, node: Object, reasons: Iterable[str]) -> bool:
    """Whether only other pods keep this one away: the node is large enough and lets it in."""
    large = all(value <= _free(node, {}, name) for name, value in pod_requests(pod["spec"]).items())
    return large and all(reason.startswith(("Insufficient ", "Too many pods")) for reason in reasons)


def score(pod: Object, node: Object, on_node: list[Object]) -> float:
    """Higher is better: preferred affinity first, then untouched GPUs kept free, then the emptier node."""
    preferred = _node_affinity(pod).get("preferredDuringSchedulingIgnoredDuringExecution") or []
    wanted = sum(p.get("weight", 1) for p in preferred if term_matches(p["preference"], node))
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    wastes_gpu = "nvidia.com/gpu" in allocatable and "nvidia.com/gpu" not in pod_requests(pod["spec"])
    return 100.0 * float(wanted) - (10.0 if wastes_gpu else 0.0) - 0.01 * len(on_node)


def explain(reasons: Iterable[Iterable[str]], nodes: int, crowded: int = 0) -> str:
    """`0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint(s). no new claims ...`

    :param reasons: per node, why the pod cannot go there.
    :param crowded: how many of the nodes would do if other pods were not there.
    """
    counts = Counter(reason for per_node in reasons for reason in per_node)
    listed = ", ".join(sorted(f"{n} {reason}" for reason, n in counts.items()))
    return f"{_available(nodes)}:{f' {listed}.' if listed else ''} {_preemption(nodes, crowded)}"


def explain_problem(problem: str, nodes: int) -> str:
    """The same for what keeps a pod from every node, whatever the nodes are like."""
    return f"{_available(nodes)}: {problem}. {_preemption(nodes, 0)}"


def _available(nodes: int) -> str:
    return f"0/{nodes} nodes are available"


def _preemption(nodes: int, crowded: int) -> str:
    """What the plug-ins say that look for something to take away from others; the sandbox takes nothing away."""
    parts = [f"{crowded} No preemption victims found for incoming pod"] if crowded else []
    if nodes > crowded:
        parts.append(f"{nodes - crowded} Preemption is not helpful for scheduling")
    return f"no new claims to deallocate, preemption: {_available(nodes)}: {', '.join(sorted(parts))}."
