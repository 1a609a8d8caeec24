"""What is decided at first sight, under way and at the end, from states that the model's own runs have led to."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from include.reconcile import AddFinalizer, DeleteObject, HandOver, StartRun, decide
from include.workspace.api import names
from include.workspace.status.conditions import condition, progress
from tests.support.reconcile.cluster import NAME, NAMESPACE, label
from tests.support.reconcile.story import (
    RECONCILE_CONFIG,
    Story,
    deleted,
    of,
    ready,
    run_ended,
    tuning_pod_runs,
)

# -- first sight -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "dag"), [("tuning", "kaito_tune"), ("inference", "kaito_serve")])
def test_a_new_workspace_gets_finalizer_condition_and_run_in_one_go(kind: str, dag: str) -> None:
    story = Story(kind)
    decision = story.decision()
    assert decision.situation == "starting"
    assert isinstance(decision.actions[0], AddFinalizer)
    run = of(decision, StartRun)[0]
    assert (run.dag_id, run.run_id) == (dag, names.run_id(story.ws))
    assert run.conf == {"workspace": {"metadata": {"name": NAME, "namespace": NAMESPACE}}}
    assert decision.status is not None
    assert decision.status["run"]["id"] == run.run_id
    assert decision.status["run"]["url"] == f"http://airflow/{dag}/{run.run_id}"
    assert decision.status["inputs"] == {"cfg": "digest-0"}
    assert {c["status"] for c in decision.status["conditions"]} == {"False"}
    assert decision.status["state"] == "Pending"
    assert [event.reason for event in decision.events] == ["Pending"]


def test_a_workspace_with_faults_hears_them_all_and_gets_nothing() -> None:
    story = Story(preset="bad")
    story.shell.secret = False
    decision = story.reconcile()
    assert decision.situation == "invalid"
    assert [type(a) for a in decision.actions] == [AddFinalizer]
    message = condition(story.status, "ResourceReady")["message"]  # type: ignore[index]
    assert "there is no such Secret" in message
    assert "there is no such preset" in message
    assert story.condition("WorkspaceSucceeded") == ("False", "workspaceFailed")
    assert story.status["state"] == "Failed"
    assert [e.type for e in decision.events] == ["Warning"]


def test_a_fault_of_the_cluster_is_looked_at_again_and_passes() -> None:
    story = Story()
    story.shell.secret = False
    first = story.reconcile()
    assert first.requeue_after == 5.0
    assert story.decision().status is None
    story.cluster.advance(6)
    story.reconcile()
    assert story.status["retry"]["failures"] == 2
    story.shell.secret = True
    story.cluster.advance(11)
    assert story.decision().situation == "starting"


def test_an_edit_is_judged_against_the_last_accepted_document() -> None:
    story = Story().lives(run_ended).edit(variant=7)
    seen: list[Any] = []
    look = story.look()
    config = replace(RECONCILE_CONFIG, faults=lambda workspace, old: seen.append((workspace, old)) or [])
    decide(look.workspace, look.observed, look.now, config)
    assert seen[0][0]["tuning"]["variant"] == 7
    assert seen[0][1]["tuning"]["variant"] == 0
    assert seen[0][1]["metadata"]["name"] == NAME


# -- not ours, paused ------------------------------------------------------------------------------------------------


def test_where_upstream_runs_a_workspace_is_left_alone() -> None:
    decision = Story().decision(upstream="Deployment kaito/kaito-workspace")
    assert (decision.situation, decision.actions, decision.status) == ("foreign", (), None)
    assert decision.events[0].once
    assert "Deployment kaito/kaito-workspace" in decision.events[0].message


def test_where_upstream_runs_an_annotation_makes_a_workspace_ours() -> None:
    story = Story().annotate(managed="airflow")
    assert story.decision(upstream="Deployment kaito").situation == "starting"


def test_a_paused_workspace_gets_no_actions_and_still_tells_the_truth() -> None:
    story = Story("inference").lives(ready).annotate(paused="true")
    story.cluster.delete("StatefulSet", NAME)
    decision = story.reconcile()
    assert (decision.situation, decision.actions) == ("paused", ())
    assert story.condition("InferenceReady")[0] == "False"
    assert story.condition("WorkspaceReady")[0] == "False"
    assert decision.events[-1].once


# -- a new generation ------------------------------------------------------------------------------------------------


def test_an_edit_while_tuning_waits_for_the_old_pod_and_keeps_the_machine() -> None:
    story = Story().lives(tuning_pod_runs)
    old = story.cluster.claims("tuning")[0]["metadata"]
    story.edit(variant=1)
    first = story.reconcile()
    assert first.situation == "superseding"
    assert deleted(first) == ["Pod"]
    assert not of(first, StartRun)
    over = of(first, HandOver)[0]
    assert (over.pool.name, over.run_label) == (old["name"], names.run_id_label(names.run_id(story.ws)))
    assert story.decision().actions == ()  # the pod is still going
    story.cluster.tick(["Pod"])
    assert of(story.decision(), StartRun)[0].run_id == names.run_id(story.ws)
    assert story.cluster.claims("tuning")[0]["metadata"]["uid"] == old["uid"]


def test_an_edit_to_another_machine_deletes_the_old_one_once_no_pod_works_on_it() -> None:
    story = Story().lives(tuning_pod_runs).edit(variant=1)
    claim = story.cluster.claims("tuning")[0]
    spec = {"requirements": [{"key": "node.kubernetes.io/instance-type", "values": ["Standard_Other"]}]}
    story.cluster.put("NodeClaim", {**claim, "spec": spec})
    assert deleted(story.reconcile()) == ["Pod"]
    story.cluster.tick(["Pod"])
    assert deleted(story.decision()) == ["NodeClaim"]


def test_an_edit_with_faults_stops_the_tuning_and_frees_its_machine() -> None:
    story = Story().lives(tuning_pod_runs).edit(preset="bad")
    assert deleted(story.reconcile()) == ["Pod"]
    story.cluster.tick(["Pod"])
    assert deleted(story.reconcile()) == ["NodeClaim"]
    assert story.status["state"] == "Failed"


def test_an_edit_of_a_live_service_leaves_it_until_the_new_run_rolls_it() -> None:
    story = Story("inference").lives(ready).edit(variant=1)
    decision = story.decision()
    assert decision.situation == "starting"
    assert not of(decision, DeleteObject)
    assert not of(decision, HandOver)


MACHINES = ("NodeClaimReady", "NodesReady", "ResourceReady")


def of_machines(story: Story) -> list[tuple[str, str, int, str]]:
    """Status, reason, generation and time of the turn of each condition about machines."""
    found = [condition(story.status, kind) or {} for kind in MACHINES]
    return [
        (one["status"], one["reason"], one["observedGeneration"], one["lastTransitionTime"]) for one in found
    ]


@pytest.mark.parametrize(
    ("kind", "until"), [("inference", ready), ("tuning", tuning_pod_runs)], ids=["service", "tuning"]
)
def test_machines_that_an_edit_keeps_stay_ready_in_the_conditions(kind: str, until: Any) -> None:
    """They are there and unchanged: who waits for NodesReady must not see them go and come."""
    story = Story(kind).lives(until)
    before = of_machines(story)
    assert {status for status, *_ in before} == {"True"}
    story.edit(variant=1).reconcile()
    generation = names.generation(story.ws)
    assert of_machines(story) == [
        (status, reason, generation, turned) for status, reason, _, turned in before
    ]
    begun = {"id": story.status["run"]["id"], "dag": story.status["run"]["dag"]}
    now = story.look().now
    again = progress(story.ws, "Accepted", message="m", now=now, begun=begun)  # as preflight says it
    told = [[condition(status, kind) for kind in MACHINES] for status in (again, story.status)]
    assert told[0] == told[1]
    by_hand = progress(story.ws, "Accepted", message="m", now=now, begun={**begun, "id": "other"})
    assert {(condition(by_hand, kind) or {})["status"] for kind in MACHINES} == {"False"}


def test_machines_that_an_edit_exchanges_are_not_ready_any_more() -> None:
    story = Story().lives(tuning_pod_runs).edit(variant=1)
    claim = story.cluster.claims("tuning")[0]
    spec = {"requirements": [{"key": "node.kubernetes.io/instance-type", "values": ["Standard_Other"]}]}
    story.cluster.put("NodeClaim", {**claim, "spec": spec})
    story.reconcile()
    assert {status for status, *_ in of_machines(story)} == {"False"}


def test_a_service_s_machines_are_not_those_that_a_new_tuning_needs() -> None:
    story = Story("quick").lives(ready).edit(variant=1)
    story.reconcile()
    assert {status for status, *_ in of_machines(story)} == {"False"}


def test_machines_that_went_with_the_edit_are_not_called_ready() -> None:
    story = Story("inference").lives(ready).edit(variant=1)
    for claim in story.cluster.claims("serving"):
        story.cluster.objects["NodeClaim"].pop(claim["metadata"]["name"])
    story.reconcile()
    assert {status for status, *_ in of_machines(story)} == {"False"}


# -- a run that is lost, over, or cleared ----------------------------------------------------------------------------


def test_a_lost_run_is_started_again_by_its_own_id_and_its_pod_stays() -> None:
    story = Story().lives(tuning_pod_runs)
    story.airflow.runs.clear()
    decision = story.decision()
    assert [a.run_id for a in of(decision, StartRun)] == [names.run_id(story.ws)]
    assert not of(decision, DeleteObject)


def test_nothing_is_concluded_while_airflow_does_not_answer() -> None:
    story = Story().lives(tuning_pod_runs)
    decision = story.decision(runs={})
    assert decision.situation == "running"
    assert decision.actions == ()


def test_a_run_that_died_without_a_word_is_latched_failed_and_its_machine_released() -> None:
    story = Story().lives(tuning_pod_runs)
    story.airflow.runs[names.run_id(story.ws)].state = "failed"
    assert deleted(story.reconcile()) == ["Pod"]
    assert "failed; its log says why" in condition(story.status, "WorkspaceSucceeded")["message"]  # type: ignore[index]
    story.cluster.tick(["Pod"])
    assert deleted(story.reconcile()) == ["NodeClaim"]
    story.cluster.tick()
    assert story.reconcile().situation == "failed"
    story.cluster.advance(100_000)
    assert story.decision().actions == ()


def test_a_run_s_own_words_are_kept_when_it_failed() -> None:
    story = Story().lives(lambda s: bool(s.airflow.runs))
    next(iter(story.airflow.runs.values())).doomed = "dataset_done"
    story.lives(run_ended)
    assert story.condition("DatasetReady") == ("False", "DatasetFailed")
    assert "DatasetFailed" in condition(story.status, "WorkspaceSucceeded")["message"]  # type: ignore[index]


def test_a_green_run_whose_last_word_was_lost_is_believed_where_the_cluster_bears_it_out() -> None:
    for kind in ("tuning", "inference"):
        story = Story(kind).lives(run_ended)
        run = {**story.status["run"], "state": "started"}
        pending = [
            {**c, "status": "False", "reason": "workspacePending"} if c["type"].startswith("Workspace") else c
            for c in story.status["conditions"]
        ]
        story.cluster.put(
            "Workspace", {**story.ws, "status": {**story.status, "run": run, "conditions": pending}}
        )
        story.reconcile()
        assert story.condition("WorkspaceSucceeded")[0] == "True"
        assert story.status["run"]["state"] == "success"


def test_a_run_that_somebody_cleared_works_on_undisturbed() -> None:
    story = Story().lives(tuning_pod_runs)
    run = story.airflow.runs[names.run_id(story.ws)]
    status = {**story.status, "run": {**story.status["run"], "state": "failed"}}
    failed = [
        {**c, "status": "False", "reason": "workspaceFailed"} if c["type"] == "WorkspaceReady" else c
        for c in status["conditions"]
    ]
    story.cluster.put("Workspace", {**story.ws, "status": {**status, "conditions": failed}})
    assert run.state == "running"
    assert story.decision().actions == ()
    story.lives(lambda s: ready(s) and s.status["run"]["state"] == "success")


def test_rerun_starts_the_next_attempt_once() -> None:
    story = Story().lives(run_ended).annotate(rerun="again")
    decision = story.reconcile()
    assert of(decision, StartRun)[0].run_id == names.attempt_run_id(story.ws, 2)
    assert story.status["run"]["rerun"] == "again"
    story.lives(lambda s: run_ended(s) and s.status["run"]["attempt"] == 2)
    assert story.reconcile().situation == "succeeded"


def test_a_failed_tuning_stays_failed_until_rerun() -> None:
    story = Story().lives(lambda s: bool(s.airflow.runs))
    next(iter(story.airflow.runs.values())).doomed = "tune_done"
    story.lives(run_ended)
    story.lives(lambda s: not s.cluster.claims("tuning"))
    assert story.decision().actions == ()
    assert of(story.annotate(rerun="2").decision(), StartRun)


# -- in general ------------------------------------------------------------------------------------------------------


def test_a_decision_changes_nothing_that_it_was_given_and_is_the_same_twice() -> None:
    for until in (tuning_pod_runs, run_ended):
        story = Story("quick").lives(until).edit(variant=2)
        look = story.look()
        before = copy.deepcopy((look.workspace, look.observed))
        assert story.shell.decide(look) == story.shell.decide(look)
        assert (look.workspace, look.observed) == before


def test_progress_and_nodes_reach_the_status_while_a_pod_tunes() -> None:
    story = Story().lives(tuning_pod_runs)
    said = {
        "stage": "training",
        "step": 12,
        "total": 60,
        "loss": 1.2,
        "tokens_per_second": 205.0,
        "eta_seconds": 9.0,
    }
    decision = story.decision(progress=said)
    assert decision.status is not None
    assert decision.status["progress"] == {
        "stage": "training",
        "step": 12,
        "total": 60,
        "percent": 20,
        "loss": 1.2,
        "tokensPerSecond": 205.0,
        "etaSeconds": 9.0,
    }
    assert decision.requeue_after == 10.0
    assert story.status["workerNodes"] == [story.cluster.all("Node")[0]["metadata"]["name"]]


def test_pods_of_others_with_our_label_are_not_ours() -> None:
    story = Story().lives(run_ended)
    labels = {names.WORKSPACE: NAME, names.COMPONENT: "tuning"}
    meta = {"name": "job-pod", "namespace": NAMESPACE, "labels": labels}
    meta["ownerReferences"] = [{"kind": "Job", "name": NAME, "uid": "job", "controller": True}]
    pod = story.cluster.create("Pod", {"metadata": meta, "spec": {}, "status": {"phase": "Running"}})
    assert label(pod, names.WORKSPACE) == NAME
    assert story.decision().actions == ()


def test_pods_of_another_run_go_while_ours_is_under_way() -> None:
    story = Story().lives(tuning_pod_runs)
    pod = story.cluster.children("tuning")[0]
    labels = {**pod["metadata"]["labels"], names.RUN_ID: "somebody-else"}
    meta = {**pod["metadata"], "name": "stray", "labels": labels}
    story.cluster.create("Pod", {**pod, "metadata": meta})
    decision = story.decision()
    assert decision.situation == "running"
    assert [a.name for a in of(decision, DeleteObject)] == ["stray"]


def test_a_run_started_by_hand_that_nobody_recorded_is_left_alone_while_it_lives() -> None:
    story = Story().lives(tuning_pod_runs)
    status = {key: value for key, value in story.status.items() if key != "run"}
    story.cluster.put("Workspace", {**story.ws, "status": status})
    decision = story.decision()
    assert (decision.situation, decision.actions) == ("running", ())
    story.cluster.objects["Pod"].clear()
    story.cluster.objects["NodeClaim"].clear()
    assert story.decision().situation == "running"
    story.cluster.advance(121)
    assert story.decision().situation == "starting"


def test_a_generation_that_an_unknown_run_has_finished_is_adopted() -> None:
    story = Story().lives(run_ended)
    status = {key: value for key, value in story.status.items() if key != "run"}
    story.cluster.put("Workspace", {**story.ws, "status": status})
    decision = story.reconcile()
    assert not of(decision, StartRun)
    assert (story.status["run"]["cause"], story.status["run"]["state"]) == ("found", "success")
    assert of(story.annotate(rerun="1").decision(), StartRun)[0].run_id == names.attempt_run_id(story.ws, 2)


@pytest.mark.parametrize("kind", ["quick", "tuning", "inference"])
def test_a_workspace_that_a_run_has_made_is_left_to_that_run(kind: str) -> None:
    story = Story(kind)
    story.cluster.change(
        "Workspace",
        story.ws,
        annotations={**story.ws["metadata"]["annotations"], names.STARTED_BY: "kaito_tune/manual__1"},
    )
    decision = story.decision()
    assert decision.situation == "running"
    assert of(decision, StartRun) == []
    assert decision.status is not None
    assert decision.status["run"] | {"url": ""} == {
        "id": "manual__1",
        "dag": "kaito_tune",
        "attempt": 1,
        "generation": 1,
        "rerun": "",
        "cause": "found",
        "state": "started",
        "url": "",
    }


def test_an_edit_of_a_workspace_that_a_run_has_made_starts_a_run_of_its_own() -> None:
    story = Story()
    story.cluster.change(
        "Workspace",
        story.ws,
        annotations={**story.ws["metadata"]["annotations"], names.STARTED_BY: "kaito_tune/manual__1"},
    )
    story.edit(variant=1)
    assert [action.run_id for action in of(story.decision(), StartRun)] != ["manual__1"]
