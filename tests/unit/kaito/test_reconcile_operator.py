"""The task around a pass: it acts only while its deployment holds the Lease, and says when it is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowSkipException
from kaito.controller.leader_election import Leadership
from kaito.controller.reconciler import Outcome
from kaito.controller.snapshot import Snapshot
from kaito.installation import installation
from kaito.operators import reconcile
from kaito.operators.reconcile import ReconcileOperator

MINE = Leadership(True, "me", "mine")
THEIRS = Leadership(False, "them", "Passive: them")


class Scene:
    """What the task meets: the Lease, the pass, and what it leaves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.leaderships: list[Leadership] = [MINE]
        self.outcome = Outcome(looked=2, changed=1)
        self.keys: Any = "nobody looked"
        self.done: list[str] = []
        self.seconds = 0.0
        self.ended: Any = None
        scene = self

        class Hook:
            def __init__(self, conn_id: str) -> None:
                assert conn_id

            @asynccontextmanager
            async def connected(self) -> AsyncIterator[Any]:
                yield self

        class Election:
            def __init__(self, hook: Any, identity: str, where: str, namespace: str) -> None:
                assert identity == "me"

            async def stand(self, *, may_take: bool = True, done: str = "") -> Leadership:
                assert not may_take
                if done:
                    scene.done.append(done)
                return scene.leaderships.pop(0) if len(scene.leaderships) > 1 else scene.leaderships[0]

        class Reconciler:
            snapshot = Snapshot()

            def __init__(self, *_: Any, before_runs: Any, ended: Any) -> None:
                assert before_runs
                scene.ended = ended

            async def run(self, keys: Any) -> Outcome:
                scene.keys = keys
                await asyncio.sleep(scene.seconds)
                return scene.outcome

        monkeypatch.setattr(reconcile, "AsyncKaitoClusterHook", Hook)
        monkeypatch.setattr(reconcile, "Election", Election)
        monkeypatch.setattr(reconcile, "Reconciler", Reconciler)
        monkeypatch.setattr(reconcile, "RENEW_EVERY", 0.01)

    def run(self, keys: Any) -> Any:
        value = {
            "keys": keys,
            "reason": "r",
            "token": "t",
            "identity": "me",
            "ended": {"u": "2026-11-24T03:00:00Z"},
        }
        value = None if keys == "nothing" else value
        ti = SimpleNamespace(xcom_pull=lambda task_ids: value)
        return ReconcileOperator(task_id="reconcile", changes_task_id="wait").execute({"ti": ti})


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


@pytest.mark.parametrize(("keys", "expected"), [(None, None), ([["n", "a"]], (("n", "a"),))])
def test_it_looks_at_what_it_was_given_and_leaves_the_token(scene: Scene, keys: Any, expected: Any) -> None:
    assert scene.run(keys) == {"looked": 2, "changed": 1, "troubled": 0}
    assert scene.keys == expected
    assert scene.ended == {"u": "2026-11-24T03:00:00Z"}
    assert scene.done == ["t"]


def test_without_the_lease_it_does_nothing(scene: Scene) -> None:
    scene.leaderships = [THEIRS]
    with pytest.raises(AirflowSkipException, match="Passive"):
        scene.run(None)
    assert scene.keys == "nobody looked"
    assert scene.done == []


def test_a_lease_that_is_lost_ends_the_work(scene: Scene) -> None:
    scene.leaderships, scene.seconds = [MINE, MINE, THEIRS], 30.0
    with pytest.raises(AirflowException, match="Stopped in the middle"):
        scene.run(None)
    assert scene.done == []


def test_what_could_not_be_reported_fails_the_task_so_that_it_is_dispatched_again(scene: Scene) -> None:
    scene.outcome = Outcome(looked=1, troubled=1, unreported=[("n", "a")])
    with pytest.raises(AirflowException, match="n/a"):
        scene.run(None)
    assert scene.done == []


def test_a_wait_that_named_nothing_is_no_work(scene: Scene) -> None:
    with pytest.raises(AirflowSkipException):
        scene.run("nothing")


def test_the_installation_knows_machines_prices_and_pages() -> None:
    config = installation().config
    workspace = {"resource": {"instanceType": "standard_nc6s_V3"}}
    assert config.machine_of(workspace) == "Standard_NC6s_v3"
    assert config.machine_of({"resource": {"instanceType": "nonsense"}}) == ""
    assert config.price_of("Standard_NC6s_v3") > 0
    assert config.price_of("nonsense") is None
    assert config.run_url("kaito_tune", "r").endswith("/dags/kaito_tune/runs/r")
