"""Triggers: they can be made again from what they store, say what they see, and end their task themselves."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent
from kaito.hooks import kubernetes as hooks
from kaito.hooks.api import NODE, POD, STATEFUL_SET, WORKSPACE, ClusterError, Request
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.triggers import base
from kaito.triggers.base import Observation, WorkspaceTrigger
from kaito.triggers.rollout import RolloutReadyTrigger

from include.reconcile.pod_problems import STUCK_AFTER
from include.workspace.status import conditions, startup
from tests.support.fake_cluster import FakeCalls, FakeCluster
from tests.support.node_claims import claim, node, ready_claim
from tests.support.rollouts import pod, stateful_set
from tests.support.triggers import NAME, WHICH, ending, given_up, in_run, own_claim, pool_trigger


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    monkeypatch.setattr(base, "AsyncKaitoClusterHook", lambda conn_id: FakeCalls(cluster))
    monkeypatch.setattr(hooks.AsyncKaitoClusterHook, "find", None)


@pytest.mark.parametrize("trigger", [pool_trigger(), RolloutReadyTrigger(**WHICH)])
def test_a_trigger_is_made_again_from_what_it_stores(trigger: WorkspaceTrigger) -> None:
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**arguments)
    assert again.serialize() == trigger.serialize()


def test_a_trigger_that_could_not_be_made_again_is_refused_at_import() -> None:
    with pytest.raises(TypeError, match="keyword-only"):

        class Loose(WorkspaceTrigger):
            def __init__(self, name: str) -> None: ...

    with pytest.raises(TypeError, match="top of its module"):

        class Local(WorkspaceTrigger):
            def __init__(self, *, name: str) -> None: ...


async def test_ready_nodes_end_the_wait_well(cluster: FakeCluster) -> None:
    cluster.add(NODE_CLAIM, own_claim(ready_claim("a", "n1")))
    cluster.add(NODE, node("n1"))
    event = await ending(pool_trigger())
    assert isinstance(event, TaskSuccessEvent)
    assert event.xcoms["return_value"]["nodes"] == ["n1"]
    assert cluster.condition(NAME, "ResourceReady")["status"] == "True"


async def test_a_cloud_that_cannot_ends_the_wait_at_once_with_its_words(cluster: FakeCluster) -> None:
    cluster.add(
        NODE_CLAIM, own_claim(claim("a", Launched=("Unknown", "LaunchFailed", "QuotaExceeded: 0 cores left")))
    )
    event = await ending(pool_trigger())
    assert given_up(event) == "quota: NodeClaim a: QuotaExceeded: 0 cores left"
    assert event.payload == {
        "message": given_up(event),
        "reason": "LaunchFailed",
        "offer": "Standard_NC6s_v3",
        "missing": False,
        "unavailable": True,
    }
    assert cluster.condition(NAME, "ResourceReady") == {}, "others may be asked for"


async def test_the_time_limit_says_what_was_last_seen(cluster: FakeCluster) -> None:
    cluster.add(
        NODE_CLAIM, own_claim(claim("a", Launched="True", Registered=("Unknown", "NodeNotFound", "booting")))
    )
    assert given_up(await ending(pool_trigger(timeout_seconds=0.0)))
    message = cluster.condition(NAME, "WorkspaceSucceeded")["message"]
    assert "not ready after 0 s" in message
    assert "booting" in message


async def test_an_unreachable_api_is_waited_for_and_a_refusal_is_not(cluster: FakeCluster) -> None:
    cluster.refuse["list", "nodeclaims"] = ClusterError(403, "Forbidden", "nodeclaims is forbidden")
    assert given_up(await ending(pool_trigger()))
    assert "forbidden" in cluster.condition(NAME, "WorkspaceSucceeded")["message"]
    cluster.refuse["list", "nodeclaims"] = ClusterError(503, "ServiceUnavailable", "starting")
    assert given_up(await ending(pool_trigger(timeout_seconds=0.05)))
    assert "trying again: starting" in cluster.condition(NAME, "WorkspaceSucceeded")["message"]


async def test_a_ready_service_ends_the_wait_well(cluster: FakeCluster) -> None:
    ready = stateful_set(ready=1)
    cluster.add(STATEFUL_SET, ready)
    assert isinstance(await ending(RolloutReadyTrigger(**WHICH)), TaskSuccessEvent)
    assert cluster.condition(NAME, "InferenceReady")["status"] == "True"


async def test_a_service_that_cannot_start_fails_with_the_reason(cluster: FakeCluster) -> None:
    cluster.add(STATEFUL_SET, stateful_set())
    waiting = {
        "name": "serving",
        "state": {"waiting": {"reason": "InvalidImageName", "message": "no such form"}},
    }
    broken = pod(containerStatuses=[waiting])
    broken["metadata"]["labels"] = {"kaito.sh/workspace": NAME, "kaito.sh/component": "serving"}
    cluster.add(POD, broken)
    assert isinstance(await ending(RolloutReadyTrigger(**WHICH)), TaskFailedEvent)
    assert cluster.condition(NAME, "InferenceReady")["reason"] == "ImagePullError"


@pytest.fixture
def logs(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[Request]]:
    """What the log of a starting server says at each look, the last for ever, and the requests for it."""
    told: list[str] = []
    requests: list[Request] = []

    @asynccontextmanager
    async def stream(_: FakeCalls, request: Request) -> AsyncIterator[SimpleNamespace]:
        requests.append(request)

        async def text(errors: str) -> str:
            return f"downloading org/model at main\n  {told.pop(0) if len(told) > 1 else told[0]}\n"

        yield SimpleNamespace(text=text)

    monkeypatch.setattr(FakeCalls, "stream", stream, raising=False)
    cluster.add(STATEFUL_SET, stateful_set())
    starting = pod(containerStatuses=[{"name": "serving", "ready": False, "state": {"running": {}}}])
    starting["metadata"]["labels"] = {"kaito.sh/workspace": NAME, "kaito.sh/component": "serving"}
    cluster.add(POD, starting)
    return told, requests


async def test_a_server_that_downloads_says_how_far_it_is(
    cluster: FakeCluster, logs: tuple[list[str], list[Request]]
) -> None:
    logs[0].append("512 of 2048 MiB (25%), 100 MiB/s, about 15 s left")
    await ending(RolloutReadyTrigger(**{**WHICH, "timeout_seconds": 0.05}))
    message = cluster.condition(NAME, "InferenceReady")["message"]
    assert "serving is running, downloading the weights: 512 of 2048 MiB (25%), 100 MiB/s" in message
    (request,) = logs[1]
    assert request.path.endswith(f"/pods/{NAME}-0/log")
    assert ("container", "serving") in request.query, "a pod with a sidecar has more than one log"
    assert "progress" not in cluster.objects["workspaces", "default", NAME]["status"], "the wait is over"


async def test_the_status_shows_a_download_and_is_written_only_when_it_has_moved(
    cluster: FakeCluster, logs: tuple[list[str], list[Request]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaito.triggers.startup.LOG_SECONDS", 0.0)
    percents = [*range(20, 35), 34]
    logs[0].extend(f"{p} of 100 MiB ({p}%), {p} MiB/s, about {100 - p} s left" for p in percents)
    written: list[Any] = []
    real = startup.written

    def record(status: Any, told: Any) -> Any:
        written.append(told and told["percent"])
        return real(status, told)

    monkeypatch.setattr("kaito.triggers.base.startup.written", record)
    seen: list[Any] = []

    async def progress(*_: Any) -> Any:
        stored = cluster.objects["workspaces", "default", NAME]["status"]
        seen.append(stored.get("progress"))
        if len(seen) > len(percents):
            cluster.add(STATEFUL_SET, stateful_set(ready=1))
        return await real_sleep(0)

    real_sleep = asyncio.sleep
    monkeypatch.setattr("kaito.triggers.base.asyncio.sleep", progress)
    await ending(RolloutReadyTrigger(**WHICH))
    assert written == [20, 25, 30, None]
    assert seen[0] == {
        "stage": "downloading the weights", "step": 20, "total": 100, "percent": 20, "etaSeconds": 80.0,
    }  # fmt: skip
    assert "progress" not in cluster.objects["workspaces", "default", NAME]["status"]


async def test_an_image_that_cannot_be_pulled_for_long_ends_the_wait(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STUCK_AFTER, "ImagePullError", 0.05)
    cluster.add(STATEFUL_SET, stateful_set())
    waiting = {"name": "serving", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "401"}}}
    broken = pod(containerStatuses=[waiting])
    broken["metadata"]["labels"] = {"kaito.sh/workspace": NAME, "kaito.sh/component": "serving"}
    cluster.add(POD, broken)
    assert isinstance(await ending(RolloutReadyTrigger(**WHICH)), TaskFailedEvent)
    assert "401" in cluster.condition(NAME, "WorkspaceSucceeded")["message"]


class Scripted(WorkspaceTrigger):
    """Sees what the test wrote down."""

    phases = (conditions.Phase.NODES_READY, conditions.Phase.NODES_PENDING, conditions.Phase.NODES_FAILED)
    script: tuple[Observation, ...] = ()

    async def observe(self, hook: Any) -> Observation:
        first, *rest = type(self).script
        type(self).script = tuple(rest)
        return first


async def test_news_is_said_once(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    booting = Observation(False, "booting", notes=("pulling the image",))
    Scripted.script = (booting, booting, Observation(True, "ready"))
    trigger, lines = Scripted(**WHICH), []
    for level in ("info", "warning", "error"):
        monkeypatch.setattr(trigger.log, level, lambda text, *args: lines.append(text % args))
    assert isinstance(await ending(trigger), TaskSuccessEvent)
    assert lines[1:] == ["pulling the image", "booting", "ready"]


GOING = {"deletionTimestamp": "2026-11-23T00:00:00Z", "generation": 2}


@pytest.mark.parametrize(
    ("run_id", "change", "words"),
    [
        ("default.w.0123abcd.g1", {"generation": 3}, "superseded by generation 3"),
        ("default.w.0123abcd.g1.r2", {"generation": 3}, "superseded by generation 3"),
        ("default.w.0123abcd.g1", {"uid": "4567abcd-0000"}, "made again"),
        ("default.w.0123abcd.g1", GOING, "being deleted"),
        ("by-hand", GOING, "being deleted"),
        ("by-hand", None, "was deleted"),
    ],
)
async def test_a_wait_whose_workspace_moved_on_ends_at_once_and_writes_nothing(
    cluster: FakeCluster,
    run_id: str,
    change: dict[str, Any] | None,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even when the machines it waited for are ready: they may be another run's by now."""
    cluster.add(NODE_CLAIM, own_claim(ready_claim("a", "n1")))
    cluster.add(NODE, node("n1"))
    if change is None:
        cluster.objects.pop(("workspaces", "default", NAME))
    else:
        cluster.objects["workspaces", "default", NAME]["metadata"].update(change)
    trigger, lines = in_run(run_id), []
    monkeypatch.setattr(trigger.log, "error", lambda text, *args: lines.append(text % args))
    assert given_up(await ending(trigger))
    assert words in lines[0]
    assert all("status" not in obj for obj in cluster.list(WORKSPACE))


async def test_a_wait_notices_while_it_waits(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "FENCE_SECONDS", 0.0)
    booting = Observation(False, "booting")
    Scripted.script = (booting,) * 3
    trigger = Scripted(**WHICH)
    looked = trigger.observe

    async def then_edited(hook: Any) -> Observation:
        cluster.objects["workspaces", "default", NAME]["metadata"]["generation"] = 2
        return await looked(hook)

    monkeypatch.setattr(trigger, "observe", then_edited)
    assert isinstance(await ending(trigger), TaskFailedEvent)
    assert len(Scripted.script) == 2
