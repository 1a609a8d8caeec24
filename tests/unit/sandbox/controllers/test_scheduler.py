"""The scheduler against a cluster in memory."""

from __future__ import annotations

import asyncio
import time

import pytest

from sandbox.controllers.ownership import condition_of
from sandbox.controllers.scheduler import Scheduler
from sandbox.controllers.volume_binding import CLAIMS, CLASSES, DISK_ZONE, SELECTED_NODE
from sandbox.controllers.volumes import VolumeBinder, storage_classes

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
        "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint(s). "
        "no new claims to deallocate, preemption: 0/2 nodes are available: "
        "2 Preemption is not helpful for scheduling."
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
    tail = (
        "no new claims to deallocate, preemption: 0/1 nodes are available: "
        "1 Preemption is not helpful for scheduling."
    )
    assert message == f'0/1 nodes are available: persistentvolumeclaim "work" not found. {tail}'
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await cluster.create("persistentvolumeclaims", {"metadata": {"name": "work"}, "spec": spec}, "default")
    await scheduler.reconcile(KEY)
    message = condition_of(await cluster.get("pods", "pod"), "PodScheduled")["message"]
    assert message == f"0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. {tail}"


WORK = [{"name": "work", "persistentVolumeClaim": {"claimName": "work"}}]


@pytest.fixture
async def binder(cluster, feeds, tmp_path):
    for class_ in storage_classes():
        await cluster.create(CLASSES, class_)
    return VolumeBinder(cluster, feeds, tmp_path)


async def claim_disk(cluster, class_="sandbox-disk"):
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": class_,
    }
    await cluster.create(CLAIMS, {"metadata": {"name": "work"}, "spec": spec}, "default")


async def test_a_disk_is_made_where_its_first_pod_goes_and_holds_the_next_one_there(
    cluster, scheduler, binder, add_node, make_node, make_pod
):
    """The fault of a zonal disk: bound beside the CPU node, it cannot follow to a GPU node of another zone."""
    await add_node(make_node("cpu", labels={DISK_ZONE: ""}))
    await add_node(make_node("gpu", labels={DISK_ZONE: "sandbox-2"}, nvidia_com__gpu="1"))
    await claim_disk(cluster)
    await cluster.create("pods", make_pod(volumes=WORK))
    await scheduler.reconcile(KEY)
    claim = await cluster.get(CLAIMS, "work")
    assert claim["metadata"]["annotations"][SELECTED_NODE] == "cpu"
    assert "nodeName" not in (await cluster.get("pods", "pod"))["spec"], "its volume comes first"
    await binder.reconcile(("default", "work"))
    await scheduler.reconcile(KEY)
    assert (await cluster.get("pods", "pod"))["spec"]["nodeName"] == "cpu"
    await cluster.create("pods", make_pod("tuning", requests=GPU, volumes=WORK))
    await scheduler.reconcile(("default", "tuning"))
    condition = condition_of(await cluster.get("pods", "tuning"), "PodScheduled")
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    assert condition["message"] == (
        "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) didn't match PersistentVolume's node "
        "affinity. no new claims to deallocate, preemption: 0/2 nodes are available: "
        "2 Preemption is not helpful for scheduling."
    )
    events, _ = await cluster.list("events", field_selector="reason=FailedScheduling")
    assert [event["message"] for event in events] == [condition["message"]]


async def test_a_claim_that_waits_for_a_pod_holds_nobody_up(
    cluster, scheduler, binder, add_node, make_node, make_pod
):
    await add_node(make_node("node", labels={DISK_ZONE: ""}))
    for class_, words in (("sandbox-disk-immediate", "unbound immediate"), ("sandbox-disk", "")):
        await claim_disk(cluster, class_)
        await cluster.create("pods", make_pod(volumes=WORK))
        await scheduler.reconcile(KEY)
        condition = condition_of(await cluster.get("pods", "pod"), "PodScheduled") or {}
        assert (words in condition.get("message", "")) if words else not condition
        await cluster.delete("pods", "pod", "default", {"gracePeriodSeconds": 0})
        await cluster.delete(CLAIMS, "work", "default")
        await asyncio.sleep(0.02)


async def test_a_class_for_other_zones_finds_no_volume(cluster, scheduler, add_node, make_node, make_pod):
    await add_node(make_node("node", labels={DISK_ZONE: "sandbox-1"}))
    disks = storage_classes()[0]
    topology = [{"matchLabelExpressions": [{"key": DISK_ZONE, "values": ["sandbox-3"]}]}]
    await cluster.create(CLASSES, {**disks, "allowedTopologies": topology})
    await claim_disk(cluster)
    await cluster.create("pods", make_pod(volumes=WORK))
    await scheduler.reconcile(KEY)
    message = condition_of(await cluster.get("pods", "pod"), "PodScheduled")["message"]
    assert "1 node(s) didn't find available persistent volumes to bind." in message


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
        deadline = time.monotonic() + 30
        while "nodeName" not in (await cluster.get("pods", "pod"))["spec"]:
            assert time.monotonic() < deadline, "the pod was never bound"
            await asyncio.sleep(0.005)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
