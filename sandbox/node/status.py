"""A pod's status from what its containers do, computed as the kubelet computes it. Pure functions of values."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from sandbox.controllers.ownership import set_condition
from sandbox.quantities import qos_class

Object = dict[str, Any]


@dataclass
class ContainerRecord:
    """What is known of one container; `state` and `last_state` have the API's shape."""

    name: str
    image: str
    state: Object = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last_state: Object = field(default_factory=dict)
    ready: bool = False
    started: bool = False
    restart_count: int = 0
    image_id: str = ""
    container_id: str = ""

    @property
    def terminated(self) -> Object | None:
        return self.state.get("terminated")

    @property
    def succeeded(self) -> bool:
        return self.terminated is not None and self.terminated.get("exitCode") == 0

    @classmethod
    def of(cls, container: Object, status: Object | None) -> ContainerRecord:
        """As the pod's stored status has it, so that restart counts survive a restart of the sandbox."""
        record = cls(container["name"], container["image"])
        if status:
            record.state = deepcopy(status.get("state") or record.state)
            record.last_state = deepcopy(status.get("lastState") or {})
            record.restart_count = int(status.get("restartCount") or 0)
            record.image_id = status.get("imageID") or ""
            record.container_id = status.get("containerID") or ""
        return record

    def to_status(self) -> Object:
        status: Object = {
            "name": self.name,
            "state": deepcopy(self.state),
            "lastState": deepcopy(self.last_state),
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restart_count,
            "image": self.image,
            "imageID": self.image_id,
        }
        if self.container_id:
            status["containerID"] = self.container_id
        return status


@dataclass
class PodRecord:
    """What the agent knows of one pod."""

    containers: list[ContainerRecord]
    init_containers: list[ContainerRecord]
    start_time: str
    pod_ip: str = ""
    host_ip: str = ""
    phase: str = ""  # set only where the pod as a whole is ended (deadline, deletion)
    reason: str = ""
    message: str = ""


def initialized(record: PodRecord) -> bool:
    return all(container.succeeded for container in record.init_containers)


def compute_phase(spec: Object, record: PodRecord) -> str:
    """Pending, Running, Succeeded or Failed (kubelet getPhase)."""
    if record.phase:
        return record.phase
    policy = spec.get("restartPolicy", "Always")
    for container in record.init_containers:
        if container.terminated and not container.succeeded and policy == "Never":
            return "Failed"
    if not initialized(record):
        return "Pending"
    if any("waiting" in c.state and not c.last_state for c in record.containers):
        return "Pending"
    if any("running" in c.state for c in record.containers):
        return "Running"
    if policy == "Always" or any("waiting" in c.state for c in record.containers):
        return "Running"
    if all(c.succeeded for c in record.containers):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def _not_done(containers: list[ContainerRecord], done: str) -> str:
    return f"containers with {done} status: [{' '.join(c.name for c in containers)}]"


def build_conditions(old: list[Object], record: PodRecord, phase: str) -> list[Object]:
    """The kubelet's conditions, keeping those that others set."""
    conditions = set_condition(list(old), "PodReadyToStartContainers", "True" if record.pod_ip else "False")
    if phase == "Succeeded":
        conditions = set_condition(conditions, "Initialized", "True", "PodCompleted")
    elif initialized(record):
        conditions = set_condition(conditions, "Initialized", "True")
    else:
        waiting = [c for c in record.init_containers if not c.succeeded]
        message = _not_done(waiting, "incomplete")
        conditions = set_condition(conditions, "Initialized", "False", "ContainersNotInitialized", message)
    unready = [c for c in record.containers if not c.ready]
    if phase in ("Succeeded", "Failed"):
        state = ("False", "PodCompleted" if phase == "Succeeded" else "PodFailed", "")
    elif unready:
        state = ("False", "ContainersNotReady", _not_done(unready, "unready"))
    else:
        state = ("True", "", "")
    for type_ in ("Ready", "ContainersReady"):
        conditions = set_condition(conditions, type_, *state)
    return set_condition(conditions, "PodScheduled", "True")


def build_status(pod: Object, record: PodRecord) -> Object:
    """The whole status; fields of others (nominatedNodeName and the like) are kept."""
    old = pod.get("status") or {}
    phase = compute_phase(pod["spec"], record)
    if old.get("phase") in ("Succeeded", "Failed"):
        phase = old["phase"]  # a pod that has ended stays ended
    conditions = build_conditions(old.get("conditions") or [], record, phase)
    generation = pod["metadata"].get("generation")
    if generation:
        conditions = [{**c, "observedGeneration": generation} for c in conditions]
    status: Object = {
        **{k: v for k, v in old.items() if k not in ("reason", "message")},
        "phase": phase,
        "conditions": conditions,
        "hostIP": record.host_ip,
        "hostIPs": [{"ip": record.host_ip}],
        "startTime": record.start_time,
        "containerStatuses": sorted((c.to_status() for c in record.containers), key=lambda s: str(s["name"])),
        "qosClass": old.get("qosClass") or qos_class(pod["spec"]),
    }
    if generation:
        status["observedGeneration"] = generation
    if record.pod_ip:
        status |= {"podIP": record.pod_ip, "podIPs": [{"ip": record.pod_ip}]}
    if record.init_containers:
        status["initContainerStatuses"] = [c.to_status() for c in record.init_containers]
    for name, value in (
        ("reason", record.reason or old.get("reason")),
        ("message", record.message or old.get("message")),
    ):
        if value:
            status[name] = value
    return status
