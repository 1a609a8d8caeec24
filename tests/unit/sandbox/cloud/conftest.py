"""A cluster in memory with karpenter's kinds, and a cloud whose machines boot in a few hundredths of a second."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.api.cluster import Cluster
from sandbox.cloud import crds
from sandbox.cloud.ledger import Ledger
from sandbox.cloud.nodeclaims import NodeClaimController
from sandbox.controllers.reconciler import Feeds
from sandbox.faults import Faults
from sandbox.layout import Timings

Object = dict[str, Any]
TIMINGS = Timings(boot=0.2, gpu=0.05, lost_node_removal=0.0)


@pytest.fixture
async def cluster():
    made = Cluster(None)
    await crds.install(made)
    yield made
    made.close()


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl")


@pytest.fixture
def controller(cluster, faults, ledger) -> NodeClaimController:
    return NodeClaimController(cluster, Feeds(cluster), faults, ledger, TIMINGS)


@pytest.fixture
def make_claim(cluster):
    async def make(name: str = "wsabc", instance_type: str = "Standard_NC6s_v3") -> Object:
        requirement = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [instance_type]}
        return await cluster.create(
            crds.NODECLAIMS,
            {
                "metadata": {
                    "name": name,
                    "labels": {"kaito.sh/workspace": "ws", "karpenter.sh/nodepool": "kaito"},
                },
                "spec": {
                    "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
                    "requirements": [requirement],
                    "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
                    "resources": {"requests": {"storage": "100Gi"}},
                },
            },
        )

    return make
