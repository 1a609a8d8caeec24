"""A cloud without machines: the next attempt comes by itself, ever later, and says when; other failures are final."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from include.reconcile import StartRun, backoff
from include.reconcile.breaker import CAP_SECONDS, FIRST_SECONDS
from include.workspace.api import names
from include.workspace.status.conditions import condition
from tests.support.reconcile.story import Story, of, ready, run_ended

NO_CAPACITY = "CapacityUnavailable"


def refused(story: Story, step: str = "tuning_nodes", reason: str = NO_CAPACITY) -> Story:
    """The story goes on until its latest run has ended at this step."""
    story.lives(lambda s: s.status["run"]["id"] in s.airflow.runs if "status" in s.ws else False)
    run = story.airflow.runs[story.status["run"]["id"]]
    run.doomed, run.reason = step, reason
    return story.lives(lambda s: run_ended(s) and s.status["run"]["id"] == run.id, rounds=120)


def retry(story: Story) -> dict[str, Any]:
    found: dict[str, Any] = story.status.get("retry") or {}
    return found


def pause(story: Story) -> float:
    return backoff.wait(retry(story), story.cluster.now)


def later(story: Story, seconds: float) -> None:
    story.cluster.now += timedelta(seconds=seconds)


def test_the_next_attempt_is_announced_and_nothing_is_held_meanwhile() -> None:
    story = refused(Story())
    assert story.condition("ResourceReady") == ("False", NO_CAPACITY)
    assert story.condition("WorkspaceReady") == ("False", "workspacePending")
    assert story.status["state"] == "Pending"
    told = condition(story.status, "ResourceReady")
    assert told is not None
    assert told["message"].startswith(
        f"The next attempt is at {retry(story)['after']}, after 1 without machines. "
    )
    assert 0 < pause(story) <= FIRST_SECONDS
    story.lives(lambda s: not s.cluster.claims("tuning"))
    story.reconcile()  # the machines' cost is settled
    decision = story.reconcile()
    assert decision.situation == "awaiting"
    assert not of(decision, StartRun)
    assert decision.requeue_after == pytest.approx(pause(story), abs=1)
    assert decision.status is None, "a look without news writes nothing"


def test_each_attempt_waits_twice_as_long_as_the_one_before_up_to_an_hour() -> None:
    story, waited = Story(), []
    for attempt in range(1, 7):
        refused(story)
        assert retry(story)["failures"] == attempt
        waited.append(backoff.moment(retry(story)["after"]))
        begun = story.cluster.now
        later(story, pause(story) + 1)
        decision = story.reconcile()
        assert of(decision, StartRun)[0].run_id == names.attempt_run_id(story.ws, attempt + 1)
        assert story.status["run"]["cause"] == "capacity"
        assert (waited[-1] - begun).total_seconds() <= min(CAP_SECONDS, FIRST_SECONDS * 2 ** (attempt - 1))
    refused(story)
    assert CAP_SECONDS - 60 < pause(story) <= CAP_SECONDS


def test_machines_that_come_at_last_end_the_story_well() -> None:
    story = refused(Story())
    later(story, pause(story) + 1)
    story.lives(lambda s: ready(s) and s.status["run"]["attempt"] == 2)
    story.reconcile()
    assert retry(story) == {}
    assert story.condition("WorkspaceSucceeded") == ("True", "workspaceSucceeded")


@pytest.mark.parametrize("how", ["rerun", "edit"])
def test_a_rerun_and_an_edit_begin_anew_at_once(how: str) -> None:
    story = refused(Story())
    story.annotate(rerun="now") if how == "rerun" else story.edit(variant=1)
    decision = story.reconcile()
    assert len(of(decision, StartRun)) == 1
    assert retry(story) == {}
    refused(story)
    assert retry(story)["failures"] == 1


@pytest.mark.parametrize("reason", ["", "LaunchFailed"])
def test_what_time_does_not_mend_stays_failed(reason: str) -> None:
    story = refused(Story(), reason=reason)
    assert story.condition("WorkspaceReady") == ("False", "workspaceFailed")
    story.reconcile()
    later(story, 2 * CAP_SECONDS)
    assert story.decision().situation == "failed"
    assert retry(story) == {}


def test_a_tuned_model_that_has_no_machines_to_be_served_on_is_not_tuned_again() -> None:
    story = refused(Story("quick"), step="serving_nodes")
    assert story.condition("AdapterPublished")[0] == "True"
    later(story, pause(story) + 1)
    run = of(story.reconcile(), StartRun)[0]
    assert run.dag_id == "kaito_serve"
    story.lives(lambda s: ready(s) and s.status["run"]["id"] == run.run_id)
    story.reconcile()
    assert story.condition("WorkspaceSucceeded") == ("True", "workspaceSucceeded")
    assert story.status["state"] == "Succeeded"
    assert retry(story) == {}


def test_a_repair_without_machines_waits_as_long_as_any_other() -> None:
    story = Story("inference").lives(ready)
    for claim in list(story.cluster.claims("serving")):
        story.cluster.delete("NodeClaim", claim["metadata"]["name"])
    story.lives(lambda s: s.status["run"]["attempt"] == 2)
    refused(story, step="serving_nodes")
    assert retry(story)["reason"] == NO_CAPACITY
    assert pause(story) > 100
    later(story, pause(story) + 1)
    story.lives(lambda s: ready(s) and s.status["run"]["attempt"] == 3)
