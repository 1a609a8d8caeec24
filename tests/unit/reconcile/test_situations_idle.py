"""What is decided about a service that is to be scaled to zero: when it goes, that it stays, what starts it again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from include.pools.aks import AGENT_POOL_LABEL
from include.reconcile import Activity, DeletePool, ScaleToZero, StartRun, due
from include.reconcile.activity import read, together
from include.reconcile.idle import asks_for_metrics, asks_for_pools
from include.workspace.api import names
from include.workspace.api.annotations import idle_seconds
from include.workspace.status.conditions import condition, timestamp
from tests.support.agent_pools import OURS, agent_pool
from tests.support.reconcile.cluster import NAME, Obj, node_status
from tests.support.reconcile.story import Story, deleted, of, ready

NEVER = Activity(0, 0, 0.0)


def served(kind: str = "inference", minutes: str = "10", activity: Activity | None = NEVER) -> Story:
    """A service that has just become ready, and is to be scaled to zero."""
    story = Story(kind, **{names.SCALE_TO_ZERO: minutes})
    story.shell.activity = activity
    return story.lives(ready)


def later(story: Story, minutes: float) -> Story:
    story.cluster.advance(minutes * 60)
    return story


def is_at_zero(story: Story) -> bool:
    return bool((story.status.get("idle") or {}).get("scaledToZero"))


def rests(story: Story) -> bool:
    return bool((story.status.get("idle") or {}).get("released"))


def at_zero(kind: str = "inference") -> Story:
    return later(served(kind), 11).lives(rests)


@pytest.mark.parametrize("kind", ["quick", "inference"])
def test_an_idle_service_is_scaled_to_zero_and_its_machines_go(kind: str) -> None:
    story = later(served(kind), 11)
    decision = story.reconcile()
    assert [a.name for a in of(decision, ScaleToZero)] == [NAME]
    assert deleted(decision) == [], "machines go after the pods that are on them"
    assert next((e.type, e.reason) for e in decision.events) == ("Normal", "ScaledToZero")
    story.lives(rests)
    assert story.cluster.claims("serving") == []
    assert story.cluster.children("serving") == []
    assert story.cluster.find("StatefulSet", NAME)["spec"]["replicas"] == 0  # type: ignore[index]
    told = condition(story.status, "InferenceReady") or {}
    assert (told["status"], told["reason"]) == ("False", "ScaledToZero")
    assert told["message"].endswith("To start it again, change or remove that annotation")
    assert story.condition("WorkspaceReady") == ("False", "ScaledToZero")
    assert story.condition("ResourceReady") == ("False", "NodesReleased")
    success = ("True", "workspaceSucceeded") if kind == "quick" else ("False", "ScaledToZero")
    assert story.condition("WorkspaceSucceeded") == success
    assert story.status["state"] == ("Succeeded" if kind == "quick" else "NotReady")
    assert story.status["workerNodes"] == []


def test_a_machine_that_falls_silent_while_its_service_goes_to_sleep_is_not_ready() -> None:
    story = later(served("quick"), 11)
    story.reconcile()
    (node,) = story.cluster.all("Node")
    story.cluster.change("Node", node, status=node_status("Unknown"))
    story.reconcile()
    assert story.condition("NodesReady") == ("False", "NodeNotReady")
    story.lives(rests)
    assert story.condition("NodesReady") == ("False", "NodesReleased")


def test_a_service_that_sleeps_is_not_repaired() -> None:
    story = at_zero()
    for lost in ("StatefulSet", "Service"):
        story.cluster.delete(lost, sorted(story.cluster.objects[lost])[0])
        for _ in range(3):
            later(story, 30)
            story.cluster.tick()
            decision = story.reconcile()
            assert (decision.situation, decision.actions, decision.status) == ("idle", (), None)
    assert story.status["run"]["attempt"] == 1


@pytest.mark.parametrize("kind", ["quick", "inference"])
@pytest.mark.parametrize("minutes", [None, "20"])
def test_another_annotation_or_none_wakes_it(kind: str, minutes: str | None) -> None:
    story = at_zero(kind)
    annotations = {**story.ws["metadata"]["annotations"], names.SCALE_TO_ZERO: minutes}
    story.cluster.change(
        "Workspace", story.ws, annotations={k: v for k, v in annotations.items() if v is not None}
    )
    decision = story.reconcile()
    assert [(run.dag_id, run.run_id) for run in of(decision, StartRun)] == [
        ("kaito_serve", names.attempt_run_id(story.ws, 2))
    ]
    assert story.condition("InferenceReady") == ("False", "WorkspaceInferenceStatusPending")
    story.lives(ready)
    assert story.cluster.find("StatefulSet", NAME)["status"]["readyReplicas"] == 1  # type: ignore[index]
    assert not is_at_zero(story)
    assert len(story.airflow.started) == 2


def test_a_rerun_wakes_it() -> None:
    story = at_zero().annotate(rerun="1")
    story.lives(lambda s: ready(s) and s.status["run"]["attempt"] == 2)


def test_a_wake_that_fails_is_tried_again() -> None:
    story = at_zero()
    annotations = {k: v for k, v in story.ws["metadata"]["annotations"].items() if k != names.SCALE_TO_ZERO}
    story.cluster.change("Workspace", story.ws, annotations=annotations)
    story.reconcile()
    story.airflow.runs[names.attempt_run_id(story.ws, 2)].doomed = "serving_nodes"
    story.lives(lambda s: ready(s) and s.status["run"]["attempt"] == 3)


def test_who_scales_it_up_by_hand_gets_it_back() -> None:
    story = at_zero()
    found = story.cluster.find("StatefulSet", NAME)
    assert found is not None
    story.cluster.change("StatefulSet", {**found, "spec": {"replicas": 1}}, generation=9)
    story.lives(lambda s: ready(s) and s.status["run"]["attempt"] == 2)
    assert not is_at_zero(story)


@pytest.mark.parametrize(
    ("minutes", "activity"),
    [
        (9.0, NEVER),
        (11.0, Activity(1, 0, 0.0)),
        (11.0, None),
        (11.0, Activity(0, 0, None)),
        (11.0, "just now"),
    ],
    ids=["too early", "in flight", "silent", "counters seen once", "asked a moment ago"],
)
def test_a_service_that_may_be_in_use_stays(minutes: float, activity: Any) -> None:
    story = later(served(), minutes)
    now = story.cluster.now.timestamp()
    story.shell.activity = Activity(0, 3, now - 540) if activity == "just now" else activity
    for _ in range(2):
        decision = story.reconcile()
        assert (decision.situation, decision.actions) == ("ready", ())
    assert story.condition("InferenceReady") == ("True", "WorkspaceInferenceStatusSuccess")
    after = story.status["idle"]["after"]
    assert due(story.ws, story.cluster.now, story.cluster.now)
    later(story, 10.1)
    assert after <= timestamp(story.cluster.now)


def test_the_time_before_it_was_ready_does_not_count() -> None:
    story = later(served(), 11)
    found = story.cluster.find("StatefulSet", NAME)
    assert found is not None
    story.cluster.change("StatefulSet", found, status={"readyReplicas": 0})
    story.reconcile()
    story.cluster.tick()
    story.shell.activity = Activity(0, 1, story.cluster.now.timestamp() - 3600)
    for minutes in (0, 9):
        later(story, minutes).reconcile()
        assert not is_at_zero(story)
    later(story, 1.1).reconcile()
    assert is_at_zero(story)


def test_counters_that_stand_still_for_so_long_mean_idle() -> None:
    story = served(activity=Activity(0, 7, None))
    looks = 0
    while not is_at_zero(story):
        wait = due(story.ws, story.cluster.now, story.cluster.now)
        assert wait is not None
        assert wait <= 151
        story.cluster.advance(wait)
        story.reconcile()
        looks += 1
    assert looks <= 6
    used = served(activity=Activity(0, 7, None))
    for count in (7, 8, 9, 10):
        used.shell.activity = Activity(0, count, None)
        later(used, 9).reconcile()
        assert not is_at_zero(used)


def test_what_it_cannot_tell_is_said() -> None:
    story = later(served(activity=None), 11)
    story.reconcile()
    decision = later(story, 2).reconcile()
    assert [(e.type, e.reason) for e in decision.events] == [("Warning", "IdlenessUnknown")]
    assert "do not tell" in story.status["idle"]["message"]


@pytest.mark.parametrize("given", ["0", "-5", "soon", "", "1e3", "nan", "inf", "1_0", "٣", "99999999"])
def test_an_absurd_annotation_scales_nothing_and_is_said(given: str) -> None:
    with pytest.raises(ValueError, match="minutes above 0"):
        idle_seconds({names.SCALE_TO_ZERO: given})
    story = later(served(minutes=given), 600_000)
    decision = story.reconcile()
    assert (decision.situation, decision.actions) == ("ready", ())
    assert [e.reason for e in decision.events if e.once] == ["ScaleToZeroRefused"]
    assert not asks_for_metrics(story.ws, story.cluster.now)


def test_metrics_are_read_only_when_they_are_needed() -> None:
    story = served()
    story.reconcile()
    now = story.cluster.now
    assert not asks_for_metrics(story.ws, now)
    assert asks_for_metrics(story.ws, now + timedelta(minutes=10, seconds=2))
    assert not asks_for_metrics(Story("inference").lives(ready).ws, now)
    assert not asks_for_metrics(at_zero().ws, now + timedelta(days=1))


def test_a_sleeping_service_is_looked_at_until_its_machines_are_gone() -> None:
    story = later(served(), 11)
    story.reconcile()
    now = story.cluster.now
    found = story.cluster.find("StatefulSet", NAME)
    assert due(story.ws, now, now) == 10.0
    assert asks_for_pools(story.ws, found)
    story.lives(rests)
    now = story.cluster.now
    assert due(story.ws, now, now + timedelta(days=1)) is None
    assert not asks_for_pools(story.ws, story.cluster.find("StatefulSet", NAME))


def test_machines_that_are_on_their_way_out_are_not_told_to_be_ready() -> None:
    """Nothing is left to do while they go, so what the status says then stands for minutes."""
    story = later(served("quick"), 11)
    while not deleted(story.reconcile()):
        story.cluster.tick()
        story.cluster.advance(5)
    assert story.cluster.claims("serving")[0]["metadata"]["deletionTimestamp"]
    story.reconcile()
    for kind in ("NodeClaimReady", "NodesReady", "ResourceReady"):
        assert story.condition(kind) == ("False", "NodesReleased")
    assert not rests(story)


# -- machines that are no NodeClaims ---------------------------------------------------------------------------------


def without_claims(story: Story) -> Story:
    for kind in ("NodeClaim", "Node"):
        story.cluster.objects[kind].clear()
    return story


def test_an_agent_pool_goes_with_its_service_and_until_then_nothing_is_released() -> None:
    story = later(served(), 11)
    story.reconcile()
    story.cluster.objects["Pod"].clear()
    without_claims(story)
    decision = story.decision(
        provider="aks", asked=True, agent_pools=[agent_pool(), agent_pool(purpose="tuning")]
    )
    (gone,) = of(decision, DeletePool)
    assert (str(gone.pool), gone.pool.version, gone.why) == (
        "AgentPool ws1 (Succeeded)",
        "e1",
        "its service is scaled to zero",
    )
    going = story.decision(provider="aks", asked=True, agent_pools=[agent_pool("Deleting")])
    unseen = story.decision(provider="aks")
    for decision in (going, unseen):
        assert decision.actions == ()
        assert decision.requeue_after
        assert "released" not in (decision.status or story.status)["idle"]
    decision = story.decision(provider="aks", asked=True)
    assert decision.status is not None
    assert decision.status["idle"]["released"]


def test_a_node_pool_goes_and_takes_its_claims_along() -> None:
    story = later(served(), 11)
    story.reconcile()
    story.cluster.objects["Pod"].clear()
    labels = {names.WORKSPACE: NAME, names.WORKSPACE_NAMESPACE: "ml", names.POOL: "serving"}
    pool = {"kind": "NodePool", "metadata": {"name": "ws1", "uid": "p1", "labels": labels}}
    owner = {"kind": "NodePool", "name": "ws1", "uid": "p1"}
    claims = [
        {**claim, "metadata": {**claim["metadata"], "ownerReferences": [owner]}}
        for claim in story.cluster.all("NodeClaim")
    ]
    decision = story.decision(provider="nodepool", asked=True, node_pools=[pool], node_claims=claims)
    assert [(a.pool.kind, a.pool.uid) for a in of(decision, DeletePool)] == [("NodePool", "p1")]


JOINED = {"metadata": {"name": "aks-ws1-0", "labels": {AGENT_POOL_LABEL: "ws1"}}}


@pytest.mark.parametrize(
    ("pools", "nodes", "gone"),
    [
        ([], [], True),
        ([agent_pool("Deleting")], [JOINED], True),
        ([agent_pool("Failed")], [], True),
        ([agent_pool("Failed")], [JOINED], False),
        ([agent_pool(purpose="tuning")], [JOINED], True),
        ([agent_pool(count=0)], [JOINED], True),
        ([agent_pool()], [], True),
        ([agent_pool()], [JOINED], False),
        ([agent_pool("Updating")], [], False),
    ],
)
def test_an_agent_pool_that_is_gone_under_a_service_is_brought_back(
    pools: list[Obj], nodes: list[Obj], gone: bool
) -> None:
    story = without_claims(Story("inference").lives(ready))
    found = story.cluster.find("StatefulSet", NAME)
    assert found is not None
    assert not asks_for_pools(story.ws, found), "a service that answers costs no question to Azure"
    story.cluster.change("StatefulSet", found, status={"readyReplicas": 0})
    assert asks_for_pools(story.ws, story.cluster.find("StatefulSet", NAME))
    decision = story.decision(provider="aks", asked=True, agent_pools=pools, nodes=nodes)
    assert [run.dag_id for run in of(decision, StartRun)] == (["kaito_serve"] if gone else [])
    assert decision.situation == ("starting" if gone else "ready")
    assert of(story.decision(provider="aks"), StartRun) == []


@pytest.mark.parametrize(("seconds", "gone"), [(100, False), (301, True)])
def test_a_machine_of_an_agent_pool_that_is_silent_for_long_does_not_stand(
    seconds: float, gone: bool
) -> None:
    story = without_claims(Story("inference").lives(ready))
    found = story.cluster.find("StatefulSet", NAME)
    assert found is not None
    story.cluster.change("StatefulSet", found, status={"readyReplicas": 0})
    since = timestamp(story.cluster.now - timedelta(seconds=seconds))
    told = {"type": "Ready", "status": "Unknown", "lastTransitionTime": since}
    silent = {**JOINED, "status": {"conditions": [told]}}
    decision = story.decision(provider="aks", asked=True, agent_pools=[agent_pool()], nodes=[silent])
    assert [run.dag_id for run in of(decision, StartRun)] == (["kaito_serve"] if gone else [])
    assert gone or 0 < (decision.requeue_after or 0) <= 200, "nothing else would make the reconciler look"


# -- what servers tell -----------------------------------------------------------------------------------------------

VLLM = """\
vllm:num_requests_running{engine="0",model_name="phi"} 0.0
vllm:num_requests_waiting{engine="0",model_name="phi"} 2.0
vllm:prompt_tokens_total{engine="0",model_name="phi"} 40.0
vllm:generation_tokens_total{engine="0",model_name="phi"} 60.0 1779500000000
"""


def test_both_servers_are_understood() -> None:
    assert read(OURS) == Activity(1, 5, 1.7795e9)
    assert read(VLLM) == Activity(2, 100, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Not Found",
        "kaito_serving_requests_in_flight 0",
        OURS.replace("in_flight 1.0", "in_flight NaN"),
        OURS.replace("in_flight 1.0", "in_flight -1"),
        OURS.replace("1.7795e+09", "+Inf"),
        OURS.replace("1.7795e+09", "yesterday"),
        VLLM.replace("num_requests_waiting", "num_requests_swapped"),
        "\n".join(VLLM.splitlines()[:2]),
    ],
)
def test_what_is_not_understood_is_no_answer(text: str) -> None:
    assert read(text) is None


def test_a_service_is_as_idle_as_its_busiest_server() -> None:
    one, other = Activity(0, 5, 100.0), Activity(2, 1, 50.0)
    assert together([one, other]) == Activity(2, 6, 100.0)
    assert together([one, Activity(0, 1, None)]) == Activity(0, 6, None)
    assert together([one, None]) is None
    assert together([]) is None
