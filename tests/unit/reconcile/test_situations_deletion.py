"""What is decided about a deleted Workspace: nothing of ours stays, nothing of others goes."""

from __future__ import annotations

import pytest

from include.reconcile import Observed, RemoveFinalizer, StartRun, decide
from include.workspace.api import names
from tests.support.pools import workspace_pools
from tests.support.reconcile.cluster import NAME, NAMESPACE
from tests.support.reconcile.story import (
    OTHER,
    RECONCILE_CONFIG,
    Story,
    of,
    ready,
    run_ended,
    tuning_pod_runs,
)


def test_a_deleted_workspace_keeps_its_finalizer_until_everything_is_gone() -> None:
    story = Story("quick").lives(ready)
    story.cluster.delete("Workspace", NAME)
    decision = story.reconcile()
    assert of(decision, StartRun)[0].run_id == names.release_run_id(story.ws)
    assert story.condition("WorkspaceDeleting") == ("True", "workspaceDeleted")
    story.lives(lambda s: not s.cluster.all("NodeClaim") and not s.cluster.all("Pod"))
    story.lives(lambda s: bool(of(s.decision(), RemoveFinalizer)))
    assert not story.cluster.all("StatefulSet")
    story.reconcile()
    assert story.cluster.workspace is None


def test_the_finalizer_of_a_workspace_that_never_ran_is_removed_at_once() -> None:
    story = Story(preset="bad")
    story.reconcile()
    story.cluster.delete("Workspace", NAME)
    assert [type(a) for a in story.decision().actions] == [RemoveFinalizer]


def test_a_deletion_in_the_middle_of_a_run_waits_for_a_release_even_if_nothing_is_seen() -> None:
    story = Story()
    story.reconcile()
    story.cluster.delete("Workspace", NAME)
    decision = story.decision()
    assert not of(decision, RemoveFinalizer)
    assert of(decision, StartRun)[0].dag_id == "kaito_release"


def test_a_failed_release_is_tried_again_with_back_off() -> None:
    story = Story().lives(tuning_pod_runs)
    story.cluster.delete("Workspace", NAME)
    story.reconcile()
    story.airflow.runs[names.release_run_id(story.ws)].state = "failed"
    story.reconcile()
    assert story.decision().actions == ()
    story.cluster.advance(6)
    assert of(story.reconcile(), StartRun)[0].run_id == names.release_run_id(story.ws, 2)


@pytest.mark.parametrize("how", ["annotation", "deadline"])
def test_a_stuck_release_ends_with_a_warning_that_lists_what_is_left(how: str) -> None:
    story = Story().lives(tuning_pod_runs)
    story.cluster.delete("Workspace", NAME)
    story.reconcile()
    if how == "annotation":
        story.annotate(force="true")
    else:
        story.cluster.advance(1801)
    decision = story.decision()
    assert of(decision, RemoveFinalizer)
    warning = decision.events[-1]
    assert (warning.type, warning.reason) == ("Warning", "ReleasedByForce")
    claim = story.cluster.all("NodeClaim")[0]["metadata"]["name"]
    assert f"NodeClaim {claim}" in warning.message
    assert f"PersistentVolumeClaim {NAME}-work" in warning.message


def test_volumes_of_the_user_and_objects_of_others_do_not_hold_a_deletion_up() -> None:
    story = Story().lives(run_ended)
    story.cluster.delete("PersistentVolumeClaim", f"{NAME}-work")
    labels = {names.WORKSPACE: NAME, names.COMPONENT: "tuning"}
    for name, owners in (("data", []), (f"{NAME}-work", [OTHER])):
        meta = {"name": name, "namespace": NAMESPACE, "labels": labels, "ownerReferences": owners}
        story.cluster.create("PersistentVolumeClaim", {"metadata": meta})
    story.cluster.delete("Workspace", NAME)
    assert of(story.decision(), RemoveFinalizer)


def test_only_our_finalizer_matters() -> None:
    story = Story(preset="bad")
    story.cluster.change("Workspace", story.ws, finalizers=["theirs"])
    story.cluster.delete("Workspace", NAME)
    decision = story.decision()
    assert (decision.situation, decision.actions, decision.status) == ("deleting", (), None)


@pytest.mark.parametrize(("provider", "at_once"), [("", False), ("nodeclaim", True), ("aks", False)])
def test_machines_that_are_not_in_the_cluster_are_looked_for_by_a_release(
    provider: str, at_once: bool
) -> None:
    """A run that is over may have left an agent pool behind, and nothing of it is to be seen here."""
    story = Story("tuning").lives(run_ended)
    story.cluster.delete("Workspace", NAME)
    look = story.look()
    pools = workspace_pools(provider)
    look.workspace["status"]["run"]["state"] = "failed"
    decision = decide(look.workspace, Observed(pools=pools), look.now, RECONCILE_CONFIG)
    assert bool(of(decision, RemoveFinalizer)) == at_once
    if at_once:
        return
    started = of(decision, StartRun)[0]
    assert started.dag_id == "kaito_release"
    look.workspace["status"]["run"] = {"id": started.run_id, "dag": "kaito_release", "state": "started"}
    for state, over in (("running", False), ("failed", False), ("success", True)):
        seen = Observed(runs={started.run_id: state}, pools=pools)
        assert bool(of(decide(look.workspace, seen, look.now, RECONCILE_CONFIG), RemoveFinalizer)) == over
