"""Silent nodes become Unknown; pods of nodes that are gone fail and are removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sandbox.controllers.node_lifecycle import NodeLifecycle
from sandbox.controllers.ownership import condition_of

KEY = ("", "node")


def ready(seconds_ago: float, status: str = "True"):
    at = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": "Ready",
        "status": status,
        "reason": "x",
        "lastHeartbeatTime": at,
        "lastTransitionTime": at,
    }


@pytest.fixture
def lifecycle(cluster, feeds):
    return NodeLifecycle(cluster, feeds, grace=10.0)


@pytest.fixture
def node(add_node, make_node):
    async def make(seconds_ago: float, status: str = "True"):
        wanted = make_node("node")
        wanted["status"]["conditions"] = [ready(seconds_ago, status)]
        return await add_node(wanted)

    return make


async def test_a_node_that_reports_is_left_alone(cluster, lifecycle, node):
    await node(1)
    again = await lifecycle.reconcile(KEY)
    found = await cluster.get("nodes", "node")
    assert condition_of(found, "Ready")["status"] == "True"
    assert not found["spec"].get("taints")
    assert 8 < again < 11


async def test_a_silent_node_is_unknown_tainted_and_its_pods_are_not_ready(
    cluster, lifecycle, node, make_pod, set_pod
):
    await node(60)
    await cluster.create("pods", make_pod(nodeName="node"))
    await set_pod("pod")
    await lifecycle.reconcile(KEY)
    found = await cluster.get("nodes", "node")
    assert condition_of(found, "Ready")["status"] == "Unknown"
    assert condition_of(found, "Ready")["reason"] == "NodeStatusUnknown"
    assert {(t["key"], t["effect"]) for t in found["spec"]["taints"]} == {
        ("node.kubernetes.io/unreachable", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
    }
    assert condition_of(await cluster.get("pods", "pod"), "Ready")["status"] == "False"


async def test_a_booting_node_is_tainted_not_ready_until_it_is(cluster, lifecycle, node):
    stored = await node(1, "False")
    await lifecycle.reconcile(KEY)
    assert [t["key"] for t in (await cluster.get("nodes", "node"))["spec"]["taints"]] == [
        "node.kubernetes.io/not-ready"
    ]
    stored = await cluster.get("nodes", "node")
    stored["status"]["conditions"] = [ready(0)]
    await cluster.update("nodes", stored, subresource="status")
    await lifecycle.reconcile(KEY)
    assert not (await cluster.get("nodes", "node"))["spec"].get("taints")


async def test_pods_of_a_node_that_is_gone_fail_and_are_removed(cluster, lifecycle, make_pod, set_pod):
    kept = make_pod(nodeName="node")
    kept["metadata"]["finalizers"] = ["test/look"]
    await cluster.create("pods", kept)
    await cluster.create("pods", make_pod("plain", nodeName="node"))
    await set_pod("pod")
    await lifecycle.reconcile(KEY)
    pods, _ = await cluster.list("pods", "default")
    assert [pod["metadata"]["name"] for pod in pods] == ["pod"]
    assert pods[0]["metadata"]["deletionTimestamp"]
    assert (pods[0]["status"]["phase"], "reason" in pods[0]["status"]) == ("Failed", False)
    mark = condition_of(pods[0], "DisruptionTarget")
    assert (mark["reason"], mark["message"]) == ("DeletionByPodGC", "PodGC: node no longer exists")
    assert (await cluster.list("events"))[0] == []


async def test_a_finished_pod_keeps_its_result(cluster, lifecycle, make_pod, set_pod):
    kept = make_pod(nodeName="node")
    kept["metadata"]["finalizers"] = ["test/look"]
    await cluster.create("pods", kept)
    await set_pod("pod", phase="Succeeded", ready=False)
    await lifecycle.reconcile(KEY)
    assert (await cluster.get("pods", "pod"))["status"]["phase"] == "Succeeded"
