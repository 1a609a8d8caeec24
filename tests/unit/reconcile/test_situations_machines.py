"""What the status says of machines that go, are taken away, or stop reporting: the cause, never that all is well."""

from __future__ import annotations

from dataclasses import replace

import pytest

from include.reconcile import decide
from include.reconcile.rollout import rollout_status
from include.workspace.api import names
from include.workspace.api.names import ProviderName
from include.workspace.status.conditions import condition
from tests.support.pools import workspace_pools
from tests.support.reconcile.cluster import NAME, Obj, label, node_status
from tests.support.reconcile.story import RECONCILE_CONFIG, Story, ready, run_ended, tuning_pod_runs

MACHINES = ("NodeClaimReady", "NodesReady", "ResourceReady")


@pytest.mark.parametrize("pod", ["runs on", "went with it"])
def test_machines_that_are_taken_from_a_run_were_not_released(pod: str) -> None:
    story = Story().lives(tuning_pod_runs)
    for claim in story.cluster.claims("tuning"):
        story.cluster.objects["NodeClaim"].pop(claim["metadata"]["name"])
    if pod == "went with it":
        story.cluster.objects["Pod"].clear()
    decision = story.reconcile()
    for kind in MACHINES:
        assert story.condition(kind) == ("False", "NodeClaimMissing")
    told = condition(story.status, "ResourceReady")
    assert told is not None
    assert "released" not in told["message"].replace("nobody released", "")
    assert "Warning" in {event.type for event in decision.events}


def test_machines_that_a_run_lets_go_were_released() -> None:
    story, seen = Story(), set[tuple[str, str]]()
    story.lives(lambda s: bool("status" in s.ws and seen.add(s.condition("ResourceReady"))) or run_ended(s))
    assert story.condition("ResourceReady") == ("False", "NodesReleased")
    assert ("False", "NodeClaimMissing") not in seen


def test_machines_that_a_failed_run_lets_go_were_released() -> None:
    story, seen = Story().lives(tuning_pod_runs), set[tuple[str, str]]()
    for run in story.airflow.runs.values():
        run.doomed = "tune_done"
    story.lives(lambda s: bool(seen.add(s.condition("ResourceReady"))) or run_ended(s))
    assert seen == {("True", "workspaceResourceStatusSuccess"), ("False", "NodesReleased")}


def test_a_machine_that_stops_reporting_during_a_run_is_said_and_so_is_its_return() -> None:
    story = Story().lives(tuning_pod_runs)
    node = next(n for n in story.cluster.all("Node") if label(n, names.POOL) == "tuning")
    story.cluster.change("Node", node, status=node_status("Unknown"))
    story.reconcile()
    assert story.condition("ResourceReady")[0] == story.condition("NodesReady")[0] == "False"
    story.cluster.change("Node", node, status=node_status("True"))
    story.reconcile()
    assert story.condition("ResourceReady") == ("True", "workspaceResourceStatusSuccess")


@pytest.mark.parametrize("until", [ready, tuning_pod_runs])
@pytest.mark.parametrize("gone", [False, True])
def test_a_node_of_ones_own_that_does_not_report_is_no_ready_resource(until: object, gone: bool) -> None:
    story = Story("quick" if until is ready else "tuning").lives(until)  # type: ignore[arg-type]
    component = "serving" if until is ready else "tuning"
    node = next(n for n in story.cluster.all("Node") if label(n, names.POOL) == component)
    config = replace(RECONCILE_CONFIG, machine_of=lambda _workspace: "")

    def look(nodes: list[Obj]) -> tuple[str, str]:
        seen = story.look()
        mine = workspace_pools(ProviderName.BYO)
        observed = replace(seen.observed, nodes=nodes, pools=mine)
        decision = decide(seen.workspace, observed, seen.now, config)
        told = condition(decision.status or seen.workspace["status"], "ResourceReady")
        if decision.status is not None:
            story.cluster.put("Workspace", {**story.ws, "status": dict(decision.status)})
        assert told is not None
        return told["status"], told["reason"]

    assert look([node])[0] == "True"
    lost = [] if gone else [{**node, "status": node_status("Unknown")}]
    assert look(lost) == ("False", "NodeNotReady")
    assert look([node]) == ("True", "workspaceResourceStatusSuccess")


def stateful_set(**status: int) -> Obj:
    known = {"observedGeneration": 1, "readyReplicas": 0, "updatedReplicas": 1}
    return {"metadata": {"name": NAME, "generation": 1}, "spec": {"replicas": 1}, "status": known | status}


def pod(*, ready: str = "True", going: bool = False, node: str = "n", **status: object) -> Obj:
    meta = {"name": f"{NAME}-0", **({"deletionTimestamp": "2026-11-23T12:00:00Z"} if going else {})}
    running = {"name": "server", "ready": True, "state": {"running": {}}, "restartCount": 0}
    told = {
        "phase": "Running",
        "containerStatuses": [running],
        "conditions": [{"type": "Ready", "status": ready}],
    }
    return {"metadata": meta, "spec": {"nodeName": node}, "status": told | status}


@pytest.mark.parametrize(
    ("pods", "status", "words"),
    [
        (
            [pod(ready="False")],
            {},
            f"0 of 1 replica ready: pod {NAME}-0 runs on Node n, which does not report",
        ),
        ([pod(going=True)], {"readyReplicas": 1}, f"0 of 1 replica ready: pod {NAME}-0 is being deleted"),
        ([pod()], {"readyReplicas": 1, "updatedReplicas": 0}, "1 of 1 replica ready, but 0 of them run"),
        ([pod()], {"readyReplicas": 1, "observedGeneration": 0}, "but the change is not rolled out yet"),
        (
            [pod(ready="False", node="", phase="Pending", containerStatuses=[])],
            {},
            f"pod {NAME}-0 is waiting for the scheduler",
        ),
        (
            [pod(ready="False", phase="Pending", containerStatuses=[])],
            {"readyReplicas": 1, "updatedReplicas": 0},
            f"0 of 1 replica ready: pod {NAME}-0 is starting on Node n",
        ),
        ([], {}, "0 of 1 replica ready: the pod is being made"),
    ],
)
def test_a_service_that_does_not_answer_says_what_its_pod_does(
    pods: list[Obj], status: dict[str, int], words: str
) -> None:
    told = rollout_status(stateful_set(**status), pods)
    assert not told.ready
    assert words in told.message


def scaled(story: Story, replicas: int) -> None:
    found = story.cluster.find("StatefulSet", NAME)
    assert found is not None
    generation = found["metadata"]["generation"] + 1
    story.cluster.change(
        "StatefulSet", {**found, "spec": {**found["spec"], "replicas": replicas}}, generation=generation
    )


def test_a_service_that_is_scaled_by_hand_goes_back_and_says_why() -> None:
    story = Story("inference").lives(ready)
    scaled(story, 2)
    decision = story.reconcile()
    told = [event for event in decision.events if event.reason == "ScaledByHand"]
    assert [event.type for event in told] == ["Warning"]
    assert "scaled to 2 replicas, and its Workspace has machines for 1: it goes back" in told[0].message
    assert told[0].once
    story.lives(lambda s: ready(s) and s.cluster.find("StatefulSet", NAME)["spec"]["replicas"] == 1)
    assert not [event for event in story.reconcile().events if event.reason == "ScaledByHand"]
    assert len(story.cluster.claims("serving")) == 1


def test_a_machine_that_is_lost_is_no_scaling_by_hand() -> None:
    story = Story("inference").lives(ready)
    for claim in story.cluster.claims("serving"):
        story.cluster.objects["NodeClaim"].pop(claim["metadata"]["name"])
    decision = story.reconcile()
    assert "ScaledByHand" not in {event.reason for event in decision.events}
    told = condition(story.status, "WorkspaceReady")
    assert told is not None
    assert "1 of 1 machine gone" in told["message"]


def test_a_broken_edit_leaves_no_promise_of_the_run_before() -> None:
    """What waited for the run of the first generation does not wait any more once a second one is refused."""
    story = Story()
    story.reconcile()
    assert story.condition("DatasetReady") == ("False", "DatasetPending")
    story.edit(preset="bad")
    story.lives(lambda s: s.condition("WorkspaceReady")[1] == "workspaceFailed")
    for kind in ("DatasetReady", "JobStarted", "AdapterPublished", "NodesReady"):
        told = condition(story.status, kind)
        assert told is not None
        assert told["message"].startswith("Not reached: "), told
        assert told["observedGeneration"] == 2


def test_nodes_of_machines_that_are_gone_are_no_worker_nodes_of_a_broken_workspace() -> None:
    story = Story("inference").lives(ready)
    assert story.status["workerNodes"]
    story.edit(preset="bad")
    story.reconcile()
    for kind in ("StatefulSet", "Pod", "NodeClaim", "Node"):
        story.cluster.objects[kind].clear()
    story.reconcile()
    assert story.status["workerNodes"] == []


@pytest.mark.parametrize("why", ["broken edit", "paused"])
def test_a_machine_that_stops_reporting_while_nothing_may_be_done_is_not_ready(why: str) -> None:
    story = Story().lives(tuning_pod_runs)
    if why == "paused":
        story.annotate(paused="true")
    else:
        story.edit(preset="bad")
    story.reconcile()
    node = next(n for n in story.cluster.all("Node") if label(n, names.POOL) == "tuning")
    story.cluster.change("Node", node, status=node_status("Unknown"))
    story.reconcile()
    assert story.condition("NodesReady")[0] == "False"
    assert story.condition("ResourceReady")[0] == "False"
