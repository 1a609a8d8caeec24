"""A change that needs a new pod, on machines with room for two: the old one goes when the new one answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from kaito.hooks.api import STATEFUL_SET
from kaito.operators.rollout import RollOutOperator
from kaito.tasks.preflight_result import PreflightResult
from kaito.triggers import base
from kaito.triggers.surge import SurgePodTrigger

from include.reconcile import surge
from tests.support.fake_cluster import FakeCalls, FakeCluster
from tests.support.rollouts import NAME
from tests.support.triggers import WHICH, ending

REFERENCE = "registry.example.com/adapters/phi@sha256:" + "1" * 64


@pytest.fixture
def operator(cluster: FakeCluster, context: dict[str, Any]) -> RollOutOperator:
    """Of a service that answers, on nodes of the user's own, whose next rollout is another template."""
    context["ti"].xcoms["publish_adapter"] = {"reference": REFERENCE}
    _plan(context, own_nodes=True, gpus_per_node=1)
    made = RollOutOperator(task_id="roll_out", adapter_task_id="publish_adapter")
    made.cluster = cluster
    made.execute(context)
    live(cluster)["status"] = {"readyReplicas": 1, "observedGeneration": 1}
    _plan(context, gpus_per_node=2)
    return made


def _plan(context: dict[str, Any], **changes: Any) -> None:
    first = PreflightResult.from_xcom(context["ti"].xcoms["preflight"])
    assert first.serving_plan is not None
    other = first.model_copy(update={"serving_plan": replace(first.serving_plan, **changes)})
    context["ti"].xcoms["preflight"] = other.to_xcom()


def live(cluster: FakeCluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.objects["statefulsets", "default", NAME]
    return found


def size(cluster: FakeCluster) -> tuple[int, int]:
    return live(cluster)["spec"]["replicas"], surge.partition(live(cluster))


def test_the_new_pod_comes_first_then_the_old_one_is_replaced_then_the_second_goes(
    cluster: FakeCluster, context: dict[str, Any], operator: RollOutOperator
) -> None:
    with pytest.raises(TaskDeferred) as waits:
        operator.execute(context)
    assert size(cluster) == (2, 1)
    ready = cluster.condition(NAME, "InferenceReady")
    assert (ready["status"], "beside the one that answers" in ready["message"]) == ("True", True)
    assert (waits.value.trigger.ordinal, waits.value.kwargs) == (1, {"stage": "beside"})
    with pytest.raises(TaskDeferred) as waits_again:
        operator.go_on(context, {"ready": True, "message": ""}, **waits.value.kwargs)
    assert size(cluster) == (2, 0)
    assert waits_again.value.trigger.ordinal == 0
    result = operator.go_on(context, {"ready": True, "message": ""}, **waits_again.value.kwargs)
    assert size(cluster) == (1, 0)
    assert result["adapters"] == [{"name": NAME, "image": REFERENCE}]


def test_without_room_the_pod_is_replaced_and_the_condition_says_so(
    cluster: FakeCluster, context: dict[str, Any], operator: RollOutOperator
) -> None:
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    full = {"ready": False, "room": False, "message": "0/1 nodes are available"}
    assert operator.go_on(context, full, stage="beside")["stateful_set"] == NAME
    assert size(cluster) == (1, 0)
    told = cluster.condition(NAME, "InferenceReady")["message"]
    assert told.startswith(
        "No Node has room for a second pod, so the one that answers is replaced: 0/1 nodes"
    )


def test_a_new_pod_that_fails_leaves_the_old_one(
    cluster: FakeCluster, context: dict[str, Any], operator: RollOutOperator
) -> None:
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    failed = {"ready": False, "room": True, "message": "serving ended with 64"}
    with pytest.raises(AirflowFailException, match=r"ended with 64\. The earlier pod still answers"):
        operator.go_on(context, failed, stage="beside")
    assert size(cluster) == (1, 1), "the first pod keeps its template"


@pytest.mark.parametrize("room", [True, False])
def test_the_second_pod_goes_on_where_the_first_does_not_come_back(
    cluster: FakeCluster, context: dict[str, Any], operator: RollOutOperator, room: bool
) -> None:
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    with pytest.raises(TaskDeferred):
        operator.go_on(context, {"ready": True, "message": ""}, stage="beside")
    failed = {"ready": False, "room": room, "message": "Pod 0 was evicted"}
    with pytest.raises(AirflowFailException, match=f"evicted. Pod {NAME}-1 answers meanwhile"):
        operator.go_on(context, failed, stage="replaced")
    assert size(cluster) == (2, 0)


def test_a_task_that_is_tried_again_goes_on_where_it_was(
    cluster: FakeCluster, context: dict[str, Any], operator: RollOutOperator
) -> None:
    for _ in range(2):
        with pytest.raises(TaskDeferred) as waits:
            operator.execute(context)
        assert waits.value.kwargs == {"stage": "beside"}
    with pytest.raises(TaskDeferred):
        operator.go_on(context, {"ready": True, "message": ""}, stage="beside")
    with pytest.raises(TaskDeferred) as waits:
        operator.execute(context)
    assert waits.value.kwargs == {"stage": "replaced"}


def test_a_machine_that_was_made_for_one_pod_has_no_room_for_two_and_that_is_told(
    cluster: FakeCluster, context: dict[str, Any], operator: RollOutOperator
) -> None:
    _plan(context, own_nodes=False)
    operator.execute(context)
    assert size(cluster) == (1, 0)
    assert "its machine has GPUs for one" in cluster.condition(NAME, "InferenceReady")["message"]


def test_what_needs_no_new_pod_makes_none(
    cluster: FakeCluster, context: dict[str, Any], operator: RollOutOperator
) -> None:
    _plan(context, gpus_per_node=1)
    assert operator.execute(context)["stateful_set"] == NAME
    assert size(cluster) == (1, 0)


async def test_the_wait_gives_the_word_back_to_the_task(
    cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "AsyncKaitoClusterHook", lambda conn_id: FakeCalls(cluster))
    event = await ending(SurgePodTrigger(**WHICH, ordinal=1))
    assert event.payload == {"ready": False, "message": "The StatefulSet is gone.", "room": True}
    status = {"observedGeneration": 1, "updateRevision": "new"}
    cluster.add(STATEFUL_SET, {"metadata": {"name": NAME, "generation": 1}, "spec": {}, "status": status})
    labels = {
        "kaito.sh/workspace": NAME,
        "kaito.sh/component": "serving",
        "controller-revision-hash": "new",
    }
    cluster.objects["pods", "default", f"{NAME}-1"] = {
        "metadata": {"name": f"{NAME}-1", "namespace": "default", "labels": labels},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    event = await ending(SurgePodTrigger(**WHICH, ordinal=1))
    assert event.payload == {"ready": True, "message": f"Pod {NAME}-1 answers"}
