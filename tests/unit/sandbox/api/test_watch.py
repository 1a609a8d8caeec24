"""Watches: resume, selectors, forgotten history; and lists that page through one consistent state."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sandbox.api.cluster import ApiError, Cluster
from sandbox.api.http.address import Address
from sandbox.api.http.listing import listed
from sandbox.api.storage import database
from sandbox.api.storage.selectors import label_predicate
from sandbox.api.storage.watch import Watch

Json = dict[str, Any]


async def make(cluster: Cluster, name: str, **labels: str) -> str:
    made = await cluster.create("configmaps", {"metadata": {"name": name, "labels": labels}})
    return str(made["metadata"]["resourceVersion"])


def seen(events: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    return [(kind, entry.obj["metadata"]["name"]) for kind, entry in events]


async def test_resume_from_a_version(cluster: Cluster) -> None:
    await make(cluster, "a")
    version = await make(cluster, "b")
    await cluster.patch("configmaps", "a", {"data": {"x": "y"}})
    await cluster.delete("configmaps", "b")
    events = await Watch(cluster.storage, "configmaps", since=version).batch(0)
    assert seen(events) == [("MODIFIED", "a"), ("DELETED", "b")]
    revisions = [int(entry.obj["metadata"]["resourceVersion"]) for _, entry in events]
    assert revisions == sorted(revisions)
    assert revisions[0] > int(version)


async def test_a_watch_goes_on_from_a_list_of_a_kind_that_nobody_has_written(cluster: Cluster) -> None:
    address = Address(cluster.resource("secrets"), "default", None)
    version = listed(cluster, address, {}).metadata()["resourceVersion"]
    await make(cluster, "something-else")
    await cluster.create("secrets", {"metadata": {"name": "s"}})
    assert seen(await Watch(cluster.storage, "secrets", since=version).batch(0)) == [("ADDED", "s")]


async def test_without_a_version_the_present_comes_first(cluster: Cluster) -> None:
    await make(cluster, "a")
    collected = []

    async def collect() -> None:
        async for kind, obj in cluster.watch("configmaps", "default"):
            collected.append((kind, obj["metadata"]["name"]))
            if len(collected) == 2:
                return

    task = asyncio.create_task(collect())
    await asyncio.sleep(0)
    await make(cluster, "b")
    await asyncio.wait_for(task, 30)
    assert collected == [("ADDED", "a"), ("ADDED", "b")]


async def test_objects_enter_and_leave_a_selection(cluster: Cluster) -> None:
    version = await make(cluster, "a", app="x")
    watch = Watch(cluster.storage, "configmaps", since=version, matches=label_predicate("app=x"))
    for labels in ({"app": "y"}, {"app": "z"}, {"app": "x"}):
        await cluster.patch("configmaps", "a", {"metadata": {"labels": labels}})
    await cluster.delete("configmaps", "a")
    assert seen(await watch.batch(0)) == [("DELETED", "a"), ("ADDED", "a"), ("DELETED", "a")]


async def test_too_old_versions_expire(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "HISTORY", 5)
    version = await make(cluster, "a")
    for number in range(20):
        await cluster.patch("configmaps", "a", {"data": {"n": str(number)}})
    with pytest.raises(ApiError, match="too old resource version") as caught:
        Watch(cluster.storage, "configmaps", since=version)
    assert (caught.value.code, caught.value.reason) == (410, "Expired")


async def test_a_watch_left_behind_expires(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "HISTORY", 5)
    version = await make(cluster, "a")
    watch = Watch(cluster.storage, "configmaps", since=version)
    for number in range(20):
        await cluster.patch("configmaps", "a", {"data": {"n": str(number)}})
    with pytest.raises(ApiError, match="too old resource version"):
        await watch.batch(0)


async def test_a_restart_forgets_history(tmp_path: Any) -> None:
    cluster = Cluster(tmp_path)
    version = await make(cluster, "a")
    await make(cluster, "b")
    cluster.close()
    again = Cluster(tmp_path)
    with pytest.raises(ApiError, match="too old resource version"):
        Watch(again.storage, "configmaps", since=version)
    again.close()


async def test_a_bookmark_never_promises_what_was_not_sent(cluster: Cluster) -> None:
    version = await make(cluster, "a")
    watch = Watch(cluster.storage, "configmaps", since=version)
    await make(cluster, "b")
    assert watch.reached() == int(version)
    await watch.batch(0)
    await cluster.create("secrets", {"metadata": {"name": "other"}})
    assert watch.reached() == cluster.storage.revision


async def test_pages_are_of_one_state(cluster: Cluster) -> None:
    for name in "abcde":
        await make(cluster, name)
    address = Address(cluster.resource("configmaps"), "default", None)
    first = listed(cluster, address, {"limit": "2"})
    await make(cluster, "aa")
    await cluster.delete("configmaps", "d")
    await cluster.patch("configmaps", "e", {"data": {"new": "1"}})
    found, page = list(first.entries), first
    while page.token:
        page = listed(cluster, address, {"limit": "2", "continue": page.token})
        found += page.entries
    assert [entry.obj["metadata"]["name"] for entry in found] == list("abcde")
    assert "data" not in found[-1].obj
    assert first.remaining == 3
    assert page.revision == first.revision


async def test_expired_pages_say_so(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "HISTORY", 2)
    for name in "abc":
        await make(cluster, name)
    address = Address(cluster.resource("configmaps"), "default", None)
    first = listed(cluster, address, {"limit": "1"})
    for number in range(10):
        await cluster.patch("configmaps", "a", {"data": {"n": str(number)}})
    with pytest.raises(ApiError, match="continue parameter is too old") as caught:
        listed(cluster, address, {"limit": "1", "continue": first.token})
    assert caught.value.code == 410


async def test_versions_of_the_future_time_out(cluster: Cluster) -> None:
    address = Address(cluster.resource("configmaps"), None, None)
    with pytest.raises(ApiError, match="Too large resource version: 999999") as caught:
        listed(cluster, address, {"resourceVersion": "999999", "resourceVersionMatch": "NotOlderThan"})
    assert caught.value.code == 504
