"""Machines that a tuning run gave to serving, before there is a service: the run holds them, and nobody after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from include.reconcile.leftovers import LONGEST_PUSH_SECONDS
from include.workspace.api import names
from tests.support.reconcile.cluster import label
from tests.support.reconcile.story import Story, deleted, ready, run_ended


def pushes(story: Story) -> bool:
    return bool(story.cluster.children("adapter"))


def pushing() -> Story:
    """A run that pushes its adapter while its machine waits for the service."""
    story = Story("quick")
    story.airflow.hands_over = True
    story.lives(pushes)
    assert [label(claim, names.POOL) for claim in story.cluster.all("NodeClaim")] == ["serving"]
    return story


def test_one_machine_tunes_and_serves() -> None:
    story, made = Story("quick"), set[str]()
    story.airflow.hands_over = True
    story.lives(lambda s: bool(made.update(s.cluster.objects["NodeClaim"])) or ready(s))
    assert len(made) == 1
    assert [label(claim, names.POOL) for claim in story.cluster.all("NodeClaim")] == ["serving"]
    (first, second) = story.status["cost"]["claims"]
    assert (first["purpose"], second["purpose"]) == ("tuning", "serving")
    assert (first["uid"], first["until"]) == (second["uid"], second["since"])


def test_nobody_takes_a_machine_from_a_run_that_pushes() -> None:
    story = pushing()
    assert deleted(story.reconcile()) == []
    assert story.condition("ResourceReady") == ("True", "workspaceResourceStatusSuccess")


def fails(story: Story) -> None:
    for run in story.airflow.runs.values():
        run.doomed = "publish_done"


def dies(story: Story) -> None:
    """Without a teardown: its worker, scheduler and database went with it."""
    for run in story.airflow.runs.values():
        run.state = "failed"


def is_deleted(story: Story) -> None:
    story.cluster.delete("Workspace", story.ws["metadata"]["name"])


def fails_while_paused(story: Story) -> None:
    """The annotation keeps the reconciler away, and not a run's own releases."""
    story.annotate(paused="true")
    fails(story)


def is_edited_badly(story: Story) -> None:
    story.edit(preset="bad")


@pytest.mark.parametrize("event", [fails, fails_while_paused, dies, is_deleted, is_edited_badly])
def test_whatever_ends_the_push_its_machine_goes(event: Callable[[Story], None]) -> None:
    story = pushing()
    event(story)
    for _ in range(30):
        if story.cluster.workspace is None:
            break
        story.reconcile()
        for run in list(story.airflow.runs.values()):
            story.airflow.advance(run)
        story.cluster.tick()
        story.cluster.advance(5)
    assert story.cluster.all("NodeClaim") == []


def hangs(story: Story) -> Story:
    """The push takes as long as it may, and a moment more; nothing of its run moves."""
    story.cluster.advance(LONGEST_PUSH_SECONDS + 1)
    return story


def test_a_push_that_hangs_holds_no_machine_for_long() -> None:
    story = pushing()
    story.reconcile()  # it is on the books now
    assert deleted(story.reconcile()) == []
    (claim,) = story.cluster.objects["NodeClaim"]
    assert deleted(hangs(story).reconcile()) == ["NodeClaim"]
    assert story.condition("ResourceReady") == ("False", "NodesReleased")
    story.lives(lambda s: claim not in s.cluster.objects["NodeClaim"])
    assert story.condition("ResourceReady") == ("False", "NodesReleased")


def test_a_push_that_ends_late_is_served_on_another_machine() -> None:
    story = pushing()
    story.reconcile()
    (claim,) = story.cluster.objects["NodeClaim"]
    hangs(story).reconcile()
    story.lives(ready)
    assert len(story.cluster.objects["NodeClaim"]) == 1
    assert claim not in story.cluster.objects["NodeClaim"]


def test_a_machine_that_was_asked_for_to_serve_may_boot_for_as_long_as_it_takes() -> None:
    story = Story("quick").lives(lambda s: bool(s.cluster.claims("serving")))
    story.reconcile()
    assert deleted(hangs(story).reconcile()) == []


def test_after_an_edit_the_next_run_tunes_on_a_machine_of_its_own_and_the_old_one_goes() -> None:
    story = pushing()
    (old,) = story.cluster.objects["NodeClaim"]
    story.edit(variant=1).lives(lambda s: old not in s.cluster.objects["NodeClaim"])
    story.lives(run_ended).lives(ready)
    assert len(story.cluster.all("NodeClaim")) == 1
