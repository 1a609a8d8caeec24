"""The truth about a service that no run is working on: does it answer, and if not, what would bring it back.

Conditions follow the live objects. Pods that merely restart flip them; what is missing (the StatefulSet, a Service, a
machine, a node) is a repair, which is a run of its own. It must never claim readiness that no ready replica backs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.contracts.plural import plural
from include.pools import lost_nodes as lost
from include.pools.observed import PoolMachine, group_status, shortfall
from include.pools.status import PoolStatus, node_problem
from include.reconcile import surge
from include.reconcile.case import SERVING, TUNE, TUNING, Case, ended, label
from include.reconcile.decision_builder import DecisionBuilder
from include.reconcile.rollout import rollout_status
from include.workspace.api import names
from include.workspace.status.conditions import ConditionType, Reason
from include.workspace.status.transitions import WARNING, Event

T, R = ConditionType, Reason
#: A node that is not Ready may come back by itself for that long; then its machine is replaced.
NODE_LOST_SECONDS = 60.0
MACHINE_CONDITIONS = (T.NODE_CLAIM_READY, T.NODES_READY, T.RESOURCE_READY)


def answers(case: Case) -> bool:
    """Whether all replicas of the service are ready."""
    return case.stateful_set is not None and rollout_status(case.stateful_set, case.serving_pods).ready


def replicas(case: Case) -> int:
    """How many replicas the service is to have."""
    found = case.stateful_set
    if found is not None:
        wanted = (found.get("spec") or {}).get("replicas")
        return int(1 if wanted is None else wanted)
    return int(case.status.get("targetNodeCount") or 1)


def observe(builder: DecisionBuilder) -> list[str]:
    """Write what the service is; returns what is missing of it, in words (empty: nothing that a run must bring)."""
    case = builder.case
    gone = [*missing(case), *lost_nodes(builder)]
    if sentence := scaled_by_hand(case):
        hint = "it goes back. A Workspace's size is in its spec; apply another Workspace for another server."
        builder.events.append(Event(WARNING, "ScaledByHand", f"{sentence}: {hint}", once=sentence))
    _look_at_machines_again(builder)
    _machines(builder)
    verdict = rollout_status(case.stateful_set, case.serving_pods, case.observed.events)
    lacking = f"{'; '.join(gone)}: it will be brought back" if gone else ""
    message = lacking if lacking and not verdict.ready else verdict.message
    if verdict.ready:
        builder.condition(T.INFERENCE_READY, True, R.INFERENCE_SUCCESS, message)
    else:
        builder.condition(T.INFERENCE_READY, False, R.INFERENCE_PENDING if gone else verdict.reason, message)
    _summary(builder, verdict.ready and not gone, lacking or message)
    return gone


def _summary(builder: DecisionBuilder, ready: bool, message: str) -> None:
    """WorkspaceReady and, for an inference Workspace, WorkspaceSucceeded and the state, as KAITO keeps them."""
    builder.condition(T.WORKSPACE_READY, ready, R.READY if ready else R.PENDING, message)
    if not builder.case.tunes:
        builder.condition(T.WORKSPACE_SUCCEEDED, ready, R.SUCCEEDED if ready else R.PENDING, message)
        builder.note(state="Ready" if ready else "NotReady")
    elif not ready:
        tuned_all_the_same(builder, message)


def tuned_all_the_same(builder: DecisionBuilder, message: str) -> None:
    """A tuning that has succeeded stays so when its service is down, and does not say that this answers."""
    if builder.case.tunes and builder.says(T.WORKSPACE_SUCCEEDED):
        sentence = f"The adapter is published. {message}"
        builder.condition(T.WORKSPACE_SUCCEEDED, True, R.SUCCEEDED, sentence)


def _machines(builder: DecisionBuilder) -> None:
    case = builder.case
    if not case.machine:
        _own_nodes(builder)
    elif case.watches_machines:  # what shows now and then cannot be kept true
        _write_machines(
            builder, group_status(case.live_pools(SERVING), case.observed.pools.kind, machines(case))
        )


def _write_machines(builder: DecisionBuilder, pool: PoolStatus) -> None:
    claims = (pool.ready, R.NODE_CLAIMS_READY if pool.ready else pool.reason)
    nodes = (pool.ready, R.NODES_READY if pool.ready else R.NODE_NOT_READY)
    whole = (pool.ready, R.RESOURCE_SUCCESS if pool.ready else pool.reason)
    for kind, (value, reason) in (
        (T.NODE_CLAIM_READY, claims),
        (T.NODES_READY, nodes),
        (T.RESOURCE_READY, whole),
    ):
        builder.condition(kind, value, reason, pool.message)


def missing(case: Case) -> list[str]:
    """The objects of the service that are not there, as sentences."""
    result = []
    if case.stateful_set is None:
        result.append(f"StatefulSet {case.name} is gone")
    have = {s["metadata"]["name"] for s in case.services}
    for name in (names.service(case.workspace), names.headless_service(case.workspace)):
        if name not in have:
            result.append(f"Service {name} is gone")
    lacking = shortfall(case.live_pools(SERVING), machines(case), case.observed.pools.kind)
    if lacking and case.counts_machines:
        result.append(lacking)
    if message := scaled_by_hand(case):
        result.append(message)
    return result


def machines(case: Case) -> int:
    """How many machines the service needs, whatever size somebody has given it since."""
    return int(case.status["targetNodeCount"]) if scaled_by_hand(case) else replicas(case)


def scaled_by_hand(case: Case) -> str:
    """That somebody has given the StatefulSet another size than there are machines for, "" where nobody has."""
    asked, planned = replicas(case), int(case.status.get("targetNodeCount") or 0)
    if case.stateful_set is None or not case.counts_machines or not planned or asked in (0, planned):
        return ""
    scaled = f"StatefulSet {case.name} was scaled to {plural(asked, 'replica')}"
    return f"{scaled}, and its Workspace has machines for {planned}"


def _look_at_machines_again(builder: DecisionBuilder) -> None:
    """Nothing happens when a machine of a pool has been silent for too long: look when it has."""
    case = builder.case
    members = {node for pool in case.live_pools() if not pool.single for node in pool.nodes}
    for node in case.observed.nodes:
        if node["metadata"]["name"] in members and (left := lost.seconds_left(node, case.now)):
            builder.look_again(left)


def lost_nodes(builder: DecisionBuilder) -> list[str]:
    """Nodes of live machines that are gone, or not Ready for too long; single machines are deleted then."""
    case = builder.case
    nodes = {n["metadata"]["name"]: n for n in case.observed.nodes}
    result = []
    for pool in case.single_machines(SERVING):
        for machine in pool.machines:
            left = _patience(case, machine, nodes.get(machine.node)) if machine.node else None
            if left is None:
                continue
            if left > 0:
                builder.look_again(left)
                continue
            result.append(f"Node {machine.node} is {'lost' if machine.node in nodes else 'gone'}")
            builder.delete_pool(pool, result[-1])
    return result


def _patience(case: Case, machine: PoolMachine, node: Mapping[str, Any] | None) -> float | None:
    """Seconds until a node counts as lost, 0 when it does, None while it is fine."""
    if node is None:
        # A node that has just joined may be missing from a list that is a moment older.
        joined = machine.registered
        return max(0.0, NODE_LOST_SECONDS - (case.now - joined).total_seconds()) if joined else 0.0
    return lost.seconds_left(node, case.now, NODE_LOST_SECONDS)


def mark_not_ready(builder: DecisionBuilder, *, under_way: bool = False) -> None:
    """Where a status must not improve (no run, or a failed one): take back what is no longer so.

    `under_way`: a run works on the Workspace; its own steps say so before they let machines go.
    """
    case = builder.case
    verdict = rollout_status(case.stateful_set, case.serving_pods, case.observed.events)
    planned = int(case.status.get("targetNodeCount") or 0)
    if not verdict.ready and not (under_way and surge.keeps_answering(case.stateful_set, planned)):
        for kind in (T.INFERENCE_READY, T.WORKSPACE_READY):
            if builder.says(kind) and (kind == T.INFERENCE_READY or case.serves):
                builder.condition(
                    kind,
                    False,
                    R.INFERENCE_PENDING if kind == T.INFERENCE_READY else R.PENDING,
                    verdict.message,
                )
        if not case.tunes and builder.says(T.WORKSPACE_SUCCEEDED):
            builder.condition(T.WORKSPACE_SUCCEEDED, False, R.PENDING, verdict.message)
            builder.note(state="NotReady")
    mark_machines_gone(builder, under_way=under_way)
    worker_nodes(builder)


def mark_machines_gone(builder: DecisionBuilder, *, under_way: bool = False) -> None:
    """No machine of ours is left: say so, and whether they were let go or taken away from outside."""
    case = builder.case
    if not case.watches_machines or case.live_pools():
        return
    reason, message = str(R.NODES_RELEASED), "The machines were released"
    if not case.meta.get("deletionTimestamp") and (under_way or case.service_stands):
        kind = case.observed.pools.kind
        going = ", ".join(pool.name for pool in case.pools)
        reason = f"{kind}Missing"
        message = f"{kind} {going} is being deleted" if going else f"The {kind} is gone"
        message += ": nobody released it here, so it was deleted or its cloud has taken the machine"
    for condition in MACHINE_CONDITIONS:
        if builder.says(condition):
            builder.condition(condition, False, reason, message)


def worker_nodes(builder: DecisionBuilder) -> None:
    """The nodes of our machines, Ready or not, as KAITO lists them (kaito-api.md#worker-nodes)."""
    case = builder.case
    if case.watches_machines:
        wanted = sorted({node for pool in case.live_pools() for node in pool.nodes})
        if wanted != list(builder.status.get("workerNodes") or ()):
            builder.note(workerNodes=wanted)


def watch_machines(builder: DecisionBuilder) -> None:
    """While a run works on its machines: whether they still are Ready, and whether they are again."""
    case = builder.case
    works = any(label(pod, names.COMPONENT) == TUNING and not ended(pod) for pod in case.run_pods)
    if not (builder.says(T.NODES_READY) or (works and builder.says(T.JOB_STARTED))):
        return
    if not case.machine:
        _own_nodes(builder)
    elif status := _machines_now(case):
        _write_machines(builder, status)


def machines_stay(builder: DecisionBuilder) -> bool:
    """Whether the machines that the conditions call ready do for the recorded run, and are not exchanged for others.

    Their type, labels and number do not change with a spec. A service keeps its machines; those that tune go over to
    the next run where each is a machine of its own and of the type that is wanted.
    """
    case = builder.case
    if not (builder.says(T.NODES_READY) and builder.says(T.RESOURCE_READY)):
        return False
    if not case.machine:
        there = {str(node["metadata"]["name"]): node for node in case.observed.nodes}
        wanted = [str(name) for name in builder.status.get("workerNodes") or ()]
        return bool(wanted) and not any(_node_problem(name, there.get(name)) for name in wanted)
    tunes = builder.run["dag"] == TUNE
    if not case.watches_machines:  # but a service that answers is on some
        return not tunes and answers(case)
    pools = case.live_pools(TUNING if tunes else SERVING)
    if tunes and not all(pool.single and pool.instance_type == case.machine for pool in pools):
        return False
    return group_status(pools, case.observed.pools.kind, int(case.status.get("targetNodeCount") or 1)).ready


def mark_nodes_not_ready(builder: DecisionBuilder) -> None:
    """While nothing may be done for a Workspace: its machines that are there, and whose nodes are not Ready."""
    case = builder.case
    status = _machines_now(case) if case.machine else None
    if status is None or status.ready:
        return
    for kind in MACHINE_CONDITIONS:
        if builder.says(kind):
            builder.condition(kind, False, status.reason, status.message)


def _machines_now(case: Case) -> PoolStatus | None:
    """How the machines of a Workspace are, those that tune first; None where there are none, or nobody watches them."""
    pools = case.live_pools(TUNING) or case.live_pools(SERVING)
    if not case.watches_machines or not pools:
        return None
    return group_status(pools, case.observed.pools.kind, int(case.status.get("targetNodeCount") or 1))


def _own_nodes(builder: DecisionBuilder) -> None:
    """BYO nodes (bring your own) that the work runs on: each must be there and be Ready."""
    wanted = [str(name) for name in builder.status.get("workerNodes") or ()]
    there = {str(node["metadata"]["name"]): node for node in builder.case.observed.nodes}
    told = [_node_problem(name, there.get(name)) for name in wanted]
    troubled = [problem for problem in told if problem]
    if not wanted:
        return
    reason, message = (
        troubled[0] if troubled else ("", f"{plural(len(wanted), 'GPU node')} ready: {', '.join(wanted)}")
    )
    ready = not troubled
    builder.condition(T.NODES_READY, ready, R.NODES_READY if ready else reason, message)
    builder.condition(T.RESOURCE_READY, ready, R.RESOURCE_SUCCESS if ready else reason, message)


def _node_problem(name: str, node: Mapping[str, Any] | None) -> tuple[str, str] | None:
    return (str(R.NODE_NOT_READY), f"Node {name} is gone") if node is None else node_problem(node)
