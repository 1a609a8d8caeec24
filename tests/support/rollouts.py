"""A service's StatefulSet and pods, as the cluster shows them."""

from __future__ import annotations

from typing import Any

NAME = "workspace-tuning-phi-3"


def stateful_set(ready: int = 0, observed: int = 1, updated: int = 1) -> dict[str, Any]:
    status = {"readyReplicas": ready, "observedGeneration": observed, "updatedReplicas": updated}
    return {"metadata": {"name": NAME, "generation": 1}, "spec": {"replicas": 1}, "status": status}


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": f"{NAME}-0"}, "status": status}
