"""Evictions: the mark that they leave, dry runs, and the budgets that refuse them."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.api.cluster import ApiError, Cluster
from sandbox.api.writes.eviction import evict

Json = dict[str, Any]
BUDGETS = "poddisruptionbudgets.policy"


async def running(cluster: Cluster, name: str, ready: bool = True) -> None:
    """A pod on a node, so that its deletion takes its grace period."""
    container = {"name": "main", "image": "busybox"}
    meta = {"name": name, "labels": {"app": "web"}}
    made = await cluster.create(
        "pods", {"metadata": meta, "spec": {"nodeName": "n", "containers": [container]}}
    )
    state = {"type": "Ready", "status": "True" if ready else "False"}
    made["status"] |= {"phase": "Running", "conditions": [state]}
    await cluster.update("pods", made, subresource="status")


async def budget(cluster: Cluster, **spec: Any) -> None:
    body = {"metadata": {"name": "b"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec}}
    await cluster.create(BUDGETS, body, "default")


async def test_an_evicted_pod_is_marked_and_ends_within_its_grace(cluster: Cluster) -> None:
    await running(cluster, "web")
    await cluster.create("pods/eviction", {"metadata": {"name": "web"}}, "default")
    pod = await cluster.get("pods", "web")
    mark = next(c for c in pod["status"]["conditions"] if c["type"] == "DisruptionTarget")
    assert (mark["status"], mark["reason"], mark["message"]) == (
        "True",
        "EvictionByEvictionAPI",
        "Eviction API: evicting",
    )
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 30


async def test_a_dry_run_changes_nothing(cluster: Cluster) -> None:
    await running(cluster, "web")
    before = await cluster.get("pods", "web")
    evict(cluster, ("default", "web"), {"metadata": {"name": "web"}}, dry_run=True)
    assert await cluster.get("pods", "web") == before


@pytest.mark.parametrize(
    ("spec", "needed"), [({"minAvailable": 2}, 2), ({"maxUnavailable": 0}, 2), ({"minAvailable": "51%"}, 2)]
)
async def test_a_budget_refuses(cluster: Cluster, spec: Json, needed: int) -> None:
    await budget(cluster, **spec)
    for name in ("a", "b"):
        await running(cluster, name)
    with pytest.raises(
        ApiError, match="Cannot evict pod as it would violate the pod's disruption budget"
    ) as caught:
        await cluster.create("pods/eviction", {"metadata": {"name": "a"}}, "default")
    assert (caught.value.code, caught.value.reason) == (429, "TooManyRequests")
    assert caught.value.details["causes"][0]["message"] == (
        f"The disruption budget b needs {needed} healthy pods and has 2 currently"
    )
    assert "deletionTimestamp" not in (await cluster.get("pods", "a"))["metadata"]


async def test_a_budget_that_is_met_lets_one_go_and_then_no_more(cluster: Cluster) -> None:
    await budget(cluster, minAvailable=1)
    for name in ("a", "b"):
        await running(cluster, name)
    await cluster.create("pods/eviction", {"metadata": {"name": "a"}}, "default")
    with pytest.raises(ApiError, match="disruption budget"):
        await cluster.create("pods/eviction", {"metadata": {"name": "b"}}, "default")


async def test_an_unready_pod_may_go_where_the_budget_says_so(cluster: Cluster) -> None:
    await budget(cluster, minAvailable=1, unhealthyPodEvictionPolicy="AlwaysAllow")
    await running(cluster, "a", ready=False)
    await cluster.create("pods/eviction", {"metadata": {"name": "a"}}, "default")
    assert (await cluster.get("pods", "a"))["metadata"]["deletionTimestamp"]
