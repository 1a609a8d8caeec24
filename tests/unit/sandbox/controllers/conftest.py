"""A cluster in memory and objects for the controllers' tests. No controller loops here: tests call `reconcile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sandbox.api.cluster import Cluster
from sandbox.controllers.ownership import set_condition
from sandbox.controllers.reconciler import Feeds

Object = dict[str, Any]


@pytest.fixture
def cluster():
    made = Cluster(None)
    yield made
    made.close()


@pytest.fixture
def feeds(cluster: Cluster) -> Feeds:
    return Feeds(cluster)


@pytest.fixture
def make_node() -> Callable[..., Object]:
    def make(
        name: str, *, labels: Object | None = None, taints: list[Object] | None = None, **allocatable: str
    ) -> Object:
        resources = {
            "cpu": "4",
            "memory": "8Gi",
            "pods": "10",
            **{k.replace("__", "/").replace("_", "."): v for k, v in allocatable.items()},
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels or {}},
            "spec": {"taints": taints} if taints else {},
            "status": {"allocatable": resources, "capacity": resources},
        }

    return make


@pytest.fixture
def make_pod() -> Callable[..., Object]:
    def make(name: str = "pod", *, requests: Object | None = None, **spec: Any) -> Object:
        container: Object = {"name": "main", "image": "busybox"}
        if requests:
            container["resources"] = {
                "requests": requests,
                "limits": {k: v for k, v in requests.items() if "/" in k},
            }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"containers": [container], **spec},
        }

    return make


@pytest.fixture
def add_node(cluster: Cluster):
    async def add(node: Object) -> Object:
        created = await cluster.create("nodes", node)
        created["status"] = node["status"]
        return await cluster.update("nodes", created, subresource="status")

    return add


@pytest.fixture
def set_pod(cluster: Cluster):
    """Do what the node agent would: give a pod an address and a state."""

    async def set_(
        name: str, *, ready: bool = True, phase: str = "Running", ip: str = "127.64.0.1", **status: Any
    ) -> Object:
        pod = await cluster.get("pods", name, "default")
        conditions = set_condition(
            (pod.get("status") or {}).get("conditions") or [], "Ready", "True" if ready else "False"
        )
        pod["status"] = {
            **(pod.get("status") or {}),
            "phase": phase,
            "podIP": ip,
            "conditions": conditions,
            **status,
        }
        return await cluster.update("pods", pod, subresource="status")

    return set_
