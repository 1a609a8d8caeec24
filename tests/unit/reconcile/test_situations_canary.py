"""A canary's turns: offered, watched, given all requests when it holds out, taken back at once when it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from include.reconcile import ServeAdapter, StartRun, due
from include.reconcile.canary import LOAD_SECONDS
from include.reconcile.decision import Activity, Answers, Decision
from include.workspace.api import names
from include.workspace.api.crd_status import status_schema
from include.workspace.status import retraining
from include.workspace.status.conditions import condition
from tests.support.reconcile.cluster import NAME
from tests.support.reconcile.retrained import ENTRY, NEW, OLD, a_service, digest, told, wants, write
from tests.support.reconcile.story import Story, of, ready, run_ended

SHARE = {"percent": 10.0, "canarySeconds": 120.0}
LIMITS = {"errors": 0.05, "latency": 3.0}
OFFER = ServeAdapter(f"r.io/x@{OLD}", f"r.io/x@{NEW}", 10.0)
BACK = ServeAdapter(f"r.io/x@{OLD}")


def a_canary(bake: float = 0.0) -> Story:
    """One that answers its share, of a service that is asked."""
    story = a_service()
    story.shell.activity = Activity(0, 0, 0.0)
    wants(story, bake=bake, limits=LIMITS, canary=SHARE)
    story.reconcile()
    story.reconcile()
    assert promotion(story)["until"]
    return story


def promotion(story: Story) -> Mapping[str, Any]:
    found: Mapping[str, Any] = story.status["retrain"].get("promotion") or {}
    return found


def counted(story: Story, **adapters: tuple[float, float, float, float]) -> None:
    """What the servers tell from now on, of `old` and `new`."""
    found = {{"old": OLD, "new": NEW}[name]: Answers(*numbers) for name, numbers in adapters.items()}
    story.shell.activity = Activity(0, 0, 0.0, adapters=found)


def message(story: Story) -> str:
    return str((condition(story.status, "RetrainReady") or {})["message"])


def serves(decision: Decision) -> list[ServeAdapter]:
    return of(decision, ServeAdapter)


def test_a_version_is_offered_its_share_and_the_served_one_stays() -> None:
    story = wants(a_service(), canary=SHARE)
    story.shell.activity = Activity(0, 0, 0.0)
    decision = story.reconcile()
    assert serves(decision) == [OFFER]
    assert not of(decision, StartRun), "nothing is rolled for it"
    assert digest(story) == OLD
    assert told(story) == ("False", "Promoting")
    assert (due(story.ws, story.cluster.now, story.cluster.now) or 0) <= 2.0
    story.reconcile()
    assert "answers 10% of the requests until" in message(story)
    assert story.cluster.canaries == {NEW: 10.0}
    assert ready(story)


def test_a_share_that_was_never_written_is_written_again() -> None:
    story = wants(a_service(), canary=SHARE)
    story.shell.activity = Activity(0, 0, 0.0)
    story.reconcile()
    story.cluster.canaries = {}  # as if the shell had died between the status and the list
    assert serves(story.reconcile()) == [OFFER]


def test_a_canary_that_holds_out_has_all_requests_and_bakes_as_any_version() -> None:
    story = a_canary(bake=60)
    counted(story, old=(90, 0, 90, 45.0), new=(10, 0, 10, 5.0))
    story.cluster.advance(119)
    assert not of(story.reconcile(), StartRun)
    story.cluster.advance(2)
    decision = story.reconcile()
    passed = next(event for event in decision.events if event.reason == "CanaryPassed")
    assert "10 answers, 0 failed, 0.50 s on average; the version before it: 90 answers" in passed.message
    assert digest(story) == OLD
    run = of(story.reconcile(), StartRun)[0]
    assert run.dag_id == "kaito_serve"
    assert digest(story) == NEW
    story.lives(lambda s: promotion(s).get("state") == "baking")
    assert story.cluster.canaries == {}
    story.lives(lambda s: told(s) == ("True", "Promoted"))
    assert digest(story) == NEW


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ((100, 0, 100, 50.0), (30, 3, 27, 13.5), "3 of 30 answers failed"),
        ((100, 0, 100, 50.0), (30, 0, 30, 60.0), "take 2.00 s on average"),
        ((100, 90, 10, 50.0), (30, 0, 30, 15.0), ""),  # what the served version does is not its fault
        ((100, 0, 100, 500.0), (30, 0, 30, 150.0), ""),  # all are slow: it is the load
        ((100, 0, 100, 50.0), (5, 2, 3, 90.0), ""),  # too few to say
    ],
)
def test_what_the_canary_s_answers_tell_is_held_against_the_served_version_s(
    old: tuple[float, float, float, float], new: tuple[float, float, float, float], why: str
) -> None:
    story = a_canary()
    counted(story, old=old, new=new)
    story.cluster.advance(10)
    decision = story.reconcile()
    assert bool(serves(decision)) is bool(why)
    if not why:
        assert promotion(story)["state"] == "canary"
        return
    assert serves(decision) == [BACK], "at once, without a run"
    assert not of(decision, StartRun)
    assert why in message(story)
    assert told(story) == ("False", "RolledBack")
    assert story.status["retrain"]["versions"][0]["state"] == "rolledBack"
    assert promotion(story)["state"] == "withdrawing"
    story.reconcile()
    assert not promotion(story), "gone when the servers say so"
    assert digest(story) == OLD
    assert ready(story)


def test_what_was_counted_before_its_time_is_not_held_against_it() -> None:
    story = a_service()
    counted(story, old=(100, 0, 100, 50.0), new=(20, 9, 11, 90.0))
    wants(story, limits=LIMITS, canary=SHARE)
    story.reconcile()
    story.reconcile()
    story.cluster.advance(10)
    assert not serves(story.reconcile())


def test_a_share_that_is_not_taken_away_is_taken_away_again() -> None:
    story = a_canary()
    counted(story, old=(100, 0, 100, 50.0), new=(30, 30, 0, 0.0))
    story.reconcile()
    story.cluster.canaries = {NEW: 10.0}  # as if the shell had died after the status
    assert serves(story.reconcile()) == [BACK]
    story.reconcile()
    assert not promotion(story)


@pytest.mark.parametrize("fault", ["restarts", "not ready", "refused", "golden"])
def test_other_faults_take_it_back_too(fault: str) -> None:
    story = a_canary()
    if fault == "restarts":
        pod = story.cluster.children("serving")[0]
        statuses = [{**one, "restartCount": 1} for one in pod["status"]["containerStatuses"]]
        story.cluster.change("Pod", pod, status={"containerStatuses": statuses})
    elif fault == "not ready":
        found = story.cluster.find("StatefulSet", NAME)
        assert found
        story.cluster.change("StatefulSet", found, status={"readyReplicas": 0})
    elif fault == "refused":
        story.shell.activity = Activity(0, 0, 0.0, refused=frozenset({NEW}))
    else:
        known = story.status["retrain"]
        wrong = {**known["promotion"], "breach": "the service answers 3 of 3 golden questions wrongly"}
        write(story, retraining.with_retrain(story.status, {**known, "promotion": wrong}))
    assert serves(story.reconcile()) == [BACK]
    assert told(story) == ("False", "RolledBack")
    assert digest(story) == OLD


def test_one_that_is_never_loaded_is_given_up() -> None:
    story = wants(a_service(), canary=SHARE)  # the servers tell nothing
    story.reconcile()
    story.cluster.advance(LOAD_SECONDS - 1)
    story.reconcile()
    assert told(story) == ("False", "Promoting")
    story.cluster.advance(1)
    story.reconcile()
    assert told(story) == ("False", "RolledBack")
    assert "not loaded after 10 min" in message(story)


def test_a_machine_that_is_lost_is_repaired_and_the_canary_goes_on() -> None:
    story = a_canary()
    story.cluster.delete("NodeClaim", sorted(story.cluster.objects["NodeClaim"])[0])
    story.reconcile()
    assert promotion(story)["state"] == "canary"
    story.lives(lambda s: ready(s) and run_ended(s))
    assert digest(story) == OLD
    assert story.cluster.canaries == {NEW: 10.0}, "the repair's rollout brought it along"


def test_pods_that_cannot_change_adapters_get_the_version_for_all_at_once() -> None:
    story = a_service()
    found = story.cluster.find("StatefulSet", NAME)
    assert found
    story.cluster.change("StatefulSet", {**found, "spec": {"replicas": 1}})
    wants(story, canary=SHARE)
    decision = story.reconcile()
    assert next(event for event in decision.events if event.reason == "NoCanary")
    assert of(decision, StartRun)
    assert digest(story) == NEW
    story.lives(lambda s: told(s) == ("True", "Promoted"))


@pytest.mark.parametrize("asked", ["previous", OLD])
def test_a_rollback_by_hand_ends_a_canary(asked: str) -> None:
    story = a_canary()
    known = retraining.of(story.status)
    served = {**ENTRY, "version": "original", "digest": OLD, "state": "promoted", "promotedAt": "2026-11-22"}
    write(story, retraining.with_retrain(story.status, {**known, "versions": [served, ENTRY]}))
    notes = {**story.ws["metadata"]["annotations"], names.ROLLBACK_TO: asked}
    story.cluster.change("Workspace", story.ws, annotations=notes)
    decision = story.reconcile()
    assert serves(decision) == [BACK]
    assert "RollbackRefused" not in {event.reason for event in decision.events}
    assert told(story) == ("False", "RolledBack")
    assert names.ROLLBACK_TO in message(story)


def test_an_edit_of_the_workspace_gives_a_canary_up() -> None:
    story = a_canary()
    story.edit(variant=9)
    story.lives(lambda s: ready(s) and run_ended(s) and s.status["run"]["generation"] == 2)
    story.reconcile()
    assert not promotion(story)
    assert story.cluster.canaries == {}


def test_the_schema_has_all_that_is_written() -> None:
    known = status_schema()["properties"]["retrain"]["properties"]["promotion"]["properties"]
    assert set(promotion(a_canary())) <= set(known)
