"""A cluster in memory and a pod for the node agent's tests. Nothing here starts a process."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.api.cluster import Cluster

Object = dict[str, Any]


@pytest.fixture
def cluster():
    made = Cluster(None)
    yield made
    made.close()


@pytest.fixture
def pod() -> Object:
    """A pod as the agent sees it: stored, bound, with its address."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "ws-0",
            "namespace": "default",
            "uid": "u-1",
            "labels": {"app": "ws", "apps.kubernetes.io/pod-index": "0"},
            "annotations": {"note": "hello"},
        },
        "spec": {
            "nodeName": "node-a",
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "main",
                    "image": "busybox",
                    "resources": {"limits": {"memory": "1Gi", "cpu": "500m"}},
                }
            ],
        },
        "status": {"podIP": "127.64.0.7", "hostIP": "127.0.0.1"},
    }
