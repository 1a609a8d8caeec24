"""The wait for machines: each stage has its own budget, and every provider's own words are told."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.triggers.base import TaskSuccessEvent
from kaito.hooks import kubernetes as hooks
from kaito.hooks.api import NODE
from kaito.hooks.azure_account import AksError
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.triggers import base
from kaito.triggers import pool as triggers
from kaito.triggers.pool import GpuPoolReadyTrigger

from include.pools.status import FailureClass, PoolStatus, Stage
from include.workspace.api import names
from tests.support.fake_cluster import FakeCalls, FakeCluster
from tests.support.node_claims import claim, gpu_node, node, ready_claim
from tests.support.triggers import NAME, ending, given_up, own_claim, pool_trigger

SLOW = {
    Stage.LAUNCH: own_claim(claim("a")),
    Stage.BOOT: own_claim(claim("a", Launched="True")),
    Stage.DRIVER: own_claim(claim("a", Launched="True", Registered="True")),
}


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    monkeypatch.setattr(base, "AsyncKaitoClusterHook", lambda conn_id: FakeCalls(cluster))
    monkeypatch.setattr(hooks.AsyncKaitoClusterHook, "find", None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every look takes ten seconds."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += 10.0
        return now[0]

    class Time:
        pass

    Time.monotonic = staticmethod(monotonic)  # type: ignore[attr-defined]
    monkeypatch.setattr(triggers, "time", Time)
    return now


def message(cluster: FakeCluster) -> str:
    return str(cluster.condition(NAME, "ResourceReady")["message"])


@pytest.mark.parametrize("stage", list(Stage))
async def test_a_stage_that_takes_too_long_ends_the_wait_and_names_its_setting(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, clock: list[float], stage: Stage
) -> None:
    for other in Stage:
        monkeypatch.setenv(f"AIRFLOW__KAITO__POOL_{other.upper()}_SECONDS", "35" if other == stage else "5")
    cluster.add(NODE_CLAIM, SLOW[stage])
    event = await ending(pool_trigger())
    assert given_up(event).startswith(f"{FailureClass.TIMEOUT}: ")
    assert f"within 35 s ([kaito] pool_{stage}_seconds)" in given_up(event)
    assert "Last seen: NodeClaim a: waiting until" in given_up(event)
    assert event.payload["unavailable"] == (stage == Stage.LAUNCH), (
        "only what was never launched may be elsewhere"
    )
    assert message(cluster).startswith(given_up(event)) == (stage != Stage.LAUNCH)
    assert clock[0] == 50.0, "the first look starts the clock, four more pass 35 s"


class Azure:
    """A provider that tells what the test wrote down."""

    script: tuple[Any, ...] = ()
    closed = 0

    def __init__(self, *_: Any) -> None: ...

    async def close(self) -> None:
        Azure.closed += 1

    async def observe(self, *_: Any) -> PoolStatus:
        first, *rest = Azure.script
        Azure.script = tuple(rest)
        if isinstance(first, Exception):
            raise first
        return PoolStatus(*first[:-1], **first[-1])


GAVE_UP = ((), False, "Canceled", "AgentPool p: Azure says Canceled", FailureClass.TRANSIENT, {"ended": True})
READY = (("n",), True, "NodesReady", "1 GPU node ready: n", {})
BUSY = AksError(503, "ServiceUnavailable", "try later")
DENIED = AksError(403, "AuthorizationFailed", "Grant the role")


@pytest.mark.parametrize(
    ("script", "well", "words"),
    [
        ((GAVE_UP,), False, "AgentPool p: Azure says Canceled"),
        ((BUSY, READY), True, "1 GPU node ready"),
        ((DENIED,), False, "auth: AuthorizationFailed: Grant the role"),
    ],
)
async def test_azures_words_are_told_and_its_client_is_closed(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, script: Any, well: bool, words: str
) -> None:
    monkeypatch.setattr(triggers, "async_provider", Azure)
    Azure.script, Azure.closed = script, 0
    event = await ending(pool_trigger())
    assert isinstance(event, TaskSuccessEvent) if well else given_up(event)
    assert words in message(cluster)
    assert Azure.closed == 1


async def test_byo_nodes_are_waited_for(cluster: FakeCluster) -> None:
    live = cluster.objects["workspaces", "default", NAME]
    live["metadata"]["annotations"] = {names.POOL_PROVIDER: "byo"}
    cluster.add(NODE, gpu_node("mine"))
    event = await ending(pool_trigger())
    assert isinstance(event, TaskSuccessEvent)
    assert event.xcoms["return_value"]["nodes"] == ["mine"]


async def test_a_provider_that_nobody_knows_ends_the_wait(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDER", "gke")
    assert given_up(await ending(pool_trigger()))
    assert message(cluster).startswith("config: Airflow setting [kaito] pool_provider")


async def test_a_claim_that_vanished_from_a_pool_of_two_is_missed(cluster: FakeCluster) -> None:
    cluster.objects["workspaces", "default", NAME]["status"] = {"targetNodeCount": 2}
    cluster.add(NODE_CLAIM, own_claim(ready_claim("a", "n1")))
    cluster.add(NODE, node("n1"))
    event = await ending(pool_trigger())
    assert given_up(event) == "config: 1 of 2 NodeClaims are gone: they were deleted."
    assert event.payload["missing"]


def test_the_trigger_can_be_made_again() -> None:
    path, arguments = pool_trigger().serialize()
    assert path.endswith("GpuPoolReadyTrigger")
    assert GpuPoolReadyTrigger(**arguments).serialize() == (path, arguments)
