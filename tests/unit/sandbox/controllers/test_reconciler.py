"""The work queue and the feeds."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from sandbox.api.cluster import ApiError
from sandbox.controllers.reconciler import Controller, Feeds


class Recorder(Controller):
    """Notes what it is asked to do; `work` is what it does."""

    resource = "configmaps"

    def __init__(self, cluster, feeds):
        super().__init__(cluster, feeds)
        self.seen = []
        self.work = None

    async def reconcile(self, key):
        self.seen.append(key)
        return await self.work(key) if self.work else None


@asynccontextmanager
async def running(*parts):
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def eventually(check, seconds=30.0):
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.005)


def config_map(name):
    return {"metadata": {"name": name}}


async def test_present_and_new_objects_are_reconciled(cluster, feeds):
    controller = Recorder(cluster, feeds)
    await cluster.create("configmaps", config_map("old"), "default")
    async with running(feeds, controller):
        await eventually(lambda: ("default", "old") in controller.seen)
        await cluster.create("configmaps", config_map("new"), "default")
        await eventually(lambda: ("default", "new") in controller.seen)


async def test_a_burst_of_changes_is_one_more_round(cluster, feeds):
    controller, gate = Recorder(cluster, feeds), asyncio.Event()

    async def wait(_key):
        await gate.wait()

    controller.work = wait
    async with running(controller):
        controller.enqueue(("default", "a"))
        await eventually(lambda: controller.seen)
        for _ in range(5):
            controller.enqueue(("default", "a"))
        gate.set()
        await eventually(lambda: len(controller.seen) == 2)
        await asyncio.sleep(0.05)  # a third would come now
    assert len(controller.seen) == 2


async def test_one_key_is_never_worked_on_twice_at_a_time(cluster, feeds):
    controller, now, most = Recorder(cluster, feeds), 0, 0

    async def work(_key):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    controller.work = work
    async with running(controller):
        for _ in range(4):
            controller.enqueue(("default", "a"))
            await asyncio.sleep(0.004)
        await asyncio.sleep(0.05)
    assert most == 1


async def test_a_failure_is_tried_again(cluster, feeds):
    controller = Recorder(cluster, feeds)

    async def fail_twice(_key):
        if len(controller.seen) < 3:
            raise ApiError(409, "Conflict", "changed meanwhile")

    controller.work = fail_twice
    async with running(controller):
        controller.enqueue(("default", "a"))
        await eventually(lambda: len(controller.seen) == 3)


async def test_a_result_asks_to_be_called_again(cluster, feeds):
    controller = Recorder(cluster, feeds)

    async def again(_key):
        return 0.01 if len(controller.seen) < 3 else None

    controller.work = again
    async with running(controller):
        controller.enqueue(("default", "a"))
        await eventually(lambda: len(controller.seen) == 3)


class ForgetfulCluster:
    """A cluster whose watch is always too old, so that only lists tell the truth."""

    def __init__(self, cluster):
        self._cluster = cluster

    async def list(self, resource):
        return await self._cluster.list(resource)

    async def watch(self, resource, since=None):
        await asyncio.sleep(0.01)
        raise ApiError(410, "Expired", "too old")
        yield


async def test_deletions_are_noticed_even_when_every_watch_is_too_old(cluster):
    feeds, heard = Feeds(ForgetfulCluster(cluster)), []
    feeds.subscribe("configmaps", lambda event, obj: heard.append((event, obj["metadata"]["name"])))
    await cluster.create("configmaps", config_map("a"), "default")
    async with running(feeds):
        await eventually(lambda: ("SYNC", "a") in heard)
        await cluster.delete("configmaps", "a", "default")
        await eventually(lambda: ("DELETED", "a") in heard)


async def test_objects_are_told_again_after_the_resync_time(cluster):
    feeds, heard = Feeds(cluster, resync=0.02), []
    feeds.subscribe("configmaps", lambda event, obj: heard.append(event))
    await cluster.create("configmaps", config_map("a"), "default")
    async with running(feeds):
        await eventually(lambda: heard.count("SYNC") >= 3)


@pytest.mark.parametrize("event", ["ADDED", "MODIFIED", "DELETED"])
async def test_a_listener_that_breaks_does_not_break_the_feed(cluster, feeds, event):
    heard = []

    def broken(_event, _obj):
        raise RuntimeError("no")

    feeds.subscribe("configmaps", broken)
    feeds.subscribe("configmaps", lambda e, _obj: heard.append(e))
    async with running(feeds):
        await asyncio.sleep(0.02)
        await cluster.create("configmaps", config_map("a"), "default")
        await cluster.patch("configmaps", "a", {"data": {"x": "y"}}, "default")
        await cluster.delete("configmaps", "a", "default")
        await eventually(lambda: event in heard)
