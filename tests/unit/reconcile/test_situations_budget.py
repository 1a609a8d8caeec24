"""A budget that is spent stops what costs, and only then; raised, the Workspace goes on."""

from __future__ import annotations

from datetime import timedelta

import pytest

from include.ledger import records
from include.reconcile import due
from include.workspace.api import names
from include.workspace.status.conditions import timestamp
from tests.support.reconcile.story import Story, deleted, ready, run_ended, tuning_pod_runs

DEAR = "0.0001"


def stopped(story: Story) -> bool:
    return not story.cluster.all("NodeClaim") and not story.cluster.all("StatefulSet")


def test_a_run_is_stopped_and_its_machines_go() -> None:
    story = Story("tuning").lives(tuning_pod_runs).annotate(budget=DEAR)
    decision = story.reconcile()
    assert decision.situation == "overspent"
    assert deleted(decision) == ["Pod"], "the machine goes when nothing works on it any more"
    assert [e.reason for e in decision.events if e.type == "Warning"] == ["BudgetExceeded"]
    story.cluster.tick()
    assert deleted(story.reconcile()) == ["NodeClaim"]
    assert (
        story.condition("WorkspaceReady")
        == story.condition("WorkspaceSucceeded")
        == ("False", "BudgetExceeded")
    )
    assert (story.status["state"], story.status["run"]["state"]) == ("Failed", "failed")
    assert story.status["cost"]["budgetUsd"] == float(DEAR)


def test_a_service_is_stopped_and_not_brought_back() -> None:
    story = Story("quick").lives(ready).annotate(budget=DEAR).lives(stopped)
    for _ in range(5):
        decision = story.reconcile()
        story.cluster.tick()
        assert not decision.actions
        assert story.cluster.all("NodeClaim") == []
    assert story.condition("InferenceReady")[0] == "False"


def test_a_raised_budget_and_a_rerun_go_on() -> None:
    story = Story("tuning").lives(tuning_pod_runs).annotate(budget=DEAR).lives(stopped)
    first = story.status["run"]["id"]
    story.annotate(budget="100").reconcile()
    assert story.status["run"]["id"] == first, "somebody has to ask for it"
    story.annotate(rerun="more").lives(ready)
    assert story.status["run"]["id"] == f"{first}.r2"
    assert story.status["cost"]["usefulNodeSeconds"] > 0


@pytest.mark.parametrize("change", [{"rerun": "again"}, {}])
def test_nothing_starts_on_an_empty_budget(change: dict[str, str]) -> None:
    story = Story("tuning").lives(tuning_pod_runs).annotate(budget=DEAR).lives(stopped)
    story.annotate(**change) if change else story.edit(variant=1)
    for _ in range(4):
        assert story.reconcile().situation == "overspent"
        story.cluster.tick()
    assert story.cluster.all("NodeClaim") == []
    assert story.condition("WorkspaceReady") == ("False", "BudgetExceeded")


def test_a_tuning_that_is_done_stays_done() -> None:
    story = Story("tuning").lives(run_ended).annotate(budget=DEAR)
    assert story.reconcile().situation == "succeeded"
    assert story.condition("WorkspaceReady")[0] == "True"


@pytest.mark.parametrize("given", ["1000", None])
def test_within_a_budget_or_without_one_nothing_is_stopped(given: str | None) -> None:
    story = Story("quick")
    if given:
        story.annotate(budget=given)
    assert story.lives(ready).condition("WorkspaceReady")[0] == "True"


def test_a_budget_that_cannot_be_read_leaves_the_last_one() -> None:
    story = Story("tuning").annotate(budget="1000").lives(tuning_pod_runs)
    assert story.annotate(budget="lots").reconcile().situation == "running"
    assert story.annotate(budget=DEAR).reconcile().situation == "overspent"
    assert story.annotate(budget="lots").reconcile().situation == "overspent"


def test_a_service_is_looked_at_when_its_budget_is_used_up() -> None:
    story = Story("inference").annotate(budget="10").lives(ready)
    now, status = story.cluster.now, story.status
    left = (10 - records.spent(status["cost"], now)) / 3.6 * 3600
    assert due(story.ws, now, now) == pytest.approx(left, abs=2)
    later = now + timedelta(seconds=left + 100)
    assert due(story.ws, later, later) == 5.0, "again soon while what is over its budget goes"
    assert timestamp(now) >= status["cost"]["at"]
    story.annotate(paused="true")
    assert due(story.ws, now, now) is None
    assert names.BUDGET in story.ws["metadata"]["annotations"]
