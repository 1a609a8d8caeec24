"""A NodePool keeps as many NodeClaims as it says."""

from __future__ import annotations

import pytest

from sandbox.cloud.crds import NODECLAIMS, NODEPOOLS
from sandbox.cloud.machines import find_machine_type
from sandbox.cloud.nodeclaims import CAPACITY_TYPE, build_node, node_name
from sandbox.cloud.nodepools import NodePoolController
from sandbox.controllers.ownership import condition_of
from sandbox.controllers.reconciler import Feeds
from sandbox.controllers.volume_binding import DISK_ZONE
from sandbox.faults import Fault, FaultKind

KEY = ("", "ml-w-tuning")


@pytest.fixture
def pools(cluster) -> NodePoolController:
    return NodePoolController(cluster, Feeds(cluster))


async def make(cluster, replicas=2, *requirements):
    template = {
        "metadata": {"labels": {"kaito.sh/workspace": "w"}, "annotations": {"a": "b"}},
        "spec": {
            "nodeClassRef": {"group": "karpenter.azure.com", "kind": "AKSNodeClass", "name": "x"},
            "requirements": [
                {
                    "key": "node.kubernetes.io/instance-type",
                    "operator": "In",
                    "values": ["Standard_NC6s_v3"],
                },
                *requirements,
            ],
        },
    }
    spec = {"template": template} if replicas is None else {"template": template, "replicas": replicas}
    return await cluster.create(NODEPOOLS, {"metadata": {"name": KEY[1]}, "spec": spec})


async def claims(cluster):
    return (await cluster.list(NODECLAIMS))[0]


async def test_claims_follow_the_template_and_know_their_pool(cluster, pools):
    await make(cluster)
    await pools.reconcile(KEY)
    await pools.reconcile(KEY)
    made = await claims(cluster)
    assert len(made) == 2
    metadata = made[0]["metadata"]
    assert metadata["name"].startswith("ml-w-tuning-")
    assert metadata["labels"] == {"kaito.sh/workspace": "w", "karpenter.sh/nodepool": "ml-w-tuning"}
    assert metadata["annotations"]["a"] == "b"
    assert metadata["ownerReferences"][0]["kind"] == "NodePool"
    pool = await cluster.get(NODEPOOLS, KEY[1])
    assert condition_of(pool, "Ready")["status"] == "True"


async def test_its_machines_are_karpenters_and_no_agent_pools(cluster, pools):
    await make(cluster, 1)
    await pools.reconcile(KEY)
    (claim,) = await claims(cluster)
    node = build_node(claim, find_machine_type("Standard_NC6s_v3"))
    assert node["metadata"]["name"] == node_name(claim) == f"aks-{claim['metadata']['name']}"
    assert "agentpool" not in node["metadata"]["labels"]


async def test_more_replicas_bring_claims_and_fewer_take_unready_ones_first(cluster, pools):
    await make(cluster, 1)
    await pools.reconcile(KEY)
    (first,) = await claims(cluster)
    first["status"] = {
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Ready",
                "message": "",
                "lastTransitionTime": "2026-11-23T00:00:00Z",
            }
        ]
    }
    await cluster.update(NODECLAIMS, first, subresource="status")
    for replicas in (3, 1):
        await cluster.patch(NODEPOOLS, KEY[1], {"spec": {"replicas": replicas}})
        await pools.reconcile(KEY)
        assert len(await claims(cluster)) == replicas
    assert [claim["metadata"]["name"] for claim in await claims(cluster)] == [first["metadata"]["name"]]


async def test_a_deleted_claim_is_replaced(cluster, pools):
    await make(cluster, 1)
    await pools.reconcile(KEY)
    (first,) = await claims(cluster)
    await cluster.delete(NODECLAIMS, first["metadata"]["name"])
    await pools.reconcile(KEY)
    (second,) = await claims(cluster)
    assert second["metadata"]["name"] != first["metadata"]["name"]


async def test_a_deleted_pool_goes_after_its_claims(cluster, pools):
    await make(cluster, 1)
    await pools.reconcile(KEY)
    (claim,) = await claims(cluster)
    claim["metadata"]["finalizers"] = ["karpenter.sh/termination"]
    claim = await cluster.update(NODECLAIMS, claim)
    await cluster.delete(NODEPOOLS, KEY[1])
    await pools.reconcile(KEY)
    (claim,) = await claims(cluster)
    assert claim["metadata"]["deletionTimestamp"]
    assert (await cluster.list(NODEPOOLS))[0]
    claim["metadata"]["finalizers"] = []
    await cluster.update(NODECLAIMS, claim)
    await pools.reconcile(KEY)
    assert (await cluster.list(NODEPOOLS))[0] == []


async def test_a_pool_without_replicas_gets_no_machines(cluster, pools):
    await make(cluster, None)
    await pools.reconcile(KEY)
    assert await claims(cluster) == []


async def test_a_claim_without_a_machine_is_given_up_and_made_again(cluster, pools, controller, faults):
    faults.set(Fault(FaultKind.NO_CAPACITY))
    await make(cluster, 1)
    await pools.reconcile(KEY)
    (first,) = await claims(cluster)
    key = ("", first["metadata"]["name"])
    assert await controller.reconcile(key) == 1.0
    events, _ = await cluster.list("events", field_selector="reason=InsufficientCapacityError")
    assert events[0]["involvedObject"]["name"] == first["metadata"]["name"]
    await controller.reconcile(key)
    await controller.reconcile(key)
    assert await claims(cluster) == []
    await pools.reconcile(KEY)
    (second,) = await claims(cluster)
    assert second["metadata"]["name"] != first["metadata"]["name"]


async def test_spot_machines_are_sold_out_by_themselves(cluster, pools, controller, faults):
    faults.set(Fault(FaultKind.NO_CAPACITY, "Standard_NC6s_v3/spot"))
    terms = {"key": CAPACITY_TYPE, "operator": "In", "values": ["spot"]}
    await make(cluster, 1, terms)
    await pools.reconcile(KEY)
    (spot,) = await claims(cluster)
    await controller.reconcile(("", spot["metadata"]["name"]))
    events, _ = await cluster.list("events", field_selector="reason=InsufficientCapacityError")
    assert events[0]["involvedObject"]["name"] == spot["metadata"]["name"]
    await cluster.delete(NODEPOOLS, KEY[1])
    await pools.reconcile(KEY)
    await controller.reconcile(("", spot["metadata"]["name"]))
    await pools.reconcile(KEY)
    await make(cluster, 1)
    await pools.reconcile(KEY)
    (ordinary,) = await claims(cluster)
    await controller.reconcile(("", ordinary["metadata"]["name"]))
    (ordinary,) = await claims(cluster)
    assert ordinary["metadata"]["labels"][CAPACITY_TYPE] == "on-demand"


async def test_a_spot_machine_says_that_it_is_one(cluster, pools, controller):
    await make(cluster, 1, {"key": CAPACITY_TYPE, "operator": "In", "values": ["spot"]})
    await pools.reconcile(KEY)
    (claim,) = await claims(cluster)
    await controller.reconcile(("", claim["metadata"]["name"]))
    (claim,) = await claims(cluster)
    assert claim["metadata"]["labels"][CAPACITY_TYPE] == "spot"


@pytest.mark.parametrize(
    ("asked", "zone", "disks"), [("sandbox-2", "sandbox-2", "sandbox-2"), ("", "sandbox-1", "")]
)
async def test_a_machine_is_in_the_zone_that_is_asked_for_and_its_disks_too(
    cluster, pools, asked, zone, disks
):
    """Without a zone it is outside all of them for disks, as on a regional cluster of Azure."""
    wanted = [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": [asked]}] if asked else []
    await make(cluster, 1, *wanted)
    await pools.reconcile(KEY)
    [claim] = await claims(cluster)
    labels = build_node(claim, find_machine_type("Standard_NC6s_v3"))["metadata"]["labels"]
    assert (labels["topology.kubernetes.io/zone"], labels[DISK_ZONE]) == (zone, disks)
