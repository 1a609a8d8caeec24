"""The life of a NodeClaim."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest

from include.ledger.records import account
from include.workspace.status.conditions import moment
from sandbox.cloud.crds import NODECLAIMS
from sandbox.cloud.nodeclaims import FINALIZER, node_name
from sandbox.controllers.ownership import condition_of, set_condition
from sandbox.faults import Fault, FaultKind
from sandbox.node import machine
from tests.support.pools import held_machines

KEY = ("", "wsabc")


async def settle(controller, key=KEY):
    """Reconcile until the controller wants no other turn."""
    async with asyncio.timeout(30):
        while (wait := await controller.reconcile(key)) is not None:
            await asyncio.sleep(wait)


async def states(cluster, name="wsabc"):
    claim = await cluster.get(NODECLAIMS, name)
    return {c["type"]: (c["status"], c["reason"]) for c in claim["status"]["conditions"]}


async def the_node(cluster):
    nodes, _ = await cluster.list("nodes")
    return nodes[0] if nodes else None


async def test_the_first_step_launches_and_then_waits_for_the_boot(cluster, controller, make_claim):
    await make_claim()
    wait = await controller.reconcile(KEY)
    assert 0 < wait < 0.2
    assert await states(cluster) == {
        "Launched": ("True", "Launched"),
        "Registered": ("Unknown", "NodeNotFound"),
        "Initialized": ("Unknown", "NodeNotFound"),
        "Ready": ("Unknown", "UnhealthyDependents"),
    }
    claim = await cluster.get(NODECLAIMS, "wsabc")
    assert claim["metadata"]["finalizers"] == [FINALIZER]
    assert claim["status"]["providerID"].startswith("azure:///")
    assert await the_node(cluster) is None


async def test_a_node_is_registered_not_ready_before_it_is_ready(cluster, controller, make_claim):
    await make_claim()
    await asyncio.sleep(await controller.reconcile(KEY))
    await controller.reconcile(KEY)
    node = await the_node(cluster)
    assert condition_of(node, "Ready")["status"] == "False"
    assert (await states(cluster))["Registered"] == ("True", "Registered")
    assert (await states(cluster))["Initialized"] == ("Unknown", "NodeNotReady")


async def test_a_ready_claim_has_a_node_with_its_labels_taints_and_gpus(cluster, controller, make_claim):
    stored = await make_claim(instance_type="standard_nc6S_v3")
    await settle(controller)
    assert {state for state, _ in (await states(cluster)).values()} == {"True"}
    node = await the_node(cluster)
    claim = await cluster.get(NODECLAIMS, "wsabc")
    assert claim["status"]["nodeName"] == node["metadata"]["name"] == node_name(stored)
    labels = node["metadata"]["labels"]
    assert labels["node.kubernetes.io/instance-type"] == "Standard_NC6s_v3"
    assert labels["kaito.sh/workspace"] == "ws"
    assert labels["kubernetes.io/hostname"] == node["metadata"]["name"]
    assert labels["karpenter.sh/nodepool"] == "kaito"
    assert node["spec"]["taints"] == [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]
    assert node["spec"]["providerID"] == claim["status"]["providerID"]
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "1"


async def test_gpus_come_a_little_after_the_node_is_ready(cluster, controller, make_claim):
    await make_claim()
    async with asyncio.timeout(30):
        while (node := await the_node(cluster)) is None or condition_of(node, "Ready")["status"] != "True":
            await asyncio.sleep(await controller.reconcile(KEY))
    wait = await controller.reconcile(KEY)
    assert wait is None or wait <= 0.05
    await settle(controller)
    assert (await the_node(cluster))["status"]["allocatable"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(
    ("kind", "words"),
    [(FaultKind.QUOTA, "ErrCode_InsufficientVCPUQuota"), (FaultKind.NO_CAPACITY, "AllocationFailed")],
)
async def test_a_refusal_is_told_and_tried_again_until_it_is_lifted(
    cluster, controller, faults, make_claim, kind, words
):
    faults.set(Fault(kind, target="Standard_NC*"))
    await make_claim()
    assert await controller.reconcile(KEY) >= 1
    claim = await cluster.get(NODECLAIMS, "wsabc")
    launched = condition_of(claim, "Launched")
    assert (launched["status"], launched["reason"]) == ("Unknown", "LaunchFailed")
    assert words in launched["message"]
    faults.clear()
    await settle(controller)
    assert (await states(cluster))["Ready"] == ("True", "Ready")


async def test_retries_grow_slower(controller, faults, make_claim):
    faults.set(Fault(FaultKind.QUOTA))
    await make_claim()
    assert [await controller.reconcile(KEY) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_a_fault_for_another_machine_type_does_not_matter(cluster, controller, faults, make_claim):
    faults.set(Fault(FaultKind.NO_CAPACITY, target="*H100*"))
    await make_claim()
    await settle(controller)
    assert (await states(cluster))["Ready"] == ("True", "Ready")


async def test_an_unknown_machine_type_never_launches(cluster, controller, ledger, make_claim):
    await make_claim(instance_type="Standard_NC6s_v33")
    await controller.reconcile(KEY)
    launched = condition_of(await cluster.get(NODECLAIMS, "wsabc"), "Launched")
    assert launched["reason"] == "LaunchFailed"
    assert "Standard_NC6s_v33" in launched["message"]
    assert ledger.rentals() == []


async def test_a_deleted_claim_drains_its_node_before_removing_it(cluster, controller, ledger, make_claim):
    stored = await make_claim()
    await settle(controller)
    name = node_name(stored)
    spec = {"nodeName": name, "containers": [{"name": "main", "image": "busybox"}]}
    await cluster.create("pods", {"metadata": {"name": "tune"}, "spec": spec}, "default")
    await cluster.delete(NODECLAIMS, "wsabc")
    assert await controller.reconcile(KEY) == 1.0
    assert (await cluster.get("pods", "tune"))["metadata"]["deletionTimestamp"]
    assert "karpenter.sh/disrupted" in [t["key"] for t in (await the_node(cluster))["spec"]["taints"]]
    assert ledger.rentals()[0].stopped is None
    await cluster.delete("pods", "tune", "default", {"gracePeriodSeconds": 0})
    await controller.reconcile(KEY)
    assert await the_node(cluster) is None
    assert (await cluster.list(NODECLAIMS))[0] == []
    assert ledger.rentals()[0].stopped is not None


async def test_a_claim_that_was_never_launched_goes_at_once(cluster, controller, faults, make_claim):
    faults.set(Fault(FaultKind.QUOTA))
    await make_claim()
    await controller.reconcile(KEY)
    await cluster.delete(NODECLAIMS, "wsabc")
    await controller.reconcile(KEY)
    assert (await cluster.list(NODECLAIMS))[0] == []


async def test_deleting_the_node_gives_up_the_machine(cluster, controller, ledger, make_claim):
    stored = await make_claim()
    await settle(controller)
    await cluster.delete("nodes", node_name(stored))
    await controller.reconcile(KEY)
    await settle(controller)
    assert await the_node(cluster) is None
    assert (await cluster.list(NODECLAIMS))[0] == []
    assert [r.stopped is not None for r in ledger.rentals()] == [True]


async def test_a_lost_machine_is_given_up_once_its_node_is_silent(cluster, controller, make_claim):
    stored = await make_claim()
    await settle(controller)
    name = node_name(stored)
    await cluster.patch("nodes", name, {"metadata": {"annotations": {machine.LOST: "true"}}})
    await settle(controller)
    assert (await cluster.get(NODECLAIMS, "wsabc"))["metadata"].get("deletionTimestamp") is None
    node = await cluster.get("nodes", name)
    node["status"]["conditions"] = set_condition(
        node["status"]["conditions"], "Ready", "Unknown", "NodeStatusUnknown"
    )
    await cluster.update("nodes", node, subresource="status")
    await controller.reconcile(KEY)
    await settle(controller)
    assert (await cluster.list(NODECLAIMS))[0] == []
    assert await the_node(cluster) is None


async def test_a_restarted_sandbox_carries_on(cluster, faults, ledger, make_claim, controller):
    from sandbox.cloud.nodeclaims import NodeClaimController
    from sandbox.controllers.reconciler import Feeds
    from sandbox.layout import Timings

    await make_claim()
    await controller.reconcile(KEY)
    again = NodeClaimController(cluster, Feeds(cluster), faults, ledger, Timings(boot=0.05, gpu=0.01))
    await settle(again)
    assert (await states(cluster))["Ready"] == ("True", "Ready")
    assert len(ledger.rentals()) == 1


async def test_a_spot_eviction_comes_after_its_notice(cluster, controller, faults, make_claim):
    stored = await make_claim()
    await settle(controller)
    feeds = asyncio.create_task(controller.feeds.run())
    try:
        async with asyncio.timeout(30):
            while not list(controller.feeds.known("nodes")):
                await asyncio.sleep(0.01)
        began = time.monotonic()
        faults.set(Fault(FaultKind.SPOT_EVICTION, target=node_name(stored), value=0.5))
        async with asyncio.timeout(30):
            while not machine.is_lost(await the_node(cluster)):
                await asyncio.sleep(0.01)
                await controller.reconcile(KEY)
        assert time.monotonic() - began >= 0.5
    finally:
        feeds.cancel()
        await asyncio.gather(feeds, return_exceptions=True)


async def test_what_workspaces_are_billed_for_is_what_the_cloud_bills(
    cluster, controller, faults, ledger, make_claim
):
    """A claim that the cloud refuses costs nothing; one that it grants costs the same to it and to our ledger."""
    faults.set(Fault(FaultKind.QUOTA, "*"))
    await make_claim()
    pools = {"metadata": {"labels": {"kaito.sh/pool": "tuning", "kaito.sh/run-id": "r"}}}
    await cluster.patch(NODECLAIMS, "wsabc", pools)
    await controller.reconcile(KEY)
    refused, _ = await cluster.list(NODECLAIMS)
    assert held_machines(refused, [], []) == []
    assert ledger.rentals() == []
    faults.clear()
    await settle(controller)
    granted, _ = await cluster.list(NODECLAIMS)
    now = datetime.now(UTC)
    cost = account({}, held_machines(granted, [], []), now, lambda _: 3.6)
    await cluster.delete(NODECLAIMS, "wsabc")
    await settle(controller)
    gone, _ = await cluster.list(NODECLAIMS)
    cost = account(cost, held_machines(gone, [], []), datetime.now(UTC), lambda _: 3.6)
    (rental,), (record,) = ledger.rentals(), cost["claims"]
    # Kubernetes tells whole seconds; the rest is this machine's haste.
    assert abs((rental.started - moment(record["since"])).total_seconds()) < 15
    assert abs((rental.stopped - moment(record["until"])).total_seconds()) < 15
