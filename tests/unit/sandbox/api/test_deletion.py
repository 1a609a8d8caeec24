"""Deletion: graceful, held by finalizers, and what it takes along."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sandbox.api.cluster import ApiError, Cluster

Json = dict[str, Any]
Settled = Callable[[], Awaitable[None]]


def owner_reference(obj: Json, block: bool = False) -> Json:
    meta = obj["metadata"]
    return {
        "apiVersion": "v1",
        "kind": obj["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
        "blockOwnerDeletion": block,
    }


async def names(cluster: Cluster, resource: str) -> list[str]:
    return [obj["metadata"]["name"] for obj in (await cluster.list(resource))[0]]


async def bound(cluster: Cluster, pod: Json) -> Json:
    await cluster.create("pods", pod)
    await cluster.create("pods/binding", {"metadata": {"name": "web"}, "target": {"name": "n"}}, "default")
    return await cluster.get("pods", "web")


async def test_a_pod_without_a_node_goes_at_once(cluster: Cluster, pod: Json) -> None:
    await cluster.create("pods", pod)
    await cluster.delete("pods", "web")
    assert await names(cluster, "pods") == []


async def test_a_running_pod_gets_its_grace(cluster: Cluster, pod: Json) -> None:
    before = await bound(cluster, pod)
    answer = await cluster.delete("pods", "web")
    assert answer["metadata"]["deletionGracePeriodSeconds"] == 30
    assert answer["metadata"]["generation"] == before["metadata"]["generation"] + 1
    first = answer["metadata"]["deletionTimestamp"]
    shorter = await cluster.delete("pods", "web", options={"gracePeriodSeconds": 5})
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    assert shorter["metadata"]["deletionTimestamp"] < first
    longer = await cluster.delete("pods", "web", options={"gracePeriodSeconds": 60})
    assert longer["metadata"]["deletionGracePeriodSeconds"] == 5
    await cluster.delete("pods", "web", options={"gracePeriodSeconds": 0})
    assert await names(cluster, "pods") == []


async def test_a_finished_pod_goes_at_once(cluster: Cluster, pod: Json) -> None:
    made = await bound(cluster, pod)
    await cluster.update("pods", {**made, "status": {**made["status"], "phase": "Succeeded"}}, "status")
    await cluster.delete("pods", "web")
    assert await names(cluster, "pods") == []


async def test_finalizers_hold_until_the_last_is_gone(cluster: Cluster) -> None:
    made = await cluster.create("configmaps", {"metadata": {"name": "c", "finalizers": ["a.b/c", "d.e/f"]}})
    marked = await cluster.delete("configmaps", "c")
    assert marked["metadata"]["deletionTimestamp"]
    with pytest.raises(ApiError, match="no new finalizers can be added if the object is being deleted"):
        await cluster.patch("configmaps", "c", {"metadata": {"finalizers": ["a.b/c", "d.e/f", "g.h/i"]}})
    await cluster.patch("configmaps", "c", {"metadata": {"finalizers": ["d.e/f"]}})
    assert await names(cluster, "configmaps") == ["c"]
    await cluster.patch("configmaps", "c", {"metadata": {"finalizers": None}})
    assert await names(cluster, "configmaps") == []
    assert made["metadata"].get("deletionTimestamp") is None


async def test_preconditions(cluster: Cluster) -> None:
    await cluster.create("configmaps", {"metadata": {"name": "c"}})
    with pytest.raises(ApiError, match="Precondition failed: UID in precondition: x") as caught:
        await cluster.delete("configmaps", "c", options={"preconditions": {"uid": "x"}})
    assert caught.value.code == 409


async def test_background_deletion_takes_dependents(cluster: Cluster, settled: Settled) -> None:
    owner = await cluster.create("configmaps", {"metadata": {"name": "o"}})
    middle = await cluster.create(
        "configmaps", {"metadata": {"name": "m", "ownerReferences": [owner_reference(owner)]}}
    )
    await cluster.create("secrets", {"metadata": {"name": "s", "ownerReferences": [owner_reference(middle)]}})
    await cluster.delete("configmaps", "o")
    await settled()
    assert await names(cluster, "configmaps") == []
    assert await names(cluster, "secrets") == []


async def test_a_dependent_with_another_owner_stays(cluster: Cluster, settled: Settled) -> None:
    first = await cluster.create("configmaps", {"metadata": {"name": "a"}})
    second = await cluster.create("configmaps", {"metadata": {"name": "b"}})
    owners = [owner_reference(first), owner_reference(second)]
    await cluster.create("secrets", {"metadata": {"name": "s", "ownerReferences": owners}})
    await cluster.delete("configmaps", "a")
    await settled()
    secret = await cluster.get("secrets", "s")
    assert [owner["name"] for owner in secret["metadata"]["ownerReferences"]] == ["b"]


async def test_orphaning_lets_dependents_go(cluster: Cluster, settled: Settled) -> None:
    owner = await cluster.create("configmaps", {"metadata": {"name": "o"}})
    await cluster.create("secrets", {"metadata": {"name": "s", "ownerReferences": [owner_reference(owner)]}})
    await cluster.delete("configmaps", "o", options={"propagationPolicy": "Orphan"})
    await settled()
    assert await names(cluster, "configmaps") == []
    assert "ownerReferences" not in (await cluster.get("secrets", "s"))["metadata"]


async def test_foreground_deletion_waits_for_dependents(cluster: Cluster, settled: Settled) -> None:
    owner = await cluster.create("configmaps", {"metadata": {"name": "o"}})
    meta = {
        "name": "s",
        "ownerReferences": [owner_reference(owner, block=True)],
        "finalizers": ["example.com/hold"],
    }
    await cluster.create("secrets", {"metadata": meta})
    await cluster.delete("configmaps", "o", options={"propagationPolicy": "Foreground"})
    await settled()
    assert (await cluster.get("configmaps", "o"))["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert (await cluster.get("secrets", "s"))["metadata"]["deletionTimestamp"]
    await cluster.patch("secrets", "s", {"metadata": {"finalizers": None}})
    await settled()
    assert await names(cluster, "configmaps") == []


async def test_an_object_whose_owner_never_was_is_collected(cluster: Cluster, settled: Settled) -> None:
    ghost = {"apiVersion": "v1", "kind": "ConfigMap", "name": "ghost", "uid": "no-such-uid"}
    await cluster.create("secrets", {"metadata": {"name": "s", "ownerReferences": [ghost]}})
    unknown = {"apiVersion": "x.y/v1", "kind": "Unknown", "name": "g", "uid": "no-such-uid"}
    await cluster.create("secrets", {"metadata": {"name": "kept", "ownerReferences": [unknown]}})
    await settled()
    assert await names(cluster, "secrets") == ["kept"]


async def test_a_namespace_takes_its_content_and_refuses_more(cluster: Cluster, settled: Settled) -> None:
    await cluster.create("namespaces", {"metadata": {"name": "extra"}})
    meta = {"name": "c", "namespace": "extra", "finalizers": ["example.com/hold"]}
    await cluster.create("configmaps", {"metadata": meta})
    await cluster.delete("namespaces", "extra")
    await settled()
    assert (await cluster.get("namespaces", "extra"))["status"]["phase"] == "Terminating"
    with pytest.raises(ApiError, match="because it is being terminated") as caught:
        await cluster.create("configmaps", {"metadata": {"name": "d"}}, "extra")
    assert caught.value.code == 403
    await cluster.patch("configmaps", "c", {"metadata": {"finalizers": None}}, "extra")
    await settled()
    assert "extra" not in await names(cluster, "namespaces")


async def test_an_empty_namespace_stays_a_moment_and_refuses_content_meanwhile() -> None:
    """As on a real cluster, where nobody sees 404 at once: whoever still writes there is told 403."""
    cluster = Cluster(None, namespace_seconds=0.1)
    await cluster.create("namespaces", {"metadata": {"name": "brief"}})
    await cluster.delete("namespaces", "brief")
    await asyncio.sleep(0.02)
    for content in ("configmaps", "secrets"):
        with pytest.raises(ApiError, match="because it is being terminated") as caught:
            await cluster.create(content, {"metadata": {"name": "d"}}, "brief")
        assert caught.value.code == 403
    await asyncio.sleep(0.15)
    assert "brief" not in await names(cluster, "namespaces")
    cluster.close()


async def test_the_default_namespace_stays(cluster: Cluster) -> None:
    with pytest.raises(ApiError, match="this namespace may not be deleted"):
        await cluster.delete("namespaces", "default")


async def test_a_claim_in_use_waits_for_its_pod(cluster: Cluster, pod: Json, settled: Settled) -> None:
    claim = {
        "metadata": {"name": "work"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    await cluster.create("persistentvolumeclaims", claim)
    pod["spec"]["volumes"] = [{"name": "w", "persistentVolumeClaim": {"claimName": "work"}}]
    await bound(cluster, pod)
    await cluster.delete("persistentvolumeclaims", "work")
    await settled()
    assert await names(cluster, "persistentvolumeclaims") == ["work"]
    await cluster.delete("pods", "web", options={"gracePeriodSeconds": 0})
    await settled()
    assert await names(cluster, "persistentvolumeclaims") == []


async def test_deleting_a_definition_takes_its_objects(
    cluster: Cluster, make_definition: Any, settled: Settled
) -> None:
    crds = "customresourcedefinitions.apiextensions.k8s.io"
    await cluster.create(crds, make_definition({}))
    await cluster.create(
        "widgets.example.com", {"metadata": {"name": "w", "finalizers": ["example.com/hold"]}}
    )
    await cluster.delete(crds, "widgets.example.com")
    await settled()
    assert (await cluster.get("widgets.example.com", "w"))["metadata"]["deletionTimestamp"]
    await cluster.patch("widgets.example.com", "w", {"metadata": {"finalizers": []}})
    await settled()
    assert await names(cluster, crds) == []
    with pytest.raises(ApiError, match="is its CustomResourceDefinition installed"):
        await cluster.list("widgets.example.com")


async def test_half_done_deletions_go_on_after_a_restart(tmp_path: Any, settled: Settled) -> None:
    cluster = Cluster(tmp_path)
    owner = await cluster.create("configmaps", {"metadata": {"name": "o"}})
    await cluster.create("secrets", {"metadata": {"name": "s", "ownerReferences": [owner_reference(owner)]}})
    await cluster.delete("configmaps", "o")
    cluster.garbage_collector._queue.clear()  # the process dies before the collector has its turn
    cluster.close()
    again = Cluster(tmp_path)
    await settled()
    assert await names(again, "secrets") == []
    again.close()
