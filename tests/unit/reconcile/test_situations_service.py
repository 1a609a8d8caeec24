"""What is decided about a service that was ready, and about names that somebody else has taken."""

from __future__ import annotations

from typing import Any

import pytest

from include.reconcile import AddFinalizer, DeletePool, StartRun, service
from include.reconcile.case import Case
from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.api import names
from include.workspace.status.conditions import condition, timestamp
from tests.support.reconcile.cluster import NAME, NAMESPACE, Obj, node_status
from tests.support.reconcile.story import (
    OTHER,
    RECONCILE_CONFIG,
    Story,
    deleted,
    of,
    ready,
    run_ended,
    tuning_pod_runs,
)


@pytest.mark.parametrize("kind", ["quick", "inference"])
@pytest.mark.parametrize("lost", ["StatefulSet", "Service", "NodeClaim", "Node"])
def test_what_is_missing_of_a_service_is_brought_back_by_a_run(kind: str, lost: str) -> None:
    story = Story(kind).lives(ready)
    state, adapter = story.status["state"], story.status.get("adapter")
    story.cluster.delete(lost, sorted(story.cluster.objects[lost])[0])
    decision = story.reconcile()
    run = of(decision, StartRun)[0]
    assert (run.dag_id, run.run_id) == ("kaito_serve", names.attempt_run_id(story.ws, 2))
    assert story.condition("WorkspaceReady") == ("False", "workspacePending")
    assert story.status.get("adapter") == adapter
    story.lives(lambda s: ready(s) and s.status["run"]["attempt"] == 2)
    assert story.status["state"] == state
    assert "retry" not in story.status


def test_a_repaired_tuning_has_succeeded_all_along() -> None:
    story = Story("quick").lives(ready)
    story.cluster.delete("StatefulSet", NAME)
    seen = []
    story.lives(
        lambda s: bool(seen.append(s.condition("WorkspaceSucceeded")) or s.status["run"]["attempt"] == 2)
    )
    story.lives(lambda s: bool(seen.append(s.condition("WorkspaceSucceeded")) or ready(s)))
    assert set(seen) == {("True", "workspaceSucceeded")}


def test_a_repair_that_fails_is_tried_again_with_back_off() -> None:
    story = Story("inference").lives(ready)
    story.cluster.delete("StatefulSet", NAME)
    story.reconcile()
    for attempt in (2, 3):
        story.airflow.runs[names.attempt_run_id(story.ws, attempt)].doomed = "serving_nodes"
        story.lives(run_ended)
        assert story.status["retry"]["failures"] == attempt - 1
        assert story.status["state"] == "NotReady"
        story.lives(lambda s, n=attempt: s.status["run"]["attempt"] == n + 1)  # type: ignore[misc]
    story.lives(ready)
    assert "retry" not in story.status


def test_a_pod_that_restarts_flips_conditions_and_starts_nothing() -> None:
    story = Story("inference").lives(ready)
    found = story.cluster.find("StatefulSet", NAME)
    assert found is not None
    story.cluster.change("StatefulSet", found, status={"readyReplicas": 0})
    decision = story.reconcile()
    assert decision.actions == ()
    assert story.condition("InferenceReady") == ("False", "WorkspaceInferenceStatusPending")
    assert story.condition("WorkspaceSucceeded") == ("False", "workspacePending")
    assert story.status["state"] == "NotReady"
    assert "Warning" in {event.type for event in decision.events}
    story.cluster.tick()
    story.reconcile()
    assert story.status["state"] == "Ready"


def test_a_node_that_is_not_ready_gets_a_minute_and_then_a_successor() -> None:
    story = Story("inference").lives(ready)
    node = story.cluster.all("Node")[0]
    status = node_status("Unknown", timestamp(story.cluster.now))
    story.cluster.change("Node", node, status=status)
    decision = story.reconcile()
    assert decision.actions == ()
    assert decision.requeue_after == pytest.approx(60, abs=1)
    story.cluster.advance(61)
    story.cluster.tick(["StatefulSet"])
    decision = story.reconcile()
    assert deleted(decision) == ["NodeClaim"]
    assert of(decision, StartRun)
    story.lives(ready)


@pytest.mark.parametrize(("answering", "said"), [(1, "True"), (0, "False")])
def test_a_second_pod_that_starts_beside_the_one_that_answers_takes_nothing_back(
    answering: int, said: str
) -> None:
    story = Story("inference").lives(ready)
    story.shell.config = "digest-1"
    story.reconcile()
    found = story.cluster.find("StatefulSet", NAME)
    assert found is not None
    found["spec"]["replicas"] = 2
    story.cluster.change("StatefulSet", found, status={"readyReplicas": answering})
    assert story.reconcile().situation == "running"
    assert story.condition("InferenceReady")[0] == said


def test_a_changed_inference_config_rolls_the_live_service() -> None:
    story = Story("inference").lives(ready)
    story.shell.config = "digest-1"
    decision = story.reconcile()
    assert of(decision, StartRun)[0].run_id == names.attempt_run_id(story.ws, 2)
    assert story.condition("InferenceReady")[0] == "True"  # it answers until it is rolled
    story.lives(lambda s: ready(s) and s.status["run"]["attempt"] == 2)
    assert story.status["inputs"] == {"cfg": "digest-1"}
    assert story.reconcile().situation == "ready"


def test_a_changed_training_config_after_the_end_is_an_event_and_nothing_else() -> None:
    story = Story().lives(run_ended)
    story.shell.config = "digest-1"
    decision = story.reconcile()
    assert decision.actions == ()
    assert [event.reason for event in decision.events] == ["ConfigChanged"]
    assert story.decision().events == ()


def test_machines_beyond_what_the_service_needs_go() -> None:
    story = Story("inference").lives(ready)
    claim = story.cluster.claims("serving")[0]
    spare = {
        **claim,
        "metadata": {**claim["metadata"], "name": "wsspare"},
        "status": {"nodeName": "elsewhere"},
    }
    story.cluster.create("NodeClaim", spare)
    story.cluster.create("Node", {"metadata": {"name": "elsewhere"}, "status": node_status("True")})
    assert [a.pool.name for a in of(story.decision(), DeletePool)] == ["wsspare"]


# -- strangers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "stranger"),
    [("inference", "StatefulSet"), ("inference", "Service"), ("tuning", "PersistentVolumeClaim")],
)
def test_a_name_that_is_taken_stops_everything_and_is_named(kind: str, stranger: str) -> None:
    story = Story(kind)
    name = f"{NAME}-work" if stranger == "PersistentVolumeClaim" else NAME
    meta = {"name": name, "namespace": NAMESPACE, "ownerReferences": [OTHER], "generation": 1}
    story.cluster.create(stranger, {"metadata": meta, "spec": {}, "status": {"readyReplicas": 1}})
    decision = story.reconcile()
    assert decision.situation == "invalid"
    assert [type(a) for a in decision.actions] == [AddFinalizer]
    message = condition(story.status, "ResourceReady")["message"]  # type: ignore[index]
    assert f"{stranger} {name} exists and belongs to Other theirs" in message
    story.cluster.delete(stranger, name)
    story.cluster.advance(6)
    assert story.decision().situation == "starting"


def test_a_stranger_in_place_of_a_lost_service_is_not_touched() -> None:
    story = Story("inference").lives(ready)
    story.cluster.delete("StatefulSet", NAME)
    meta = {"name": NAME, "namespace": NAMESPACE, "ownerReferences": [OTHER], "generation": 1}
    story.cluster.create("StatefulSet", {"metadata": meta, "spec": {}, "status": {"readyReplicas": 1}})
    decision = story.reconcile()
    assert decision.situation == "blocked"
    assert not of(decision, StartRun)
    assert "StatefulSet" not in deleted(decision)
    assert "belongs to Other theirs" in decision.events[-1].message
    assert story.condition("InferenceReady")[0] == "False"


def test_a_rerun_that_a_stranger_blocks_keeps_no_machines() -> None:
    story = Story("quick").lives(tuning_pod_runs)
    next(iter(story.airflow.runs.values())).state = "failed"  # and its teardown never came
    meta = {"name": NAME, "namespace": NAMESPACE, "ownerReferences": [OTHER], "generation": 1}
    story.cluster.create("StatefulSet", {"metadata": meta, "spec": {}, "status": {}})
    story.annotate(rerun="1")
    decision = story.reconcile()
    assert decision.situation == "blocked"
    assert "Pod" in deleted(decision)
    story.lives(lambda s: not s.cluster.claims("tuning"))


def test_where_machines_are_no_node_claims_their_absence_means_nothing() -> None:
    story = Story("inference").lives(ready)
    story.reconcile()
    for name in list(story.cluster.objects["NodeClaim"]):
        del story.cluster.objects["NodeClaim"][name]
    decision = story.decision(provider="aks")
    assert (decision.situation, decision.actions) == ("ready", ())
    assert story.decision().situation == "starting"


def test_a_machine_that_lost_its_node_goes_even_if_the_shell_died_before_it_could_say_so() -> None:
    story = Story("inference").lives(ready)
    story.reconcile()
    story.cluster.delete("Node", story.cluster.all("Node")[0]["metadata"]["name"])
    look = story.look()
    story.shell.carry_out(look, story.shell.decide(look), acts=1)
    decision = story.decision()
    assert deleted(decision) == ["NodeClaim"]
    assert of(decision, StartRun)
    story.lives(ready)


# -- who makes the machines ------------------------------------------------------------------------------------------


def down(story: Story) -> Story:
    """The service has stopped to answer."""
    found = story.cluster.find("StatefulSet", NAME)
    assert found is not None
    story.cluster.change("StatefulSet", found, status={"readyReplicas": 0})
    return story


OWN = {names.WORKSPACE: NAME, names.WORKSPACE_NAMESPACE: NAMESPACE}


def node_pool(replicas: int = 1, purpose: str = "serving", **meta: Any) -> Obj:
    return {
        "metadata": {"name": "p", "labels": {**OWN, names.POOL: purpose}, **meta},
        "spec": {"replicas": replicas},
    }


@pytest.mark.parametrize(
    ("pools", "told"),
    [
        ([], "1 of 1 machine gone (NodePool)"),
        ([node_pool(deletionTimestamp="2026-11-23T12:00:00Z")], "1 of 1 machine gone (NodePool)"),
        ([node_pool(purpose="tuning")], "1 of 1 machine gone (NodePool)"),
        ([node_pool(0)], "1 of 1 machine gone (NodePool)"),
        ([node_pool()], ""),
        (None, ""),
    ],
)
def test_a_node_pool_that_somebody_deleted_is_brought_back_by_a_run(
    pools: list[Obj] | None, told: str
) -> None:
    story = down(Story("inference").lives(ready))
    decision = story.decision(provider="nodepool", asked=pools is not None, node_pools=pools)
    assert bool(of(decision, StartRun)) == bool(told)
    if told:
        message = condition(decision.status, "WorkspaceReady")["message"]  # type: ignore[index]
        assert message == f"{told}: it is being brought back"


@pytest.mark.parametrize(("provider", "noticed"), [("nodeclaim", True), ("aks", False), ("", False)])
def test_where_auto_means_node_claims_a_missing_one_is_noticed(provider: str, noticed: bool) -> None:
    story = Story("inference").lives(ready)
    story.cluster.delete("NodeClaim", story.cluster.claims("serving")[0]["metadata"]["name"])
    assert bool(of(story.decision(provider=provider), StartRun)) == noticed


def test_one_machine_of_two_is_not_all_of_them() -> None:
    story = Story("inference").lives(ready)
    found = story.cluster.find("StatefulSet", NAME)
    assert found is not None
    story.cluster.put("StatefulSet", {**found, "spec": {**found["spec"], "replicas": 2}})
    story.cluster.put("Workspace", {**story.ws, "status": {**story.status, "targetNodeCount": 2}})
    look = story.look()
    builder = DecisionBuilder(Case(look.workspace, look.observed, look.now, RECONCILE_CONFIG))
    assert service.observe(builder) == ["1 of 2 machines gone (NodeClaim)"]
    told = condition(builder.status, "ResourceReady")
    assert told is not None
    assert (told["status"], told["reason"]) == ("False", "NodeClaimMissing")
    assert told["message"] == "1 of 2 NodeClaims are gone: they were deleted."
