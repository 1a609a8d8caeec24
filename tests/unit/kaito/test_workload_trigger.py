"""The wait for a pod ends with the pod, or with the Workspace's interest in it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.triggers.base import TriggerEvent
from kaito.hooks.api import ClusterError
from kaito.triggers import workload
from kaito.triggers.workload import SUPERSEDED, WorkloadPodTrigger

from tests.unit.kaito.conftest import FakeCluster

NAME = "workspace-tuning-phi-3"


class AsyncFind:
    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster, self.looks = cluster, 0

    async def find(self, *which: Any) -> Any:
        self.looks += 1
        if self.looks == 1:
            raise ClusterError(503, "ServiceUnavailable", "a moment")
        return self.cluster.find(*which)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when the pod is to end; the provider's part of the wait is replaced."""
    done = asyncio.Event()

    async def run(self: Any) -> Any:
        await done.wait()
        yield TriggerEvent({"status": "success"})

    monkeypatch.setattr(KubernetesPodTrigger, "run", run)
    return done


@pytest.fixture
def trigger(
    cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> WorkloadPodTrigger:
    hook = AsyncFind(cluster)
    monkeypatch.setattr(workload, "AsyncKaitoClusterHook", lambda conn_id: hook)
    return WorkloadPodTrigger(
        workspace=NAME,
        workspace_uid=workspace["metadata"]["uid"],
        generation=1,
        fence_seconds=0.0,
        pod_name="p",
        pod_namespace="default",
        trigger_start_time=datetime.now(UTC),
        base_container_name="tuning",
    )


async def events(trigger: WorkloadPodTrigger) -> list[dict[str, Any]]:
    return [event.payload async for event in trigger.run()]


async def test_the_pods_end_is_the_providers_event(trigger: WorkloadPodTrigger, ends: asyncio.Event) -> None:
    asyncio.get_running_loop().call_later(0.01, ends.set)
    assert await events(trigger) == [{"status": "success"}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generation": 2}, "superseded by generation 2"),
        ({"deletionTimestamp": "2026-11-23T00:00:00Z", "generation": 2}, "being deleted"),
    ],
)
async def test_a_workspace_that_moves_on_ends_the_wait_for_a_pod_that_goes_on(
    trigger: WorkloadPodTrigger, ends: asyncio.Event, cluster: FakeCluster, change: dict[str, Any], words: str
) -> None:
    metadata = cluster.objects["workspaces", "default", NAME]["metadata"]
    asyncio.get_running_loop().call_later(0.01, metadata.update, change)
    (event,) = await events(trigger)
    assert (event["status"], event["name"], event["namespace"]) == (SUPERSEDED, "p", "default")
    assert words in event["message"]


async def test_nothing_is_left_running_when_the_triggerer_stops_the_wait(
    trigger: WorkloadPodTrigger, ends: asyncio.Event
) -> None:
    before = asyncio.all_tasks()
    waiting = asyncio.create_task(events(trigger))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() <= before
