"""Azure's own SDK, sync and asyncio, unmodified, against the endpoint: long-running operations to their end."""

from __future__ import annotations

import asyncio

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError
from azure.mgmt.containerservice import models

from tests.support.azure_api import GPU, TOKEN

PLACE = ("sandbox", "sandbox")


def wanted(**more):
    properties = {
        "count": 2,
        "vm_size": GPU,
        "os_type": "Linux",
        "os_sku": "Ubuntu",
        "mode": "User",
        "node_labels": {"kaito.sh/workspace": "w"},
        "node_taints": ["sku=gpu:NoSchedule"],
        "tags": {"managed-by": "test"},
    }
    return models.AgentPool(**{**properties, **more})


async def test_the_sync_client_creates_reads_and_deletes_a_pool(azure):
    pools = azure.sdk().agent_pools

    def life():
        made = pools.begin_create_or_update(*PLACE, "wsgpu", wanted()).result(30)
        listed = [pool.name for pool in pools.list(*PLACE)]
        return made, pools.get(*PLACE, "wsgpu"), listed

    made, read, listed = await asyncio.to_thread(life)
    assert (made.provisioning_state, made.count, made.vm_size, made.e_tag) == (
        "Succeeded",
        2,
        GPU,
        read.e_tag,
    )
    assert listed == ["nodepool1", "wsgpu"]
    assert read.gpu_profile is None
    assert len(await azure.nodes()) == 2
    await asyncio.to_thread(lambda: pools.begin_delete(*PLACE, "wsgpu").result(30))
    assert await azure.nodes() == []
    with pytest.raises(ResourceNotFoundError) as gone:
        await asyncio.to_thread(pools.get, *PLACE, "wsgpu")  # type: ignore[call-arg]
    assert gone.value.error.code == "AgentPoolNotFound"


async def test_the_asyncio_client_does_the_same(azure):
    async with azure.aio() as client:
        poller = await client.agent_pools.begin_create_or_update(*PLACE, "wsgpu", wanted(count=1))
        assert (await poller.result()).provisioning_state == "Succeeded"
        await (await client.agent_pools.begin_delete(*PLACE, "wsgpu")).result()
        assert [pool.name async for pool in client.agent_pools.list(*PLACE)] == ["nodepool1"]


async def test_an_operation_is_resumed_by_its_continuation_token(azure):
    def begin():
        return azure.sdk().agent_pools.begin_create_or_update(*PLACE, "wsgpu", wanted()).continuation_token()

    token = await asyncio.to_thread(begin)

    def resume():
        pools = azure.sdk().agent_pools
        return pools.begin_create_or_update(*PLACE, "", None, continuation_token=token).result(30)

    assert (await asyncio.to_thread(resume)).provisioning_state == "Succeeded"


async def test_a_failed_operation_reaches_the_caller_with_azures_words(azure, faults):
    from sandbox.faults import Fault, FaultKind

    faults.set(Fault(FaultKind.NO_CAPACITY))

    def create():
        azure.sdk().agent_pools.begin_create_or_update(*PLACE, "wsgpu", wanted()).result(30)

    with pytest.raises(HttpResponseError) as failed:
        await asyncio.to_thread(create)
    assert failed.value.error.code == "AllocationFailed"
    pool = await asyncio.to_thread(azure.sdk().agent_pools.get, *PLACE, "wsgpu")  # type: ignore[call-arg]
    assert pool.provisioning_state == "Failed"
    assert pool.status.provisioning_error.code == "AllocationFailed"


async def test_a_stale_etag_is_refused(azure):
    pools = azure.sdk().agent_pools
    made = await asyncio.to_thread(
        lambda: pools.begin_create_or_update(*PLACE, "wsgpu", wanted(count=1)).result(30)
    )
    fresh = {"etag": made.e_tag, "match_condition": MatchConditions.IfNotModified}
    scaled = await asyncio.to_thread(
        lambda: pools.begin_create_or_update(*PLACE, "wsgpu", wanted(count=2), **fresh).result(30)
    )
    assert (scaled.count, scaled.e_tag != made.e_tag) == (2, True)
    with pytest.raises(ResourceModifiedError) as refused:
        await asyncio.to_thread(lambda: pools.begin_delete(*PLACE, "wsgpu", **fresh))
    assert refused.value.error.code == "PreconditionFailed"
    assert len(await azure.nodes()) == 2


async def test_abort_ends_a_creation(azure, faults):
    from sandbox.faults import Fault, FaultKind

    faults.set(Fault(FaultKind.SLOW_BOOT, value=60))
    pools = azure.sdk().agent_pools
    await asyncio.to_thread(
        lambda: pools.begin_create_or_update(*PLACE, "wsgpu", wanted(), polling=False).result()
    )
    await asyncio.to_thread(lambda: pools.begin_abort_latest_operation(*PLACE, "wsgpu").result(30))
    assert (await asyncio.to_thread(pools.get, *PLACE, "wsgpu")).provisioning_state == "Canceled"  # type: ignore[call-arg]
    await asyncio.to_thread(lambda: pools.begin_delete(*PLACE, "wsgpu").result(30))
    assert all(rental.stopped for rental in azure.ledger.rentals())


async def test_the_cluster_the_quota_and_the_sizes_can_be_asked_for(azure):
    from azure.mgmt.compute import ComputeManagementClient

    from sandbox.arm import account
    from tests.support.azure_api import Credential

    cluster = await asyncio.to_thread(azure.sdk().managed_clusters.get, *PLACE)
    assert cluster.provisioning_state == "Succeeded"
    assert [pool.name for pool in cluster.agent_pool_profiles] == ["nodepool1"]
    compute = ComputeManagementClient(Credential(), account.SUBSCRIPTION, **azure._options({}))
    usages = await asyncio.to_thread(lambda: list(compute.usage.list("sandbox")))
    assert "standardNCADSA100v4Family" in {usage.name.value for usage in usages}
    sizes = await asyncio.to_thread(lambda: list(compute.resource_skus.list(filter="location eq 'sandbox'")))
    assert next(size for size in sizes if size.name == GPU).capabilities[0].value == "24"


async def test_a_wrong_token_is_refused(azure):
    with pytest.raises(HttpResponseError) as refused:
        await asyncio.to_thread(azure.sdk(TOKEN + "x").managed_clusters.get, *PLACE)
    assert (refused.value.status_code, refused.value.error.code) == (401, "InvalidAuthenticationToken")
