"""NodeClaims and their Nodes, as the cluster shows them."""

from __future__ import annotations

from typing import Any

from kaito.providers.base import PoolKey

from include.contracts.purpose import Purpose

KEY = PoolKey("w", "default", Purpose.TUNING)

TYPE = "Standard_NC6s_v3"


def claim(name: str, run: str = "run-1", node: str = "", **conditions: Any) -> dict[str, Any]:
    """A NodeClaim; a condition is its status, or (status, reason, message)."""
    listed = []
    for type_, value in conditions.items():
        status, reason, message = value if isinstance(value, tuple) else (value, type_, "")
        listed.append({"type": type_, "status": status, "reason": reason, "message": message})
    return {
        "metadata": {"name": name, "labels": {**KEY.labels, "kaito.sh/run-id": run}},
        "spec": {
            "requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [TYPE]}]
        },
        "status": {"conditions": listed, "nodeName": node},
    }


def ready_claim(name: str, node: str) -> dict[str, Any]:
    return claim(name, node=node, Launched="True", Registered="True", Initialized="True", Ready="True")


def node(name: str, gpus: int = 1, ready: str = "True") -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "message": "kubelet says no"}],
            "allocatable": {"nvidia.com/gpu": str(gpus)},
        },
    }


GPU_LABELS = {
    "app": "tuning-phi-3",
    "nvidia.com/gpu.product": "Tesla-V100-PCIE-16GB",
    "nvidia.com/gpu.count": "1",
    "nvidia.com/gpu.memory": "16384",
}


def gpu_node(name: str, **labels: str) -> dict[str, Any]:
    made = node(name)
    made["metadata"]["labels"] = {**GPU_LABELS, **labels}
    return made
