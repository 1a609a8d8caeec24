"""NodePools as a provider: whose they are, when they are ready, and that nothing foreign is touched."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kaito.hooks.api import EVENT, NODE
from kaito.providers import registry as pools
from kaito.providers.base import (
    ForeignPool,
    GpuPool,
    PoolKey,
    PoolTaken,
)
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.providers.nodepool import NODE_POOL, NodePools

from include.catalog import load_catalog
from include.contracts.purpose import Purpose
from include.manifests import ManifestSettings
from include.planning import plan
from include.pools.nodepool import node_pool_status
from include.pools.status import FailureClass
from include.workspace import parse_workspace
from tests.support.fake_cluster import QUICK_START, FakeCluster
from tests.support.providers import blocking

SETTINGS = ManifestSettings(workload_image="w")
WORKSPACE = {**QUICK_START, "metadata": {**QUICK_START["metadata"], "uid": "u1", "generation": 1}}
PLAN = plan(parse_workspace(WORKSPACE), load_catalog())
KEY = PoolKey(WORKSPACE["metadata"]["name"], "default", Purpose.TUNING)


def wanted(machines: NodePools, run: str = "run-1", **changes: Any) -> GpuPool:
    return machines.request(WORKSPACE, replace(PLAN, **changes), run, SETTINGS)


def claim(cluster: FakeCluster, pool: str, name: str, *, node: str = "", **conditions: Any) -> None:
    listed = [
        {"type": type_, "status": status, "reason": reason, "message": message}
        for type_, (status, reason, message) in conditions.items()
    ]
    owner = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": pool, "uid": f"uid of {pool}"}
    cluster.add(
        NODE_CLAIM,
        {
            "metadata": {
                "name": name,
                "labels": {**KEY.labels, "karpenter.sh/nodepool": pool},
                "ownerReferences": [owner],  # as Karpenter makes them
            },
            "status": {"conditions": listed, "nodeName": node},
        },
    )


def test_create_is_get_or_create_and_replicas_are_only_raised(cluster: FakeCluster) -> None:
    machines = blocking(NodePools, cluster)  # type: ignore[arg-type]
    (name,) = machines.create(wanted(machines, node_count=2))
    assert machines.create(wanted(machines, node_count=2)) == []
    assert machines.create(wanted(machines, node_count=1)) == []
    assert machines.create(wanted(machines, node_count=3)) == [name]
    assert (cluster.find(NODE_POOL, name) or {})["spec"]["replicas"] == 3


def test_a_pool_is_ready_when_all_replicas_have_gpus(cluster: FakeCluster) -> None:
    machines = blocking(NodePools, cluster)  # type: ignore[arg-type]
    (name,) = machines.create(wanted(machines, node_count=2))
    assert machines.observe(KEY).message.endswith("has 0 of 2 NodeClaims")
    ready = ("True", "Ready", "")
    for index in range(2):
        cluster.add(
            NODE,
            {
                "metadata": {"name": f"n{index}"},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "allocatable": {"nvidia.com/gpu": "1"},
                },
            },
        )
        assert not machines.observe(KEY).ready
        claim(cluster, name, f"c{index}", node=f"n{index}", Ready=ready)
    assert machines.observe(KEY).ready
    assert machines.observe(KEY).nodes == ("n0", "n1")


def test_the_clouds_refusal_reaches_the_pool(cluster: FakeCluster) -> None:
    machines = blocking(NodePools, cluster)  # type: ignore[arg-type]
    (name,) = machines.create(wanted(machines, node_count=2))
    claim(cluster, name, "c0", Launched=("Unknown", "LaunchFailed", "SkuNotAvailable here"))
    status = machines.observe(KEY)
    assert (status.failed, status.failure_class) == (True, FailureClass.CAPACITY)


@pytest.mark.parametrize(("age", "failed"), [(5, True), (500, False)])
@pytest.mark.parametrize(("of", "ours"), [("{}", True), ("other", False), ("{}-more", False)])
def test_what_karpenter_said_of_a_claim_that_it_deleted_again(
    cluster: FakeCluster, age: int, failed: bool, of: str, ours: bool
) -> None:
    machines = blocking(NodePools, cluster)  # type: ignore[arg-type]
    (name,) = machines.create(wanted(machines))
    said = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
    event = {
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "NodeClaim", "name": f"{of.format(name)}-x7k2p"},
        "reason": "InsufficientCapacityError",
        "message": "all requested instance types were unavailable during launch",
        "lastTimestamp": said,
    }
    cluster.add(EVENT, event)
    status = machines.observe(KEY)
    assert status.failed is (failed and ours)
    if status.failed:
        assert (status.failure_class, status.message) == (FailureClass.CAPACITY, event["message"])


@pytest.mark.parametrize(("seconds", "ours"), [(-1, False), (0, False), (1, True)])
def test_what_karpenter_said_of_the_pool_before_is_not_said_of_this_one(seconds: int, ours: bool) -> None:
    """The next choice is asked for under the same name, as soon as the refused pool is gone."""
    made = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=5)
    pool = {
        "metadata": {"name": "p", "creationTimestamp": made.isoformat()},
        "spec": {"replicas": 1, "template": {}},
    }
    event = {
        "involvedObject": {"kind": "NodeClaim", "name": "p-x7k2p"},
        "reason": "InsufficientCapacityError",
        "message": "no spot machines",
        "lastTimestamp": (made + timedelta(seconds=seconds)).isoformat(),
    }
    assert node_pool_status([pool], [], [], [event]).failed is ours


def test_foreign_and_other_runs_pools_are_left_alone(cluster: FakeCluster) -> None:
    machines = blocking(NodePools, cluster)  # type: ignore[arg-type]
    (name,) = machines.create(wanted(machines))
    with pytest.raises(PoolTaken, match="run-1 holds"):
        machines.create(wanted(machines, run="run-2"))
    assert machines.delete(KEY, "run-2") == []
    assert machines.delete(KEY, "run-1") == [name]
    cluster.add(NODE_POOL, {"metadata": {"name": name}, "spec": {"replicas": 9}})
    with pytest.raises(ForeignPool, match="not touched"):
        machines.create(wanted(machines))
    machines.delete_and_wait(KEY, "run-1", timeout=1)
    assert (cluster.find(NODE_POOL, name) or {})["spec"]["replicas"] == 9


def test_a_pool_that_is_gone_is_missing(cluster: FakeCluster) -> None:
    assert blocking(NodePools, cluster).observe(KEY).reason == "NodePoolMissing"  # type: ignore[arg-type]


def test_the_setting_chooses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDER", "nodepool")
    assert isinstance(pools.provider(FakeCluster()).provider, NodePools)  # type: ignore[arg-type]
