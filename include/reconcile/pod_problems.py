"""What keeps a pod from running, in the words of whoever says it: a pure judgement of the pod as the cluster shows it.

The scheduler, the kubelet and the container runtime each have a field for their sentence; the causes and their order
are KAITO's (containers first, then evictions, then scheduling). What comes between scheduling and the first container,
volumes and the pod's network, has no field: it is read from Kubernetes Events, where somebody has looked. A rollout's
pods and a run's pods are judged alike. It must never talk to the cluster.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from include.contracts.exit_codes import USER_EXIT_CODES
from include.reconcile.steady_words import MISSING, steady

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

#: What the scheduler says where no further Node helps: the volume, not the Nodes, is what does not fit.
VOLUME_WORDS = (
    "unbound immediate PersistentVolumeClaims",
    "didn't match PersistentVolume's node affinity",
    "had volume node affinity conflict",
    "persistentvolumeclaim",
)
#: What the scheduler says of Nodes that may come back by themselves.
PASSING_WORDS = (
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.cloudprovider.kubernetes.io/uninitialized",
)
#: How long the scheduler's verdict stands before it is taken for its last word, in seconds, where machines are held.
UNSCHEDULABLE_SECONDS = 45.0
#: The same where a Node may come back, and it is Kubernetes that decides how long that may take.
PASSING_SECONDS = 300.0
#: Reasons of Kubernetes Events for which a pod that has its Node cannot begin, and may yet: the kubelet tries again.
BEGIN_REASONS = frozenset(
    {
        "FailedMount",
        "FailedAttachVolume",
        "FailedMapVolume",
        "FailedCreatePodSandBox",
        "FailedPrepareDynamicResources",
        "NetworkNotReady",
    }
)
#: Reasons of Kubernetes Events after which that is over.
BEGUN_REASONS = frozenset({"Pulling", "Pulled", "Created", "Started"})
#: How long these may last, in seconds, where no object is missing that somebody has to make: Kubernetes itself takes
#: 6 minutes until it detaches a volume from a Node that is lost.
BEGIN_SECONDS = 600.0
#: What the kubelet says a while after it has named the cause.
_TIMED_OUT = ("timed out waiting for the condition", "context deadline exceeded")
#: Reasons of Kubernetes Events by which the cluster itself, and no person, takes a pod away.
TAKEN_REASONS = frozenset(
    {"Evicted", "Preempted", "TaintManagerEviction", "NodeNotReady", "NodeShutdown", "TerminationByKubelet"}
)
HINTS = {
    "unbound immediate PersistentVolumeClaims": "set [kaito] storage_class, or make a StorageClass the default one",
    "PersistentVolume's node affinity": "use a StorageClass whose volumes every Node of the pool can mount",
    "volume node affinity conflict": "use a StorageClass whose volumes every Node of the pool can mount",
    "Insufficient nvidia.com/gpu": "other pods hold the GPUs of these Nodes",
}


@dataclass(frozen=True)
class PodProblem:
    """``reason`` is one of KAITO's InferenceReady reasons; ``failed`` means that waiting cannot help."""

    reason: str
    message: str
    failed: bool = False


def container_statuses(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Give the status of each container, those that come first before the others."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or []
    yield from status.get("containerStatuses") or []


def problems(pod: Mapping[str, Any], events: Iterable[Mapping[str, Any]] = ()) -> list[PodProblem]:
    """Return everything that keeps a pod from running or running on, the most telling first.

    :param events: Kubernetes Events, of other objects too, where somebody has looked (see :func:`begins_late`).
    """
    name = str(pod["metadata"]["name"])
    found = [problem for one in container_statuses(pod) if (problem := _container_problem(name, one))]
    return [*found, *_pod_problems(name, pod.get("status") or {}), *_begin_problems(pod, events)]


def begins_late(pod: Mapping[str, Any]) -> bool:
    """Whether a pod has its Node and none of its containers has begun: then its Events say why, if anything does."""
    status = pod.get("status") or {}
    if not (pod.get("spec") or {}).get("nodeName") or pod["metadata"].get("deletionTimestamp"):
        return False
    if status.get("phase") not in (None, "", "Pending") or any(
        "waiting" not in (one.get("state") or {"waiting": {}}) for one in container_statuses(pod)
    ):
        return False
    told = {one.get("type"): one.get("status") for one in status.get("conditions") or ()}
    return told.get("PodReadyToStartContainers") != "True"


def taken_away(events: Iterable[Mapping[str, Any]], uid: str) -> str:
    """Return what the cluster says of taking a pod away, "" where it says nothing: then a person has deleted it.

    :param events: Kubernetes Events about objects of the pod's name.
    :param uid: the pod's, since a later pod may bear its name.
    """
    told = [
        event
        for event in events
        if event.get("reason") in TAKEN_REASONS and (event.get("involvedObject") or {}).get("uid") == uid
    ]
    told.sort(key=seen_at)
    return f"{told[-1]['reason']}: {told[-1].get('message') or ''}".strip() if told else ""


def stuck_seconds(problem: PodProblem, *, holds_machines: bool) -> float | None:
    """Return how long a cause may last before waiting for it to pass is over; None: as long as the step may start.

    :param holds_machines: whether machines are paid for meanwhile. A pod for any CPU node may wait for one more Node.
    """
    if problem.failed:
        return 0.0
    if problem.reason == "ContainerStartError" and _is_slow(problem.message):
        return BEGIN_SECONDS
    if problem.reason != "Unschedulable":
        return STUCK_AFTER.get(problem.reason)
    if any(words in problem.message for words in PASSING_WORDS):
        return PASSING_SECONDS if holds_machines else None
    if holds_machines or any(words in problem.message for words in VOLUME_WORDS):
        return UNSCHEDULABLE_SECONDS
    return None


@dataclass(frozen=True)
class Start:
    """How far a pod is from running, as a sentence; ``hopeless`` means that waiting for it is over."""

    message: str
    running: bool = False
    hopeless: bool = False


class StartWatch:
    """Looks at one pod again and again until it runs, and remembers since when the same cause keeps it from that.

    :param holds_machines: see :func:`stuck_seconds`.
    """

    def __init__(self, holds_machines: bool) -> None:
        self.holds_machines = holds_machines
        self._cause: tuple[str, float] | None = None

    def look(self, pod: Mapping[str, Any], now: float, events: Iterable[Mapping[str, Any]] = ()) -> Start:
        """Judge the pod as it is at this moment.

        :param now: seconds of a clock that never goes back.
        :param events: see :func:`problems`.
        """
        phase, name = (pod.get("status") or {}).get("phase"), pod["metadata"]["name"]
        if phase in ("Running", "Succeeded", "Failed"):
            return Start(f"Pod {name} runs on Node {(pod.get('spec') or {}).get('nodeName')}", running=True)
        found = problems(pod, events)
        if not found:
            self._cause = None
            return Start(f"Pod {name}: {stage(pod)}")
        problem = found[0]
        if self._cause is None or self._cause[0] != problem.reason:
            self._cause = (problem.reason, now)
        patience = stuck_seconds(problem, holds_machines=self.holds_machines)
        stuck = patience is not None and now - self._cause[1] >= patience
        return Start(problem.message, hopeless=stuck)


def stage(pod: Mapping[str, Any]) -> str:
    """Say in a few words what a pod that is not running yet is doing."""
    for container in container_statuses(pod):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting is not None:
            doing = "its image is pulled" if not waiting.get("reason") else str(waiting["reason"])
            return f"container {container.get('name')}: {doing}"
    return (
        f"assigned to Node {pod['spec']['nodeName']}"
        if (pod.get("spec") or {}).get("nodeName")
        else "waiting for the scheduler"
    )


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


def _container_problem(pod: str, container: Mapping[str, Any]) -> PodProblem | None:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason, said = waiting.get("reason") or "", steady(waiting.get("message") or "")
    ended = _terminated(container)
    where = f"Pod {pod}, container {container.get('name')}"
    restarts = int(container.get("restartCount") or 0)
    lasting = restarts >= CRASHES_ALLOWED
    if ended.get("reason") == "OOMKilled":
        return PodProblem("ContainerOOMKilled", f"{where}: killed for lack of memory", lasting)
    if reason in PULL_REASONS:
        return PodProblem("ImagePullError", f"{where}: {reason}: {said}", failed=reason in HOPELESS_REASONS)
    if reason in START_REASONS:
        return PodProblem("ContainerStartError", f"{where}: {reason}: {said}")
    if reason == "CrashLoopBackOff" or ended:
        cause = _sentence(ended.get("message") or said or ended.get("reason") or "")
        message = f"{where}: ended with exit code {ended.get('exitCode')}: {cause}"
        hopeless = ended.get("exitCode") in USER_EXIT_CODES
        return PodProblem("ContainerCrashLoopBackOff", message, lasting or hopeless)
    return None


def _pressure(message: str) -> str:
    """KAITO's reason for an eviction: the resource that the kubelet says the Node was low on."""
    said = message.lower()
    if any(word in said for word in ("ephemeral-storage", "disk", "inodes")):
        return "NodeDiskPressure"
    return "NodeMemoryPressure" if "memory" in said else "PodEvicted"


def _pod_problems(name: str, status: Mapping[str, Any]) -> Iterator[PodProblem]:
    if status.get("reason") == "Evicted":
        message = str(status.get("message") or "")
        yield PodProblem(_pressure(message), f"Pod {name} was evicted: {message}")
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            message = str(condition.get("message") or "")
            hint = next((hint for words, hint in HINTS.items() if words in message), "")
            yield PodProblem(
                "Unschedulable", f"Pod {name} waits for a node: {message}{f' ({hint})' if hint else ''}"
            )


def _begin_problems(pod: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> Iterator[PodProblem]:
    """What the kubelet, or who attaches volumes, says of a pod that has its Node and cannot begin."""
    uid = pod["metadata"].get("uid")
    mine = [one for one in events if (one.get("involvedObject") or {}).get("uid") == uid]
    if not mine or not begins_late(pod):
        return
    begun = max((seen_at(one) for one in mine if one.get("reason") in BEGUN_REASONS), default="")
    attached = max(
        (seen_at(one) for one in mine if one.get("reason") == "SuccessfulAttachVolume"), default=""
    )
    told = [
        one
        for one in mine
        if one.get("reason") in BEGIN_REASONS
        and seen_at(one) > (max(begun, attached) if one.get("reason") == "FailedAttachVolume" else begun)
    ]
    if told:
        # The one that names the cause goes before a later one that says it took too long.
        last = max(told, key=lambda one: (not _timed_out(one), seen_at(one)))
        where = f"Pod {pod['metadata']['name']} on Node {pod['spec']['nodeName']}"
        said = f"{last['reason']}: {steady(str(last.get('message') or ''))}".strip()
        yield PodProblem("ContainerStartError", f"{where}: {said}")


def seen_at(event: Mapping[str, Any]) -> str:
    """When an Event was seen last, as a text that sorts; "0" where it does not tell."""
    series = event.get("series") or {}
    told = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(told or "0")


def _timed_out(event: Mapping[str, Any]) -> bool:
    return any(words in str(event.get("message") or "") for words in _TIMED_OUT)


def _is_slow(message: str) -> bool:
    """Whether a pod cannot begin for a cause that Kubernetes may need minutes to get over."""
    return not MISSING.search(message) and any(f": {reason}: " in message for reason in BEGIN_REASONS)
