"""What happens to a pool's machines: Nodes with AKS's names and labels, eviction, loss, restart, the bill."""

from __future__ import annotations

import asyncio

import pytest

from sandbox.arm.account import CLUSTER_ID, cluster_number, machine_name
from sandbox.controllers.ownership import condition_of, set_condition
from sandbox.faults import Fault, FaultKind, Faults
from sandbox.node import machine
from tests.support.azure_api import GPU, running

POOL = f"{CLUSTER_ID}/agentPools/wsgpu"


@pytest.fixture
async def azure(tmp_path, cluster, faults):
    async with running(tmp_path, cluster, faults) as made:
        yield made


def test_nodes_are_named_as_scale_sets_name_them():
    assert machine_name("wsgpu", 0) == f"aks-wsgpu-{cluster_number()}-vmss000000"
    assert machine_name("wsgpu", 35).endswith("-vmss00000z")
    assert machine_name("wsgpu", 36).endswith("-vmss000010")
    assert len(cluster_number()) == 8


async def test_nodes_carry_akss_labels_and_taints_and_those_asked_for(azure):
    await azure.put(
        count=3,
        osSKU="AzureLinux",
        availabilityZones=["1", "2"],
        scaleSetPriority="Spot",
        nodeLabels={"kaito.sh/workspace": "w"},
        nodeTaints=["sku=gpu:NoSchedule"],
    )
    assert await azure.settled() == "Succeeded"
    nodes = await azure.nodes()
    assert [node["metadata"]["name"] for node in nodes] == [machine_name("wsgpu", n) for n in range(3)]
    labels = nodes[0]["metadata"]["labels"]
    assert (
        labels.items()
        >= {
            "agentpool": "wsgpu",
            "kubernetes.azure.com/agentpool": "wsgpu",
            "kubernetes.azure.com/scalesetpriority": "spot",
            "kubernetes.azure.com/os-sku": "AzureLinux",
            "node.kubernetes.io/instance-type": GPU,
            "topology.kubernetes.io/zone": "sandbox-1",
            "kaito.sh/workspace": "w",
            "accelerator": "nvidia",
        }.items()
    )
    zones = [node["metadata"]["labels"]["topology.kubernetes.io/zone"] for node in nodes]
    assert zones == ["sandbox-1", "sandbox-2", "sandbox-1"]
    assert {"key": "sku", "value": "gpu", "effect": "NoSchedule"} in nodes[0]["spec"]["taints"]
    assert {
        "key": "kubernetes.azure.com/scalesetpriority",
        "value": "spot",
        "effect": "NoSchedule",
    } in nodes[0]["spec"]["taints"]
    assert nodes[0]["spec"]["providerID"].endswith("-vmss/virtualMachines/0")


async def test_gpus_are_offered_after_the_nodes_are_ready(azure):
    await azure.put(count=1)
    await azure.settled()

    async def offered():
        return "nvidia.com/gpu" in (await azure.nodes())[0]["status"]["allocatable"]

    async with asyncio.timeout(20):
        while not await offered():
            await asyncio.sleep(0.01)
    assert (await azure.nodes())[0]["status"]["capacity"]["nvidia.com/gpu"] == "1"


async def test_the_bill_runs_from_the_launch_to_the_end_of_each_machine(azure):
    await azure.put(count=2, nodeLabels={"kaito.sh/workspace": "w"})
    await azure.settled()
    rentals = azure.ledger.rentals()
    assert [(r.claim, r.instance_type, r.labels, r.stopped) for r in rentals] == [
        ("wsgpu", GPU, {"kaito.sh/workspace": "w"}, None)
    ] * 2
    await azure.call("DELETE", POOL)
    assert await azure.settled() == "gone"
    assert all(rental.stopped and rental.seconds > 0 for rental in azure.ledger.rentals())
    assert await azure.nodes() == []


async def test_scaling_down_takes_the_newest_machine(azure):
    await azure.put(count=2)
    await azure.settled()
    await azure.put(count=1)
    assert await azure.settled() == "Succeeded"
    assert [node["metadata"]["name"] for node in await azure.nodes()] == [machine_name("wsgpu", 0)]


async def test_single_machines_can_be_deleted_and_are_not_replaced(azure):
    await azure.put(count=3)
    await azure.settled()
    gone = {"machineNames": [machine_name("wsgpu", 1)]}
    answer = await azure.call("POST", f"{POOL}/deleteMachines", gone)
    assert (answer.status, "Azure-AsyncOperation" in answer.headers, "Location" in answer.headers) == (
        202,
        True,
        True,
    )
    assert await azure.settled() == "Succeeded"
    assert [n["metadata"]["name"] for n in await azure.nodes()] == [machine_name("wsgpu", n) for n in (0, 2)]
    assert (await azure.call("GET", POOL)).body["properties"]["count"] == 2
    again = await azure.call("POST", f"{POOL}/deleteMachines", gone)
    assert (again.status, again.body["error"]["code"]) == (400, "InvalidParameter")


async def test_a_stopped_pool_has_no_machines_and_costs_nothing(azure):
    await azure.put(count=2)
    await azure.settled()
    answer = await azure.call("PUT", POOL, {"properties": {"powerState": {"code": "Stopped"}}})
    assert answer.status == 201
    shown = answer.body["properties"]
    assert (shown["provisioningState"], shown["count"], shown["powerState"]) == (
        "Stopping",
        0,
        {"code": "Stopped"},
    )
    assert await azure.settled() == "Succeeded"
    assert await azure.nodes() == []
    assert all(rental.stopped for rental in azure.ledger.rentals())
    await azure.call("PUT", POOL, {"properties": {"powerState": {"code": "Running"}}})
    assert await azure.settled() == "Succeeded"
    assert len(await azure.nodes()) == 2


async def test_machines_without_gpus_are_pools_too(azure):
    assert (await azure.put(vmSize="Standard_DS2_v2", count=1, osType="Linux")).status == 201
    assert await azure.settled() == "Succeeded"
    assert (await azure.nodes())[0]["status"]["allocatable"]["cpu"] == "2"


async def test_a_deleted_pool_is_drained_first(azure, cluster):
    await azure.put(count=1)
    await azure.settled()
    name = machine_name("wsgpu", 0)
    spec = {"nodeName": name, "containers": [{"name": "main", "image": "busybox"}]}
    await cluster.create("pods", {"metadata": {"name": "tune"}, "spec": spec}, "default")
    await azure.call("DELETE", POOL)
    async with asyncio.timeout(20):
        while not (pod := await cluster.get("pods", "tune"))["metadata"].get("deletionTimestamp"):
            await asyncio.sleep(0.01)
    assert len(await azure.nodes()) == 1
    await cluster.delete("pods", pod["metadata"]["name"], "default", {"gracePeriodSeconds": 0})
    assert await azure.settled() == "gone"


async def test_a_spot_eviction_gives_notice_and_then_takes_the_node_for_good(azure, cluster, faults):
    await azure.put(count=1, scaleSetPriority="Spot")
    await azure.settled()
    name = machine_name("wsgpu", 0)
    await azure.until(lambda: azure.controller.feeds.known("nodes"), "the node is seen")
    faults.set(Fault(FaultKind.SPOT_EVICTION, name, 0.3))
    async with asyncio.timeout(20):
        while len((node := (await azure.nodes())[0])["spec"]["taints"]) < 2:
            await asyncio.sleep(0.01)
    assert not machine.is_lost(node)
    events, _ = await cluster.list("events")
    assert "PreemptScheduled" in [event["reason"] for event in events]
    async with asyncio.timeout(20):
        while not machine.is_lost(node):
            await asyncio.sleep(0.01)
            node = (await azure.nodes())[0]
    ready = set_condition(node["status"]["conditions"], "Ready", "Unknown", "NodeStatusUnknown")
    await cluster.update(
        "nodes", {**node, "status": {**node["status"], "conditions": ready}}, subresource="status"
    )
    async with asyncio.timeout(20):
        while await azure.nodes():
            await asyncio.sleep(0.01)
    assert azure.state.pools["wsgpu"].state == "Succeeded"
    assert azure.ledger.rentals()[0].stopped
    await azure.put(count=1)
    await azure.settled()
    assert [node["metadata"]["name"] for node in await azure.nodes()] == [machine_name("wsgpu", 1)]


async def test_a_restart_in_the_middle_of_a_creation_loses_nothing(tmp_path, cluster):
    slow = Faults()
    slow.set(Fault(FaultKind.SLOW_BOOT, value=60))
    async with running(tmp_path, cluster, slow) as first:
        answer = await first.put(count=2)
        await first.until(lambda: first.state.pools["wsgpu"].machines, "machines are launched")
    async with running(tmp_path, cluster, Faults()) as again:
        assert await again.settled() == "Succeeded"
        monitor = answer.headers["Azure-AsyncOperation"].replace(first.url, again.url)
        assert (await again.call("GET", monitor)).body["status"] == "Succeeded"
        assert [condition_of(node, "Ready")["status"] for node in await again.nodes()] == ["True", "True"]
        assert len(again.ledger.rentals()) == 2
        await again.call("DELETE", POOL)
        assert await again.settled() == "gone"
        assert all(rental.stopped for rental in again.ledger.rentals())
