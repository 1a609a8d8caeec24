"""The wait for changes over a real API server (the sandbox's, in this process)."""

from __future__ import annotations

import asyncio
import copy
import importlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
import yaml
from airflow.triggers.base import TaskSkippedEvent, TaskSuccessEvent, TriggerEvent
from kaito.controller import initial_status
from kaito.controller.cache import ClusterView
from kaito.controller.dispatch import Dispatch
from kaito.controller.leader_election import DONE, NAME
from kaito.controller.snapshot import FEW
from kaito.hooks import api
from kaito.hooks.api import CONFIG_MAP, CRD, EVENT, LEASE, NODE, POD, WORKSPACE, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.triggers import changes
from kaito.triggers.changes import WorkspaceChangesTrigger

from include.workspace import workspace_crd
from include.workspace.api import names
from include.workspace.status.conditions import (
    ConditionType,
    Reason,
    condition,
    moment,
    set_condition,
    timestamp,
)
from sandbox.cloud import crds
from tests.support.api_server import Sandbox

#: Longer than any of these waits takes.
SOON = 20.0
#: The status of a Workspace whose author was told something.
TOLD = {
    "conditions": set_condition(
        (), ConditionType.WORKSPACE_READY, False, Reason.PENDING, "m", 1, datetime(2026, 11, 23, tzinfo=UTC)
    )
}


class Watched:
    """A cluster, and triggers that wait for changes in it."""

    def __init__(self, sandbox: Sandbox, hook: AsyncKaitoClusterHook) -> None:
        self.sandbox, self.hook = sandbox, hook
        self.requests: list[api.Request] = []

    async def find(self, name: str) -> dict[str, Any]:
        found = await self.hook.find(WORKSPACE, name, "default")
        assert found is not None
        return found

    async def workspace(
        self, name: str, preset: str = "phi-3-mini-128k-instruct", **changed: Any
    ) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "default", "finalizers": [names.FINALIZER], **changed}
        document = {
            "apiVersion": "kaito.sh/v1beta1",
            "kind": "Workspace",
            "metadata": metadata,
            "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"a": "b"}}},
            "inference": {"preset": {"name": preset}, "config": "settings"},
        }
        made: dict[str, Any] = await self.hook.send(api.create(WORKSPACE, document))
        return made

    async def pod(self, name: str, workspace: str) -> None:
        labels = {names.WORKSPACE: workspace, names.COMPONENT: "serving"}
        metadata = {"name": name, "namespace": "default", "labels": labels}
        spec = {"containers": [{"name": "c", "image": "i"}]}
        await self.hook.send(
            api.create(POD, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        )

    async def done(self, event: TriggerEvent) -> None:
        """What a reconcile task leaves that did its work."""
        note = {"metadata": {"annotations": {DONE: given(event)["token"]}}}
        await self.hook.send(api.merge_patch(LEASE, NAME, "default", note))

    async def wait(self, seconds: float = SOON, **arguments: Any) -> TriggerEvent:
        """One wait, from its start to its event."""
        trigger = WorkspaceChangesTrigger(
            kubernetes_conn_id="c", **{"resync_seconds": 300.0, "quiet_seconds": 0.05, **arguments}
        )
        async with asyncio.timeout(seconds):
            events = [event async for event in trigger.run()]
        assert len(events) == 1
        return events[0]

    @property
    def lists(self) -> list[str]:
        """The paths that were listed, watches aside."""
        return [r.path for r in self.requests if ("limit", "100") in r.query]


def given(event: TriggerEvent) -> dict[str, Any]:
    assert isinstance(event, TaskSuccessEvent), event
    dispatch = Dispatch.from_xcom(event.xcoms)  # as the task reads it
    assert dispatch is not None
    found = dispatch.model_dump()
    return found if dispatch.keys is None else {**found, "keys": list(dispatch.keys)}


@pytest_asyncio.fixture
async def cluster(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    config = yaml.safe_load(sandbox.kubeconfig.read_text())
    monkeypatch.setattr(changes, "_VIEWS", {})
    monkeypatch.setattr(changes, "_LEASES", {})
    async with AsyncKaitoClusterHook(conn_id=None, config_dict=config).connected() as hook:
        watched = Watched(sandbox, hook)

        class Remembering(AsyncKaitoClusterHook):
            def __init__(self, conn_id: str) -> None:
                super().__init__(conn_id=None, config_dict=config)

            async def _text(self, request: api.Request) -> bytes:
                watched.requests.append(request)
                return await super()._text(request)

        monkeypatch.setattr(changes, "AsyncKaitoClusterHook", Remembering)
        for definition in (workspace_crd(), *crds.definitions()):
            await hook.send(api.create(CRD, definition))
        yield watched


def test_a_trigger_is_made_again_from_what_it_stores() -> None:
    trigger = WorkspaceChangesTrigger(kubernetes_conn_id="c", resync_seconds=7.0)
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    assert getattr(importlib.import_module(module), name)(**arguments).serialize() == (path, arguments)


async def test_the_first_look_is_at_everything(cluster: Watched) -> None:
    await cluster.workspace("a")
    found = given(await cluster.wait())
    assert found["keys"] is None
    assert "first look" in found["reason"]


async def test_a_new_workspace_ends_the_wait(cluster: Watched) -> None:
    waiting = asyncio.create_task(cluster.wait())
    while (
        changes._VIEWS.get("c", ClusterView()).resynced is None
    ):  # every kind was listed, and nothing was there
        await asyncio.sleep(0.01)
    await cluster.workspace("a")
    found = given(await waiting)
    assert found["keys"] == [("default", "a")]
    assert found["reason"] == "default/a (it is new)"


async def test_a_new_workspace_has_its_initial_status_when_the_wait_ends(cluster: Watched) -> None:
    await cluster.workspace("a", finalizers=[])
    found = given(await cluster.wait())
    assert found["keys"] is None  # the rest is the task's, as without an initial status
    seen = await cluster.find("a")
    assert seen["metadata"]["finalizers"] == []  # nothing was made that would have to be released
    told = condition(seen["status"], ConditionType.WORKSPACE_READY) or {}
    assert (told["status"], told["reason"]) == ("False", Reason.FAILED)
    assert "settings" in told["message"]  # the ConfigMap that it names, and that is not there
    events = [e for e in await cluster.hook.list(EVENT, "default") if e["involvedObject"]["name"] == "a"]
    assert [e["count"] for e in events if e["type"] == "Warning"] == [1]


async def test_a_burst_has_its_initial_statuses_before_it_is_dispatched(cluster: Watched) -> None:
    for number in range(FEW + 3):
        await cluster.workspace(f"w{number}")
    await cluster.wait()
    found = await cluster.hook.list(WORKSPACE, "default")
    assert len([w for w in found if w["status"]["conditions"]]) == FEW + 3


async def test_who_was_told_something_is_left_to_the_task(cluster: Watched) -> None:
    made = await cluster.workspace("a")
    before = await cluster.hook.send(api.status_patch(WORKSPACE, made, TOLD))
    await cluster.wait()
    assert await cluster.find("a") == before


async def test_who_names_a_model_of_the_hub_is_left_to_the_task(
    cluster: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaito.lookup.hub_lookup", lambda: True)
    monkeypatch.setattr("include.catalog.hub.resolve", lambda *_, **__: pytest.fail("the hub was asked"))
    before = await cluster.workspace("a", preset="some-org/some-model")
    assert given(await cluster.wait())["keys"] is None
    assert await cluster.find("a") == before


async def test_initial_statuses_that_cannot_be_said_hold_nothing_up(
    cluster: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await cluster.workspace("a")
    looks: list[Any] = []

    async def broken(self: Any, keys: Any) -> None:
        looks.append(keys)
        if len(looks) > 1:
            await asyncio.sleep(60)
        raise ClusterError(500, "InternalError", "no luck")

    monkeypatch.setattr(initial_status, "INITIAL_STATUS_SECONDS", 0.5)
    monkeypatch.setattr(initial_status.InitialStatusReconciler, "run", broken)
    for _ in range(2):  # it fails, and it hangs
        assert given(await cluster.wait())["keys"] is None
        changes._VIEWS["c"].forget()
    assert looks == [[("default", "a")]] * 2  # asked once in each wait
    assert await cluster.find("a") == before


async def test_a_burst_is_one_hand_out(cluster: Watched) -> None:
    await cluster.workspace("first")
    await cluster.done(await cluster.wait())
    waiting = asyncio.create_task(cluster.wait(quiet_seconds=0.5, longest_seconds=5.0))
    for number in range(12):
        await cluster.workspace(f"w{number}")
    found = given(await waiting)
    assert len({key for key in found["keys"] if key[1] != "first"}) == 12
    assert "more" in found["reason"]


async def test_changes_between_two_waits_are_not_missed_and_nothing_is_listed_again(cluster: Watched) -> None:
    await cluster.workspace("a")
    await cluster.done(await cluster.wait())
    listed = len(cluster.lists)
    await cluster.pod("a-0", "a")
    found = given(await cluster.wait())
    assert found["keys"] == [("default", "a")]
    assert found["reason"] == "default/a (pod a-0 is new)"
    again = cluster.lists[listed:]
    assert again == [CONFIG_MAP.path()]  # which is only watched since a Workspace names one


async def test_a_config_map_that_is_named_is_watched_without_its_contents(cluster: Watched) -> None:
    await cluster.workspace("a")
    await cluster.done(await cluster.wait())
    waiting = asyncio.create_task(cluster.wait())
    while "configmaps" not in changes._VIEWS["c"].versions:
        await asyncio.sleep(0.01)
    for name in ("unrelated", "settings"):
        metadata = {"name": name, "namespace": "default"}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"k": "v"}}
        await cluster.hook.send(api.create(CONFIG_MAP, body))
    assert given(await waiting)["reason"] == "default/a (ConfigMap settings changed)"
    assert all(
        "as=PartialObjectMetadata" in r.headers["Accept"]
        for r in cluster.requests
        if r.path == CONFIG_MAP.path()
    )


async def test_a_workspace_of_a_megabyte_comes_through_the_watch(cluster: Watched) -> None:
    waiting = asyncio.create_task(cluster.wait())
    while (
        changes._VIEWS.get("c", ClusterView()).resynced is None
    ):  # every kind was listed, and nothing was there
        await asyncio.sleep(0.01)
    await cluster.workspace("big", annotations={"example.com/note": "x" * 250_000})
    assert given(await waiting)["keys"] == [("default", "big")]


async def test_what_a_task_did_not_finish_is_dispatched_again_after_a_pause(
    cluster: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.workspace("a")
    await cluster.done(await cluster.wait())
    await cluster.pod("a-0", "a")
    first = given(await cluster.wait())
    second = given(await cluster.wait())  # the task between them left nothing
    assert second["keys"] == first["keys"]
    assert "failed" in second["reason"]
    assert second["token"] != first["token"]


async def test_due_times_end_the_wait(cluster: Watched) -> None:
    await cluster.workspace("a")
    await cluster.done(await cluster.wait())
    made = await cluster.find("a")
    a_moment_ago = timestamp(datetime.now(UTC) - timedelta(seconds=5))
    retry = {"failures": 1, "after": a_moment_ago, "message": "m"}
    await cluster.hook.send(api.status_patch(WORKSPACE, made, {"retry": retry}))
    changes._VIEWS["c"].looked["default", "a"] -= 60
    assert given(await cluster.wait())["reason"] == "default/a (its time has come)"


async def test_whoever_is_due_in_a_moment_comes_along(cluster: Watched) -> None:
    for name, seconds in (("now", -5), ("soon", 2), ("later", 60)):
        made = await cluster.workspace(name)
        retry = {
            "failures": 1,
            "after": timestamp(datetime.now(UTC) + timedelta(seconds=seconds)),
            "message": "m",
        }
        await cluster.hook.send(api.status_patch(WORKSPACE, made, {**TOLD, "retry": retry}))
    await cluster.done(await cluster.wait())
    changes._VIEWS["c"].looked["default", "now"] -= 60
    assert given(await cluster.wait())["keys"] == [("default", "now"), ("default", "soon")]


async def test_when_a_machine_went_is_told_with_the_next_look(cluster: Watched) -> None:
    made = await cluster.workspace("a")
    labels = {names.WORKSPACE: "a", names.WORKSPACE_NAMESPACE: "default"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": labels}}
    uid = (await cluster.hook.send(api.create(NODE, node)))["metadata"]["uid"]
    await cluster.done(await cluster.wait())
    before = datetime.now(UTC).replace(microsecond=0)
    waiting = asyncio.create_task(cluster.wait())
    await cluster.hook.send(api.delete(NODE, "n"))
    await cluster.hook.send(
        api.merge_patch(WORKSPACE, "a", "default", {"metadata": {"annotations": {names.RERUN: "1"}}})
    )
    told = given(await waiting)
    assert told["keys"] == [("default", made["metadata"]["name"])]
    assert list(told["ended"]) == [uid]
    assert before <= (moment(told["ended"][uid]) or before) <= datetime.now(UTC)


async def test_a_resync_is_due_after_its_time_whatever_happened(cluster: Watched) -> None:
    await cluster.workspace("a")
    await cluster.done(await cluster.wait())
    found = given(await cluster.wait(resync_seconds=1.0))
    assert found["keys"] is None
    assert "resync" in found["reason"]


async def test_an_empty_cluster_ends_the_wait_without_work(cluster: Watched) -> None:
    assert isinstance(await cluster.wait(resync_seconds=0.5), TaskSkippedEvent)


async def test_a_passive_deployment_does_nothing_says_why_and_takes_over(
    cluster: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    log = SimpleNamespace(info=lambda *_: None, warning=lambda text, *args: said.append(text % args))
    monkeypatch.setattr(WorkspaceChangesTrigger, "log", log)
    monkeypatch.setattr(changes, "RENEW_EVERY", 0.1)
    await cluster.workspace("a")
    theirs = {
        "apiVersion": LEASE.api_version,
        "kind": LEASE.name,
        "metadata": {
            "name": NAME,
            "namespace": "default",
            "annotations": {"kaito.sh/airflow": "http://other"},
        },
        "spec": {"holderIdentity": "other", "leaseDurationSeconds": 3},
    }
    lease = await cluster.hook.send(api.create(LEASE, theirs))
    waiting = asyncio.create_task(cluster.wait())
    for number in range(8):  # they renew it
        await asyncio.sleep(0.25)
        lease["spec"]["renewTime"] = f"2026-11-23T00:00:0{number}.000000Z"
        lease = await cluster.hook.send(api.replace(LEASE, lease))
    assert not waiting.done()
    assert cluster.lists == []  # it does not even look
    found = given(await waiting)  # and they stop
    assert found["keys"] is None
    assert len(said) == 1  # said once, however often it looks
    assert "Passive" in said[0]
    assert "http://other" in said[0]


async def test_a_passive_deployment_ends_its_wait_at_the_resync(
    cluster: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "RENEW_EVERY", 0.05)
    metadata = {"name": NAME, "namespace": "default"}
    spec = {"holderIdentity": "other", "leaseDurationSeconds": 100}
    await cluster.hook.send(api.create(LEASE, {"metadata": metadata, "spec": spec}))
    before = await cluster.workspace("a")
    assert isinstance(await cluster.wait(resync_seconds=0.2), TaskSkippedEvent)
    assert await cluster.find("a") == before


async def test_a_lease_that_is_lost_while_waiting_makes_it_passive(
    cluster: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    log = SimpleNamespace(info=lambda *_: None, warning=lambda text, *args: said.append(text % args))
    monkeypatch.setattr(WorkspaceChangesTrigger, "log", log)
    monkeypatch.setattr(changes, "RENEW_EVERY", 0.05)
    waiting = asyncio.create_task(cluster.wait(resync_seconds=4.0))
    while (lease := await cluster.hook.find(LEASE, NAME, "default")) is None:
        await asyncio.sleep(0.02)
    change = {"spec": {"holderIdentity": "other", "leaseDurationSeconds": 100}}
    await cluster.hook.send(api.merge_patch(LEASE, NAME, "default", copy.deepcopy(change)))
    while not said and not waiting.done():
        await asyncio.sleep(0.01)
    assert said, "it has noticed"
    await cluster.workspace("a")
    assert isinstance(await waiting, TaskSkippedEvent)
    assert lease["spec"]["holderIdentity"] != "other"


async def test_an_api_server_that_is_away_is_waited_for(
    cluster: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.workspace("a")
    attempts = []
    connected = changes.AsyncKaitoClusterHook.connected  # type: ignore[attr-defined]

    def failing(hook: Any) -> Any:
        attempts.append(1)
        if len(attempts) < 3:
            raise api.ClusterError(0, "ConnectionFailed", "refused")
        return connected(hook)

    monkeypatch.setattr(changes.AsyncKaitoClusterHook, "connected", failing)  # type: ignore[attr-defined]
    assert given(await cluster.wait())["keys"] is None
    assert len(attempts) == 3
