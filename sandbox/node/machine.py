"""What a simulated node looks like: its Node object, made here so that the agent and the cloud make the same."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

from sandbox.controllers.ownership import now_text
from sandbox.controllers.volume_binding import DISK_ZONE
from sandbox.node.addresses import HOST_ADDRESS

Object = dict[str, Any]

CPU_NODE = "sandbox-cpu-0"
#: On the Node: the agent runs its pods. The value is the instance that a cloud would know.
MACHINE = "sandbox.local/machine"
#: On the Node: the machine has vanished; the agent kills what ran there and stays silent.
LOST = "sandbox.local/lost"
KUBELET_VERSION = "v1.36.0"
_PRESSURES = {
    "MemoryPressure": ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    "DiskPressure": ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    "PIDPressure": ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
}


def is_managed(node: Object) -> bool:
    return MACHINE in (node["metadata"].get("annotations") or {})


def is_lost(node: Object) -> bool:
    return (node["metadata"].get("annotations") or {}).get(LOST) == "true"


def node_conditions(ready: bool) -> list[Object]:
    now = now_text()
    pressures = [
        {"type": type_, "status": "False", "reason": reason, "message": message}
        for type_, (reason, message) in _PRESSURES.items()
    ]
    state = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "kubelet is posting ready status",
    }
    if not ready:
        message = "container runtime network not ready: the machine is still booting"
        state |= {"status": "False", "reason": "KubeletNotReady", "message": message}
    return [{**c, "lastHeartbeatTime": now, "lastTransitionTime": now} for c in [*pressures, state]]


def node_status(name: str, capacity: Mapping[str, str], *, ready: bool) -> Object:
    return {
        "capacity": dict(capacity),
        "allocatable": dict(capacity),
        "conditions": node_conditions(ready),
        "addresses": [{"type": "InternalIP", "address": HOST_ADDRESS}, {"type": "Hostname", "address": name}],
        "nodeInfo": {
            "architecture": "amd64" if platform.machine() == "x86_64" else platform.machine(),
            "bootID": "",
            "containerRuntimeVersion": "bubblewrap://0.8",
            "kernelVersion": platform.release(),
            "kubeProxyVersion": "",
            "kubeletVersion": KUBELET_VERSION,
            "machineID": "",
            "operatingSystem": "linux",
            "osImage": "KAITO on Airflow sandbox",
            "systemUUID": "",
        },
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }


def build_node(
    name: str,
    machine: str,
    labels: Mapping[str, str],
    *,
    taints: list[Object] | None = None,
    provider_id: str = "",
) -> Object:
    """A Node without status. `machine` is the instance behind it."""
    arch = "amd64" if platform.machine() == "x86_64" else "arm64"
    spec: Object = {"providerID": provider_id or f"sandbox:///{machine}"}
    if taints:
        spec["taints"] = taints
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {MACHINE: machine},
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": arch,
                DISK_ZONE: "",
                **labels,
            },
        },
        "spec": spec,
    }


def cpu_capacity() -> dict[str, str]:
    """The permanent CPU node: never less than 8 cores and 32 GiB, since requests are only counted on one machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return {
        "cpu": str(max(8, os.cpu_count() or 1)),
        "memory": f"{max(32 * 1024, memory)}Mi",
        "ephemeral-storage": "200Gi",
        "pods": "110",
    }
