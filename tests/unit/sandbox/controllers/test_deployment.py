"""Rollout arithmetic, and the Deployment and ReplicaSet controllers together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.controllers.deployment import DEPLOYMENTS, DeploymentController, next_sizes, share
from sandbox.controllers.replicaset import REPLICASETS, ReplicaSetController


@pytest.mark.parametrize(
    ("value", "total", "up", "pods"),
    [("25%", 2, True, 1), ("25%", 2, False, 0), ("50%", 4, True, 2), (1, 10, True, 1), (None, 10, False, 0)],
)
def test_share(value, total, up, pods):
    assert share(value, total, up=up) == pods


def replica_set(name, size, available, revision):
    return {
        "metadata": {"name": name, "annotations": {"deployment.kubernetes.io/revision": str(revision)}},
        "spec": {"replicas": size},
        "status": {"replicas": size, "availableReplicas": available},
    }


@given(
    wanted=st.integers(0, 8),
    surge=st.integers(0, 3),
    unavailable=st.integers(0, 3),
    new=st.tuples(st.integers(0, 10), st.integers(0, 10)),
    old=st.tuples(st.integers(0, 10), st.integers(0, 10)),
)
def test_a_step_never_breaks_its_bounds(wanted, surge, unavailable, new, old):
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    deployment = {"spec": {"replicas": wanted, "strategy": {"rollingUpdate": rolling}}}
    sets = [replica_set("new", new[0], min(new), 2), replica_set("old", old[0], min(old), 1)]
    sizes = next_sizes(deployment, sets[0], sets[1:])
    before = new[0] + old[0]
    assert all(size >= 0 for size in sizes.values())
    assert sum(sizes.values()) <= max(before, wanted + surge)
    assert sizes["old"] <= old[0]
    available = min(new) + min(old)
    least = wanted - (unavailable or (1 if surge == 0 else 0))
    lost = max(0, min(old) - sizes["old"]) + max(0, min(new) - sizes["new"])
    assert new[0] > wanted or available - lost >= min(available, least)


def test_recreate_waits_until_the_old_pods_are_gone():
    deployment = {"spec": {"replicas": 2, "strategy": {"type": "Recreate"}}}
    new = replica_set("new", 0, 0, 2)
    assert next_sizes(deployment, new, [replica_set("old", 2, 2, 1)]) == {"new": 0, "old": 0}
    assert next_sizes(deployment, new, [replica_set("old", 0, 0, 1)]) == {"new": 2, "old": 0}


@pytest.fixture
def run(cluster, feeds):
    deployments, replica_sets = DeploymentController(cluster, feeds), ReplicaSetController(cluster, feeds)

    async def once():
        await deployments.reconcile(("default", "web"))
        sets, _ = await cluster.list(REPLICASETS, "default")
        for found in sets:
            await replica_sets.reconcile(("default", found["metadata"]["name"]))

    return once


def deployment(replicas=2):
    labels = {"app": "web"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "main", "image": "busybox"}]},
    }
    return {
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


async def make_ready(cluster, set_pod):
    pods, _ = await cluster.list("pods", "default")
    for pod in pods:
        await set_pod(pod["metadata"]["name"])


async def test_a_rollout_ends_with_only_the_new_template(cluster, run, set_pod):
    await cluster.create(DEPLOYMENTS, deployment(), "default")
    for _ in range(3):
        await run()
        await make_ready(cluster, set_pod)
    patch = {"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}}
    await cluster.patch(DEPLOYMENTS, "web", patch, "default")
    for _ in range(8):
        await run()
        await make_ready(cluster, set_pod)
    pods, _ = await cluster.list("pods", "default")
    assert [pod["metadata"]["annotations"].get("version") for pod in pods] == ["2", "2"]
    found = await cluster.get(DEPLOYMENTS, "web", "default")
    assert found["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
    assert found["status"]["updatedReplicas"] == found["status"]["availableReplicas"] == 2
    states = {c["type"]: (c["status"], c["reason"]) for c in found["status"]["conditions"]}
    assert states == {
        "Available": ("True", "MinimumReplicasAvailable"),
        "Progressing": ("True", "NewReplicaSetAvailable"),
    }


async def test_scaling_down_removes_pods_that_are_not_ready_first(cluster, run, set_pod):
    await cluster.create(DEPLOYMENTS, deployment(), "default")
    for _ in range(2):
        await run()
    pods, _ = await cluster.list("pods", "default")
    names = [pod["metadata"]["name"] for pod in pods]
    await set_pod(names[0])
    await cluster.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 1}}, "default")
    await run()
    pods, _ = await cluster.list("pods", "default")
    assert [pod["metadata"]["name"] for pod in pods] == names[:1]


async def test_the_status_says_when_nothing_is_available(cluster, run):
    await cluster.create(DEPLOYMENTS, deployment(), "default")
    await run()
    await run()
    status = (await cluster.get(DEPLOYMENTS, "web", "default"))["status"]
    assert status["unavailableReplicas"] == 2
    assert {c["type"]: c["status"] for c in status["conditions"]}["Available"] == "False"
