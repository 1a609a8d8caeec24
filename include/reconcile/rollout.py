"""Whether a rolled-out service answers, and if not, why not: a pure judgement of a StatefulSet and its pods.

The causes and their order are KAITO's (containers first, then evictions, then scheduling); the messages are the
kubelet's and the scheduler's own. The waiting trigger and the reconciler share it, so that they cannot disagree. It
must never talk to the cluster.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.contracts.exit_codes import USER_EXIT_CODES

PULL_REASONS = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
START_REASONS = frozenset(
    {
        "CreateContainerConfigError",
        "PreCreateHookError",
        "CreateContainerError",
        "PreStartHookError",
        "RunContainerError",
        "PostStartHookError",
    }
)
#: No later attempt of the kubelet can change these.
HOPELESS_REASONS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
#: Container starts after which a crash is taken as lasting.
CRASHES_ALLOWED = 3
#: Causes that may pass (a registry comes back, a Secret is made), and the seconds after which they no longer do.
STUCK_AFTER = {"ImagePullError": 300.0, "ContainerStartError": 120.0}


@dataclass(frozen=True)
class RolloutStatus:
    """``reason`` is one of KAITO's InferenceReady reasons; ``failed`` means that waiting cannot help."""

    ready: bool
    reason: str
    message: str
    failed: bool = False


def _containers(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or []
    yield from status.get("containerStatuses") or []


def _terminated(container: Mapping[str, Any]) -> Mapping[str, Any]:
    for field in ("state", "lastState"):
        ended: Mapping[str, Any] | None = (container.get(field) or {}).get("terminated")
        if ended and ended.get("exitCode"):
            return ended
    return {}


def _sentence(message: str) -> str:
    """Return the error of a termination message that one of our workloads wrote, else the message itself."""
    try:
        left = json.loads(message)
    except ValueError:
        return message
    return str(left["error"]) if isinstance(left, dict) and left.get("error") else message


def _container_problem(pod: str, container: Mapping[str, Any]) -> RolloutStatus | None:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason, said = waiting.get("reason") or "", waiting.get("message") or ""
    ended = _terminated(container)
    where = f"Pod {pod}, container {container.get('name')}"
    restarts = int(container.get("restartCount") or 0)
    lasting = restarts >= CRASHES_ALLOWED
    if ended.get("reason") == "OOMKilled":
        return RolloutStatus(False, "ContainerOOMKilled", f"{where}: killed for lack of memory", lasting)
    if reason in PULL_REASONS:
        return RolloutStatus(
            False, "ImagePullError", f"{where}: {reason}: {said}", failed=reason in HOPELESS_REASONS
        )
    if reason in START_REASONS:
        return RolloutStatus(False, "ContainerStartError", f"{where}: {reason}: {said}")
    if reason == "CrashLoopBackOff" or ended:
        cause = _sentence(ended.get("message") or said or ended.get("reason") or "")
        message = f"{where}: ended with exit code {ended.get('exitCode')}: {cause}"
        hopeless = ended.get("exitCode") in USER_EXIT_CODES
        return RolloutStatus(False, "ContainerCrashLoopBackOff", message, lasting or hopeless)
    return None


def _pod_problem(pod: Mapping[str, Any]) -> RolloutStatus | None:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    if status.get("reason") == "Evicted":
        return RolloutStatus(False, "PodEvicted", f"Pod {name} was evicted: {status.get('message') or ''}")
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return RolloutStatus(
                False, "Unschedulable", f"Pod {name} waits for a node: {condition.get('message') or ''}"
            )
    return None


def rollout_status(
    stateful_set: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]]
) -> RolloutStatus:
    """Judge a rollout.

    :param stateful_set: None when it does not exist.
    :param pods: the pods of the service.
    """
    if stateful_set is None:
        return RolloutStatus(
            False, "WorkspaceInferenceStatusPending", "The StatefulSet is gone.", failed=True
        )
    spec = stateful_set.get("spec") or {}
    wanted = int(1 if spec.get("replicas") is None else spec["replicas"])
    if wanted == 0:
        told = (
            f"StatefulSet {stateful_set['metadata'].get('name')} is scaled to 0 replicas, so nobody answers"
        )
        return RolloutStatus(False, "WorkspaceInferenceStatusPending", told)
    status = stateful_set.get("status") or {}
    ready = int(status.get("readyReplicas") or 0)
    current = int(status.get("observedGeneration") or 0) >= int(
        stateful_set["metadata"].get("generation") or 0
    )
    updated = int(status.get("updatedReplicas") or 0) >= wanted
    if current and updated and ready >= wanted:
        return RolloutStatus(True, "WorkspaceInferenceStatusSuccess", f"{ready} of {wanted} replica(s) ready")
    problems = [
        p for pod in pods for c in _containers(pod) if (p := _container_problem(pod["metadata"]["name"], c))
    ]
    problems += [problem for pod in pods if (problem := _pod_problem(pod))]
    if problems:
        return next((p for p in problems if p.failed), problems[0])
    return RolloutStatus(
        False, "WorkspaceInferenceStatusPending", f"{ready} of {wanted} replica(s) ready: {_stage(pods)}"
    )


def _stage(pods: Iterable[Mapping[str, Any]]) -> str:
    """Say in a few words what the first pod that is not ready is doing."""
    for pod in pods:
        for container in _containers(pod):
            state = container.get("state") or {}
            if "running" in state and not container.get("ready"):
                return f"{container.get('name')} is running"
            if "waiting" in state:
                return (
                    f"{container.get('name')} waits ({(state['waiting'] or {}).get('reason') or 'starting'})"
                )
    return "the pod is being made" if not list(pods) else "starting"
