"""The wait for a pod ends with the pod, or with the Workspace's interest in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.triggers.base import TriggerEvent
from kaito.hooks.api import EVENT, NODE, POD, ClusterError
from kaito.triggers import workload
from kaito.triggers.workload import NODE_LOST, STUCK, SUPERSEDED, TRY_LABEL, WorkloadPodTrigger

from include.reconcile import pod_problems
from include.workspace.status.conditions import timestamp
from tests.support.fake_cluster import FakeCalls, FakeCluster

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
    return make_trigger(cluster, workspace, monkeypatch)


def make_trigger(
    cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **more: Any
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
        **more,
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


class Api:
    """The provider's client, with one pod."""

    def __init__(self, tried: str | None) -> None:
        self.tried, self.deleted = tried, []

    async def get_pod(self, name: str, namespace: str) -> Any:
        if self.tried is None:
            raise RuntimeError("not reachable")
        return SimpleNamespace(metadata=SimpleNamespace(labels={TRY_LABEL: self.tried}))

    async def delete_pod(self, *, name: str, namespace: str, **_: Any) -> None:
        self.deleted.append((namespace, name))


@pytest.mark.parametrize(("tried", "stays"), [("1", False), ("2", True), (None, False)])
async def test_when_a_user_ends_the_task_its_pod_goes_unless_a_later_try_has_it(
    trigger: WorkloadPodTrigger, tried: str | None, stays: bool
) -> None:
    trigger.hook = api = Api(tried)
    trigger._task_instance = SimpleNamespace(try_number=1)
    await trigger.on_kill()
    assert api.deleted == ([] if stays else [("default", "p")])


async def test_the_event_tells_where_the_pod_was(
    trigger: WorkloadPodTrigger, ends: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the pod is gone with its Node, nobody else knows."""
    mark = SimpleNamespace(type="DisruptionTarget", status="True")
    pod = SimpleNamespace(
        metadata=SimpleNamespace(uid="u"),
        spec=SimpleNamespace(node_name="n0"),
        status=SimpleNamespace(conditions=[mark]),
    )

    async def get_pod(self: Any) -> Any:
        return pod

    monkeypatch.setattr(KubernetesPodTrigger, "_get_pod", get_pod)
    assert await trigger._get_pod() is pod
    ends.set()
    assert await events(trigger) == [{"status": "success", "node": "n0", "evicted": True, "uid": "u"}]


def silent_node(seconds: float, status: str = "Unknown") -> dict[str, Any]:
    since = timestamp(datetime.now(UTC) - timedelta(seconds=seconds))
    told = {
        "type": "Ready",
        "status": status,
        "lastTransitionTime": since,
        "message": "Kubelet stopped posting.",
    }
    made = "2026-01-01T00:00:00Z"
    return {"metadata": {"name": "n0", "creationTimestamp": made}, "status": {"conditions": [told]}}


def sees_pod(trigger: WorkloadPodTrigger, monkeypatch: pytest.MonkeyPatch, grace: int | None) -> Any:
    """Let the trigger look at its pod once, as the provider's part of it does again and again."""
    spec = SimpleNamespace(node_name="n0", termination_grace_period_seconds=grace)
    pod = SimpleNamespace(metadata=SimpleNamespace(uid="u"), spec=spec, status=None)

    async def get_pod(self: Any) -> Any:
        return pod

    monkeypatch.setattr(KubernetesPodTrigger, "_get_pod", get_pod)
    return trigger._get_pod()


@pytest.mark.parametrize("status", ["Unknown", "False"])
async def test_a_node_that_is_silent_for_too_long_ends_the_wait(
    cluster: FakeCluster,
    workspace: dict[str, Any],
    ends: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
) -> None:
    """Its pod may be Terminating for ever: nobody is there who would confirm its end."""
    cluster.add(NODE, silent_node(331, status))
    trigger = make_trigger(cluster, workspace, monkeypatch, lost_seconds=300.0, node_seconds=0.0)
    again = WorkloadPodTrigger(**trigger.serialize()[1])
    await sees_pod(again, monkeypatch, 30)
    (event,) = await asyncio.wait_for(events(again), 30)
    assert (event["status"], event["name"], event["node"]) == (NODE_LOST, "p", "n0")
    assert event["message"].startswith("Node n0 has not been Ready since 20")
    assert event["message"].endswith("Kubelet stopped posting; taken as lost after 330 s")
    assert again._fired_event, "the pod is not the trigger's to delete"


@pytest.mark.parametrize(
    ("node", "grace", "lost_seconds"),
    [
        ((300, "Unknown"), 30, 300.0),
        ((600, "Unknown"), 400, 300.0),
        ((9999, "True"), 30, 300.0),
        ((9999, "Unknown"), 30, None),
        (None, 30, 300.0),
    ],
    ids=["not yet", "the pod's own grace", "it reports", "nobody asked", "it is gone: the pod's end tells"],
)
async def test_a_node_that_may_come_back_is_waited_for(
    cluster: FakeCluster,
    workspace: dict[str, Any],
    ends: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
    node: tuple[float, str] | None,
    grace: int,
    lost_seconds: float | None,
) -> None:
    if node:
        cluster.add(NODE, silent_node(*node))
    trigger = make_trigger(cluster, workspace, monkeypatch, lost_seconds=lost_seconds, node_seconds=0.0)
    await sees_pod(trigger, monkeypatch, grace)
    looks = workload.AsyncKaitoClusterHook("x")  # type: ignore[attr-defined]
    waiting = asyncio.create_task(events(trigger))
    while looks.looks < 20 and not waiting.done():  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    ends.set()
    (event,) = await asyncio.wait_for(waiting, 30)
    assert event["status"] == "success"


PENDING = {"metadata": {"name": "p", "namespace": "default"}, "spec": {}, "status": {"phase": "Pending"}}
REFUSED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity.",
}


async def test_the_schedulers_words_reach_the_condition_and_end_a_wait_that_costs(
    cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch, ends: asyncio.Event
) -> None:
    monkeypatch.setattr(workload, "START_SECONDS", 0.001)
    monkeypatch.setattr(pod_problems, "UNSCHEDULABLE_SECONDS", 0.05)
    waits = {"pending": "TuningPending", "working": "Tuning", "holds_machines": True}
    trigger = make_trigger(cluster, workspace, monkeypatch, **waits)
    monkeypatch.setattr(workload, "AsyncKaitoClusterHook", lambda conn_id: FakeCalls(cluster))
    stuck = {**PENDING, "status": {"phase": "Pending", "conditions": [REFUSED]}}
    cluster.add(POD, stuck)
    (event,) = await events(trigger)
    assert (event["status"], event["name"]) == (STUCK, "p")
    assert REFUSED["message"] in event["message"]
    assert REFUSED["message"] in cluster.condition(NAME, "JobStarted")["message"]
    assert cluster.condition(NAME, "JobStarted")["status"] == "False"


async def test_what_cannot_be_mounted_reaches_the_condition_and_ends_a_wait_that_costs(
    cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch, ends: asyncio.Event
) -> None:
    monkeypatch.setattr(workload, "START_SECONDS", 0.001)
    monkeypatch.setitem(pod_problems.STUCK_AFTER, "ContainerStartError", 0.05)
    waits = {"pending": "TuningPending", "working": "Tuning", "holds_machines": True}
    trigger = make_trigger(cluster, workspace, monkeypatch, **waits)
    monkeypatch.setattr(workload, "AsyncKaitoClusterHook", lambda conn_id: FakeCalls(cluster))
    cluster.add(POD, {**PENDING, "spec": {"nodeName": "gpu-0"}, "status": {"phase": "Pending"}})
    uid = cluster.objects["pods", "default", "p"]["metadata"]["uid"]
    told = {"reason": "FailedMount", "message": 'secret "push" not found', "involvedObject": {"uid": uid}}
    cluster.add(EVENT, {"metadata": {"name": "e", "namespace": "default"}, "type": "Warning", **told})
    (event,) = await events(trigger)
    sentence = 'Pod p on Node gpu-0: FailedMount: secret "push" not found'
    assert (event["status"], event["message"]) == (STUCK, sentence)
    assert sentence in cluster.condition(NAME, "JobStarted")["message"]


async def test_the_condition_says_when_the_pod_runs_and_where(
    cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch, ends: asyncio.Event
) -> None:
    monkeypatch.setattr(workload, "START_SECONDS", 0.001)
    trigger = make_trigger(cluster, workspace, monkeypatch, pending="TuningPending", working="Tuning")
    monkeypatch.setattr(workload, "AsyncKaitoClusterHook", lambda conn_id: FakeCalls(cluster))
    cluster.add(POD, {**PENDING, "spec": {"nodeName": "gpu-0"}, "status": {"phase": "Running"}})
    waiting = asyncio.create_task(events(trigger))
    async with asyncio.timeout(5):
        while cluster.condition(NAME, "JobStarted").get("status") != "True":
            await asyncio.sleep(0.005)
    assert "gpu-0" in cluster.condition(NAME, "JobStarted")["message"]
    ends.set()
    assert await waiting == [{"status": "success"}]


async def test_a_pod_that_downloads_its_model_first_says_how_far_it_is(
    cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch, ends: asyncio.Event
) -> None:
    monkeypatch.setattr(workload, "START_SECONDS", 0.001)
    monkeypatch.setattr("kaito.triggers.startup.LOG_SECONDS", 0.0)
    percents = iter([*range(20, 31), 30])
    told: list[int] = []

    @asynccontextmanager
    async def stream(_: FakeCalls, request: Any) -> AsyncIterator[SimpleNamespace]:
        now = next(percents, 30)

        async def text(errors: str) -> str:
            return f"  {now} of 100 MiB ({now}%), 1 MiB/s\n"

        yield SimpleNamespace(text=text)

    def status() -> dict[str, Any]:
        found: dict[str, Any] = cluster.objects["workspaces", "default", NAME].get("status") or {}
        if (said := found.get("progress")) and [said["percent"]] != told[-1:]:
            told.append(said["percent"])
        return found

    monkeypatch.setattr(FakeCalls, "stream", stream, raising=False)
    trigger = make_trigger(cluster, workspace, monkeypatch, pending="TuningPending", working="Tuning")
    monkeypatch.setattr(workload, "AsyncKaitoClusterHook", lambda conn_id: FakeCalls(cluster))
    loading = {"name": "weights", "ready": False, "state": {"running": {}}}
    cluster.add(POD, {**PENDING, "status": {"phase": "Pending", "initContainerStatuses": [loading]}})
    waiting = asyncio.create_task(events(trigger))
    async with asyncio.timeout(5):
        while told[-1:] != [30]:
            status()
            await asyncio.sleep(0)
        message = cluster.condition(NAME, "JobStarted")["message"]
        cluster.add(POD, {**PENDING, "spec": {"nodeName": "gpu-0"}, "status": {"phase": "Running"}})
        while "progress" in status():
            await asyncio.sleep(0)
    assert told == [20, 25, 30], "only what has moved by a step is written"
    assert "downloading the weights: 30 of 100 MiB" in message
    ends.set()
    assert await waiting == [{"status": "success"}]
