"""Whether a rolled-out service answers, and if not, why not: a pure judgement of a StatefulSet and its pods.

What keeps its pods from running is judged by `pod_problems`. The waiting trigger and the reconciler share both, so that
they cannot disagree. It must never talk to the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.contracts.plural import plural
from include.reconcile.pod_problems import begins_late, container_statuses, problems, seen_at


@dataclass(frozen=True)
class RolloutStatus:
    """``reason`` is one of KAITO's InferenceReady reasons; ``failed`` means that waiting cannot help."""

    ready: bool
    reason: str
    message: str
    failed: bool = False


def rollout_status(
    stateful_set: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]] = (),
) -> RolloutStatus:
    """Judge a rollout.

    :param stateful_set: None when it does not exist.
    :param pods: the pods of the service.
    :param events: Kubernetes Events about the StatefulSet and the pods, where somebody has looked.
    """
    if stateful_set is None:
        return RolloutStatus(
            False, "WorkspaceInferenceStatusPending", "The StatefulSet is gone.", failed=True
        )
    spec = stateful_set.get("spec") or {}
    wanted = int(1 if spec.get("replicas") is None else spec["replicas"])
    if wanted == 0:
        sentence = (
            f"StatefulSet {stateful_set['metadata'].get('name')} is scaled to 0 replicas, so nobody answers"
        )
        return RolloutStatus(False, "WorkspaceInferenceStatusPending", sentence)
    status = stateful_set.get("status") or {}
    ready = int(status.get("readyReplicas") or 0)
    current = int(status.get("observedGeneration") or 0) >= int(
        stateful_set["metadata"].get("generation") or 0
    )
    updated = int(status.get("updatedReplicas") or 0)
    standing = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    leaving = len(pods) - len(standing)
    if current and updated >= wanted and ready >= wanted and not (leaving and len(standing) < wanted):
        return RolloutStatus(
            True, "WorkspaceInferenceStatusSuccess", f"{ready} of {plural(wanted, 'replica')} ready"
        )
    found = [problem for pod in pods for problem in problems(pod, events)]
    if found:
        first = next((problem for problem in found if problem.failed), found[0])
        return RolloutStatus(False, first.reason, first.message, first.failed)
    if len(pods) < wanted and (refused := _refused(stateful_set, events)):
        return RolloutStatus(False, "ContainerStartError", f"No pod can be created: {refused}")
    if pods:  # the counters of the StatefulSet are a moment older
        ready = min(ready, sum(map(is_ready, standing)))
    sentence = f"{ready} of {plural(wanted, 'replica')} ready"
    if ready >= wanted:
        late = (
            f"{updated} of them run what was asked for last"
            if current
            else "the change is not rolled out yet"
        )
        return RolloutStatus(False, "WorkspaceInferenceStatusPending", f"{sentence}, but {late}")
    return RolloutStatus(False, "WorkspaceInferenceStatusPending", f"{sentence}: {_stage(pods)}")


def silent_about(
    stateful_set: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the objects of a rollout that do not tell themselves what is wrong with them: their Events do."""
    found = [pod for pod in pods if begins_late(pod)]
    replicas = ((stateful_set or {}).get("spec") or {}).get("replicas")
    lacks_pods = stateful_set is not None and len(pods) < int(1 if replicas is None else replicas)
    return [*found, *([stateful_set] if stateful_set is not None and lacks_pods else ())]


def _refused(stateful_set: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    """The API server's latest refusal of a pod of this StatefulSet, in its own words."""
    uid = stateful_set["metadata"].get("uid")
    told = [
        event
        for event in events
        if event.get("reason") == "FailedCreate" and (event.get("involvedObject") or {}).get("uid") == uid
    ]
    told.sort(key=seen_at)
    return str(told[-1].get("message") or "") if told else ""


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod counts as ready, or its containers do where nobody has said it of the pod."""
    status = pod.get("status") or {}
    told = next((one for one in status.get("conditions") or () if one.get("type") == "Ready"), None)
    if told is not None:
        return bool(told.get("status") == "True")
    containers = list(container_statuses(pod))
    return status.get("phase") == "Running" and all(one.get("ready") for one in containers)


def _stage(pods: Sequence[Mapping[str, Any]]) -> str:
    """Say in a few words what the first pod that is not ready is doing."""
    if not pods:
        return "the pod is being made"
    pod = next((pod for pod in pods if not is_ready(pod)), pods[0])
    name, node = pod["metadata"].get("name"), (pod.get("spec") or {}).get("nodeName")
    if pod["metadata"].get("deletionTimestamp"):
        return f"pod {name} is being deleted"
    for container in container_statuses(pod):
        state = container.get("state") or {}
        if "running" in state and not container.get("ready"):
            return f"{container.get('name')} is running"
        if "waiting" in state:
            return f"{container.get('name')} waits ({(state['waiting'] or {}).get('reason') or 'starting'})"
    phase = (pod.get("status") or {}).get("phase")
    if phase == "Running" and not is_ready(pod):
        return f"pod {name} runs on Node {node}, which does not report on it"
    return f"pod {name} is {'starting on Node ' + str(node) if node else 'waiting for the scheduler'}"
