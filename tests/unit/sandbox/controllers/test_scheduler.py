"""The scheduler against a cluster in memory."""

from __future__ import annotations

import asyncio
import time

import pytest

from sandbox.controllers.ownership import condition_of
from sandbox.controllers.scheduler import Scheduler

KEY = ("default", "pod")
GPU = {"nvidia.com/gpu": "1"}


@pytest.fixture
def scheduler(cluster, feeds):
    return Scheduler(cluster, feeds)


async def test_a_pod_that_fits_is_bound(cluster, scheduler, add_node, make_node, make_pod):
    await add_node(make_node("node-a"))
    await cluster.create("pods", make_pod())
    await scheduler.reconcile(KEY)
    assert (await cluster.get("pods", "pod"))["spec"]["nodeName"] == "node-a"
    events, _ = await cluster.list("events")
    assert [(e["reason"], e["message"]) for e in events] == [
        ("Scheduled", "Successfully assigned default/pod to node-a")
    ]


async def test_a_pod_that_fits_nowhere_says_why_once(cluster, scheduler, add_node, make_node, make_pod):
    await add_node(make_node("cpu"))
    await add_node(
        make_node("gpu", taints=[{"key": "sku", "value": "gpu", "effect": "NoSchedule"}], nvidia_com__gpu="1")
    )
    await cluster.create("pods", make_pod(requests=GPU))
    await scheduler.reconcile(KEY)
    await scheduler.reconcile(KEY)
    pod = await cluster.get("pods", "pod")
    scheduled = condition_of(pod, "PodScheduled")
    assert "nodeName" not in pod["spec"]
    assert (scheduled["status"], scheduled["reason"]) == ("False", "Unschedulable")
    assert scheduled["message"] == (
        "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint {sku: gpu}."
    )
    events, _ = await cluster.list("events")
    assert [(e["reason"], e["count"]) for e in events] == [("FailedScheduling", 1)]


async def test_one_gpu_goes_to_one_pod(cluster, scheduler, add_node, make_node, make_pod):
    await add_node(make_node("gpu", nvidia_com__gpu="1"))
    for name in ("first", "second"):
        await cluster.create("pods", make_pod(name, requests=GPU))
        await scheduler.reconcile(("default", name))
    nodes = [(await cluster.get("pods", name))["spec"].get("nodeName") for name in ("first", "second")]
    assert nodes == ["gpu", None]


async def test_a_claim_that_is_missing_or_unbound_holds_the_pod(
    cluster, scheduler, add_node, make_node, make_pod
):
    await add_node(make_node("node"))
    volume = {"name": "work", "persistentVolumeClaim": {"claimName": "work"}}
    await cluster.create("pods", make_pod(volumes=[volume]))
    await scheduler.reconcile(KEY)
    message = condition_of(await cluster.get("pods", "pod"), "PodScheduled")["message"]
    assert message == '0/1 nodes are available: persistentvolumeclaim "work" not found.'
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await cluster.create("persistentvolumeclaims", {"metadata": {"name": "work"}, "spec": spec}, "default")
    await scheduler.reconcile(KEY)
    message = condition_of(await cluster.get("pods", "pod"), "PodScheduled")["message"]
    assert message == "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."


async def test_other_schedulers_and_gated_pods_are_left_alone(
    cluster, scheduler, add_node, make_node, make_pod
):
    await add_node(make_node("node"))
    await cluster.create("pods", make_pod("theirs", schedulerName="other"))
    await cluster.create("pods", make_pod("gated", schedulingGates=[{"name": "wait"}]))
    for name in ("theirs", "gated"):
        await scheduler.reconcile(("default", name))
        assert "nodeName" not in (await cluster.get("pods", name))["spec"]


async def test_a_new_node_wakes_pending_pods_within_a_moment(
    cluster, feeds, scheduler, add_node, make_node, make_pod
):
    tasks = [asyncio.create_task(feeds.run()), asyncio.create_task(scheduler.run())]
    try:
        await asyncio.sleep(0.02)
        await cluster.create("pods", make_pod())
        await asyncio.sleep(0.05)
        assert "nodeName" not in (await cluster.get("pods", "pod"))["spec"]
        await add_node(make_node("late"))
        deadline = time.monotonic() + 2
        while "nodeName" not in (await cluster.get("pods", "pod"))["spec"]:
            assert time.monotonic() < deadline, "the pod was never bound"
            await asyncio.sleep(0.005)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
