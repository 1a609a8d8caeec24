"""Steps that run in a pod: started, and back from the triggerer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kaito.hooks.api import NODE
from kaito.operators.workload import WorkloadPodOperator
from kaito.providers.base import PoolKey
from kaito.providers.nodeclaim import NODE_CLAIM

from tests.support.fake_cluster import RUN_ID, FakeCluster

NAME = "workspace-tuning-phi-3"

EVENT = {"status": "success", "name": "p", "namespace": "default", "message": "Container state failed"}


def ended_pod(exit_code: int, message: str = "", reason: str = "Error", **metadata: Any) -> SimpleNamespace:
    terminated = SimpleNamespace(exit_code=exit_code, message=message, reason=reason)
    status = SimpleNamespace(name="tuning", state=SimpleNamespace(terminated=terminated))
    marks = [SimpleNamespace(type=t, status="True") for t in metadata.pop("marks", [])]
    phase = "Failed" if exit_code else "Succeeded"
    whole = {"phase": phase, "reason": metadata.get("pod_reason"), "message": None}
    return SimpleNamespace(
        metadata=SimpleNamespace(deletion_timestamp=metadata.get("deleted")),
        status=SimpleNamespace(container_statuses=[status], conditions=marks, **whole),
    )


def have_machine(cluster: FakeCluster) -> None:
    """The run's machine, ready."""
    ready = [
        {"type": type_, "status": "True"} for type_ in ("Launched", "Registered", "Initialized", "Ready")
    ]
    labels = {**PoolKey(NAME, "default", "tuning").labels, "kaito.sh/run-id": RUN_ID}
    cluster.add(
        NODE_CLAIM,
        {"metadata": {"name": "ws1", "labels": labels}, "status": {"nodeName": "n1", "conditions": ready}},
    )
    status = {"conditions": ready, "allocatable": {"nvidia.com/gpu": "1"}}
    cluster.add(NODE, {"metadata": {"name": "n1"}, "status": status})


@pytest.fixture
def comes_back(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the provider's operator come back with a pod, and with an error or not."""

    def arrange(operator: WorkloadPodOperator, pod: Any, error: Exception | None = None) -> None:
        def reentry(self: Any, context: Any, event: Any) -> None:
            operator.pod = pod
            if error:
                raise error

        monkeypatch.setattr(KubernetesPodOperator, "trigger_reentry", reentry)

    return arrange


def started(
    operator: WorkloadPodOperator, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    monkeypatch.setattr(KubernetesPodOperator, "execute", lambda self, context: None)
    operator.execute(context)
    assert operator.pod_template_dict is not None
    return operator.pod_template_dict
