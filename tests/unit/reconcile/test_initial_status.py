"""What is said about a new Workspace before the work begins: what the decision says, and nothing that is not done."""

from __future__ import annotations

import pytest

from include.reconcile import (
    AddFinalizer,
    StartRun,
    awaits_initial_status,
    initial_status,
)
from tests.support.reconcile.story import Story, tuning_pod_runs


def test_a_good_workspace_is_accepted_and_its_run_is_still_to_be_started() -> None:
    story = Story()
    whole = story.decision()
    word = initial_status(story.ws, whole)
    assert word.actions == ()
    assert word.status
    assert whole.status
    assert word.status["run"] == {**whole.status["run"], "state": "waiting"}
    assert {**word.status, "run": None} == {**whole.status, "run": None}
    assert word.events == whole.events


@pytest.mark.parametrize("kind", ["tuning", "quick", "inference"])
def test_the_next_look_goes_on_as_if_it_had_been_the_first(kind: str) -> None:
    plain, told = Story(kind), Story(kind)
    look = told.look()
    told.shell.carry_out(look, initial_status(told.ws, told.decision()))
    assert told.airflow.runs == {}
    first, second = plain.reconcile(), told.reconcile()
    starts = [action for action in first.actions if isinstance(action, StartRun)]
    assert starts == [action for action in second.actions if isinstance(action, StartRun)] != []
    assert told.status == plain.status
    assert second.events == ()  # they were told with the initial status
    assert told.ws["metadata"]["annotations"] == plain.ws["metadata"]["annotations"]
    assert list(told.cluster.objects["ControllerRevision"]) == list(
        plain.cluster.objects["ControllerRevision"]
    )


def test_a_bad_workspace_is_told_all_and_the_next_look_has_nothing_to_add() -> None:
    story = Story(preset="bad")
    story.shell.secret = False
    word = initial_status(story.ws, story.decision())
    assert word.status == story.decision().status
    assert story.shell.carry_out(story.look(), word)
    assert story.condition("WorkspaceReady")[0] == "False"
    again = story.decision()
    assert (again.status, again.events) == (None, ())
    assert [type(action) for action in again.actions] == [AddFinalizer]


@pytest.mark.parametrize("what", ["paused", "upstream", "deleted", "told"])
def test_of_any_other_workspace_nothing_is_said(what: str) -> None:
    story = Story()
    if what == "paused":
        story.annotate(paused="true")
    elif what == "upstream":
        story.shell.upstream = "KAITO's own controller"
    elif what == "deleted":
        story.cluster.change("Workspace", story.ws, finalizers=["example.com/theirs"])
        story.cluster.delete("Workspace", "w")
    else:
        story.lives(tuning_pod_runs).edit(variant=1)
    word = initial_status(story.ws, story.decision())
    assert (word.status, word.actions, word.events) == (None, (), ())
    assert awaits_initial_status(story.ws) is (what in ("paused", "upstream"))
