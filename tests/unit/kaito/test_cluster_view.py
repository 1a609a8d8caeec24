"""Who needs a look, and why: what counts as news, what is left to the run, and what a lost memory costs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from kaito.controller.cache import ClusterView, in_flight
from kaito.controller.fingerprints import fingerprint
from kaito.controller.informer import Change

from include.workspace.api import names

KEY = ("default", "w")


def workspace(version: str = "1", generation: int = 1, **more: Any) -> dict[str, Any]:
    metadata = {
        "name": "w",
        "namespace": "default",
        "uid": "u",
        "generation": generation,
        "resourceVersion": version,
        "finalizers": [names.FINALIZER],
        **more.pop("metadata", {}),
    }
    return {"metadata": metadata, "inference": {"preset": {"name": "p"}}, **more}


def running(**more: Any) -> dict[str, Any]:
    """A Workspace with a run under way."""
    status = {"run": {"id": "r", "generation": 1, "state": "started"}, "state": "Running"}
    return workspace(status=status, **more)


def verdict(status: str, reason: str) -> dict[str, Any]:
    told = {"type": "WorkspaceReady", "status": status, "reason": reason, "observedGeneration": 1}
    found = running()
    found["status"]["conditions"] = [told]
    return found


def pod(name: str = "w-0", phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    labels = {names.WORKSPACE: "w", names.COMPONENT: "serving"}
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "labels": labels,
            **metadata,
        },
        "status": {"phase": phase},
    }


def config_map(version: str, name: str = "c") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default", "uid": "c", "resourceVersion": version}}


@pytest.fixture
def view() -> ClusterView:
    """A view that has seen everything and handed it out."""
    found = ClusterView()
    for plural, objects in (("workspaces", [workspace()]), ("pods", [pod()]), ("configmaps", [])):
        found.page(plural, objects)
        found.listed(plural, "10")
    found.dispatch(None, "first", 100.0)
    found.acknowledge("first")
    return found


def test_everything_is_new_at_first(view: ClusterView) -> None:
    fresh = ClusterView()
    fresh.page("workspaces", [workspace()])
    assert fresh.due == {KEY: "it is new"}
    assert view.due == {}


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"generation": 2}},
        {"metadata": {"uid": "another"}},
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"annotations": {"kaito.sh/rerun": "1"}}},
        {"metadata": {"finalizers": [names.FINALIZER, "somebody/else"]}},
        {"metadata": {"deletionTimestamp": "2026-11-23T12:00:00Z"}},
    ],
)
def test_what_a_user_changes_is_news(view: ClusterView, change: dict[str, Any]) -> None:
    view.put("workspaces", workspace(**change))
    assert KEY in view.due


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"metadata": {"resourceVersion": "99"}},
        {"status": {"state": "Ready"}},
        {"metadata": {"annotations": {"workspace.kaito.io/revision": "3"}}},
        {"metadata": {"finalizers": []}},
    ],
)
def test_what_we_write_ourselves_is_none(view: ClusterView, change: dict[str, Any]) -> None:
    view.put("workspaces", workspace(**change))
    assert view.due == {}


def test_a_pod_that_turns_is_news_for_its_workspace(view: ClusterView) -> None:
    view.put("pods", pod(phase="Failed"))
    assert view.due == {KEY: "pod w-0 changed"}


def test_a_pod_that_goes_is_news(view: ClusterView) -> None:
    view.remove("pods", pod())
    assert view.due == {KEY: "pod w-0 is gone"}


def test_heartbeats_are_no_news(view: ClusterView) -> None:
    beat = pod(resourceVersion="77", managedFields=[{"time": "now"}])
    beat["status"]["conditions"] = []
    view.put("pods", beat)
    assert view.due == {}


def test_objects_of_others_are_not_kept(view: ClusterView) -> None:
    other = pod("x")
    other["metadata"]["labels"] = {}
    view.put("pods", other)
    assert view.due == {}
    assert len(view._marks["pods"]) == 1


def test_while_a_run_works_its_objects_are_its_own_business(view: ClusterView) -> None:
    view.put("workspaces", running())
    view.due.clear()
    view.put("pods", pod(phase="Failed"))
    view.put("pods", pod("w-g1-tuning"))
    view.remove("pods", pod())
    assert view.due == {}


@pytest.mark.parametrize(("status", "reason"), [("True", "workspaceReady"), ("False", "workspaceFailed")])
def test_the_end_of_a_run_is_news(view: ClusterView, status: str, reason: str) -> None:
    view.put("workspaces", running())
    view.due.clear()
    view.put("workspaces", verdict(status, reason))
    assert view.due == {KEY: "its run has a verdict"}
    assert not in_flight(verdict(status, reason))


def test_a_run_of_an_earlier_generation_is_not_under_way() -> None:
    assert in_flight(running())
    assert not in_flight(running(generation=2))
    assert not in_flight(running(metadata={"deletionTimestamp": "now"}))


def test_a_new_list_forgets_what_is_not_in_it(view: ClusterView) -> None:
    view.page("pods", [])
    view.listed("pods", "20")
    assert view.due == {KEY: "pod w-0 is gone"}
    view.page("workspaces", [])
    view.listed("workspaces", "21")
    assert view.due == {}
    assert view.workspaces == view.looked == {}


def test_the_same_list_again_is_no_news(view: ClusterView) -> None:
    view.page("workspaces", [workspace("50")])
    view.listed("workspaces", "60")
    view.page("pods", [pod()])
    view.listed("pods", "61")
    assert view.due == {}
    assert view.versions == {"workspaces": "60", "pods": "61", "configmaps": "10"}


def test_only_config_maps_that_a_workspace_names_matter(view: ClusterView) -> None:
    named = workspace(inference={"preset": {"name": "p"}, "config": "c"})
    view.put("workspaces", named)
    view.due.clear()
    assert view.names_config_maps()
    view.put("configmaps", config_map("1"))
    view.due.clear()
    view.put("configmaps", config_map("1"))
    view.put("configmaps", config_map("5", "other"))
    assert view.due == {}
    view.put("configmaps", config_map("2"))
    assert view.due == {KEY: "ConfigMap c changed"}
    view.due.clear()
    view.remove("configmaps", config_map("2"))
    assert view.due == {KEY: "ConfigMap c is gone"}
    view.remove("workspaces", named)
    assert not view.names_config_maps()


def test_a_kind_that_is_absent_counts_as_seen(view: ClusterView) -> None:
    view.take("nodeclaims", Change("ABSENT", ""))
    assert "nodeclaims" in view.versions


def test_a_change_moves_the_version_that_a_watch_goes_on_from(view: ClusterView) -> None:
    view.take("pods", Change("MODIFIED", "33", [pod(phase="Failed")]))
    assert view.versions["pods"] == "33"
    view.take("pods", Change("BOOKMARK", "44"))
    assert view.versions["pods"] == "44"
    assert view.due == {KEY: "pod w-0 changed"}


def test_what_a_failed_task_was_given_is_due_again(view: ClusterView) -> None:
    view.put("pods", pod(phase="Failed"))
    view.dispatch([KEY], "second", 200.0)
    assert view.due == {}
    assert not view.acknowledge("first")
    assert view.due == {KEY: "the last look at it failed"}
    assert view.refusals == 1
    view.dispatch([KEY], "third", 300.0)
    assert view.acknowledge("third")
    assert view.refusals == 0
    assert view.due == {}


def test_the_end_of_a_machine_is_told_until_somebody_has_accounted_for_it(view: ClusterView) -> None:
    stranger = {"metadata": {"name": "s", "uid": "s"}}
    view.record_deletion([node(), stranger], "2026-11-24T03:00:00Z")
    told = {"n": "2026-11-24T03:00:00Z"}
    assert view.ended_of(None) == view.ended_of([KEY]) == told
    assert view.ended_of([("default", "another")]) == {}
    view.dispatch([KEY], "second", 200.0)
    view.acknowledge("first")
    assert view.ended_of([KEY]) == told, "the look at it failed"
    view.dispatch([KEY], "third", 300.0)
    view.acknowledge("third")
    assert view.ended_of(None) == {}


def test_a_failed_look_at_everything_is_made_again(view: ClusterView) -> None:
    view.dispatch(None, "all", 200.0)
    assert not view.acknowledge("")
    assert view.resynced is None


def test_a_thousand_workspaces_of_a_megabyte_cost_little(view: ClusterView) -> None:
    big = workspace(
        metadata={"annotations": {"kaito.sh/note": "x" * 1_000_000, "other/one": "y" * 1_000_000}}
    )
    view.put("workspaces", big)
    assert len(str(view.workspaces[KEY])) < 2000


def test_the_view_does_not_change_what_it_is_given(view: ClusterView) -> None:
    given = running(metadata={"annotations": {"kaito.sh/rerun": "1"}})
    before = copy.deepcopy(given)
    view.put("workspaces", given)
    assert given == before


def node(ready: str = "True", gpus: str = "1", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "n",
            "uid": "n",
            "labels": {names.WORKSPACE: "w", names.WORKSPACE_NAMESPACE: "default"},
        },
        "spec": spec,
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": "now"}],
            "allocatable": {"nvidia.com/gpu": gpus, "memory": "1"},
        },
    }


@pytest.mark.parametrize(
    "other", [node(ready="Unknown"), node(gpus="0"), node(taints=[{"key": "k"}]), node(unschedulable=True)]
)
def test_what_matters_of_a_node(other: dict[str, Any]) -> None:
    same = node()
    same["status"]["conditions"][0]["lastHeartbeatTime"] = "later"
    same["status"]["allocatable"]["memory"] = "2"
    assert fingerprint("nodes", node()) == fingerprint("nodes", same)
    assert fingerprint("nodes", node()) != fingerprint("nodes", other)
