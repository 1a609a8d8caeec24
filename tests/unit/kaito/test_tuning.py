"""A training that has lost its machines: others are asked for and waited for, and the run's choices count again."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from airflow.triggers.base import TaskSuccessEvent
from kaito.hooks import cluster as hooks
from kaito.hooks.api import NODE, NODE_CLAIM
from kaito.operators.tuning import TuneOperator
from kaito.triggers import base
from kaito.triggers.pool import GpuPoolReadyTrigger, LostMachinesTrigger

from tests.unit.kaito.conftest import FakeCluster
from tests.unit.kaito.test_pool_fallback import A100, H100, NAME, V100, asked_for, choices, gave_up, told
from tests.unit.kaito.test_triggers import WHICH, AsyncCluster, ending
from tests.unit.kaito.test_workload import EVENT, comes_back, ended_pod, have_machine, started

__all__ = ["choices", "comes_back"]
LOST_AGAIN = {"message": "The pool has no NodeClaims", "reason": "NodeClaimMissing", "missing": True}


@pytest.fixture
def tune(cluster: FakeCluster) -> TuneOperator:
    operator = TuneOperator(task_id="tune")
    operator.__dict__["cluster"] = cluster
    return operator


def second_try(tune: TuneOperator, context: dict[str, Any]) -> TaskDeferred:
    """The second try finds no machine and waits."""
    context["ti"].try_number, context["ti"].max_tries = 2, 2
    with pytest.raises(TaskDeferred) as deferred:
        tune.execute(context)
    assert isinstance(deferred.value.trigger, LostMachinesTrigger)
    assert deferred.value.method_name == "machines_came"
    return deferred.value


def comes_up(cluster: FakeCluster) -> None:
    """The machine that was asked for is ready."""
    (claim,) = cluster.list(NODE_CLAIM)
    done = [{"type": type_, "status": "True"} for type_ in ("Launched", "Registered", "Initialized", "Ready")]
    cluster.add(NODE_CLAIM, {**claim, "status": {"nodeName": "n1", "conditions": done}})
    status = {"conditions": done, "allocatable": {"nvidia.com/gpu": "1"}}
    cluster.add(NODE, {"metadata": {"name": "n1"}, "status": status})


def comes_back_to_work(tune: TuneOperator, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KubernetesPodOperator, "execute", lambda self, context: None)
    tune.machines_came(context, {"ready": True, "message": "1 GPU node(s) ready: n1"})
    assert tune.pod_template_dict is not None


def test_a_first_try_asks_for_nothing(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started(tune, context, monkeypatch)
    assert asked_for(cluster) == []


def test_a_second_try_goes_on_at_once_where_the_machines_are_there(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    have_machine(cluster)
    context["ti"].try_number = 2
    started(tune, context, monkeypatch)
    assert "nodeclaims" not in [kind for kind, _ in cluster.writes]
    assert cluster.condition(NAME, "JobStarted")["status"] == "True"


def test_a_second_try_asks_for_machines_that_were_lost_and_waits_for_them(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = second_try(tune, context).trigger.serialize()[1]
    assert asked_for(cluster) == [V100]
    assert (wait["workspace"], wait["namespace"], wait["purpose"]) == (NAME, "default", "tuning")
    assert cluster.condition(NAME, "JobStarted") == {}
    comes_up(cluster)
    comes_back_to_work(tune, context, monkeypatch)
    assert cluster.condition(NAME, "JobStarted")["status"] == "True"


def test_when_the_cloud_has_none_of_these_left_the_next_choice_is_trained_on(
    tune: TuneOperator, cluster: FakeCluster, choices: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    choices["ti"].xcoms["wait_for_nodes"] = {"offer": V100}
    second_try(tune, choices)
    assert asked_for(cluster) == [V100]
    with pytest.raises(TaskDeferred) as deferred:
        tune.machines_came(choices, gave_up(V100))
    assert isinstance(deferred.value.trigger, LostMachinesTrigger)
    assert asked_for(cluster) == [A100]
    assert told(cluster) == [(V100, "Refused"), (f"{A100}@2", "Asked")]
    comes_up(cluster)
    seen: list[str] = []
    monkeypatch.setattr(
        "include.manifests.tuning_pod",
        lambda ws, plan, *rest: seen.append(plan.instance_type) or {"metadata": {"namespace": "default"}},
    )
    comes_back_to_work(tune, choices, monkeypatch)
    assert seen == [A100], "the pod is cut to the machine that is there"


def test_when_nothing_is_left_the_run_ends(
    tune: TuneOperator, cluster: FakeCluster, choices: dict[str, Any]
) -> None:
    second_try(tune, choices)
    for offer in (V100, f"{A100}@2"):
        with pytest.raises(TaskDeferred):
            tune.machines_came(choices, gave_up(offer))
    with pytest.raises(AirflowFailException, match="none of 3 choices"):
        tune.machines_came(choices, gave_up(H100))
    assert asked_for(cluster) == []
    assert cluster.condition(NAME, "ResourceReady")["reason"] == "CapacityUnavailable"


@pytest.mark.parametrize(("tried", "again"), [(2, True), (3, False)])
def test_machines_that_are_lost_again_before_they_worked_are_asked_for_by_the_next_try(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any], tried: int, again: bool
) -> None:
    second_try(tune, context)
    context["ti"].try_number = tried
    with pytest.raises(AirflowException, match="no NodeClaims") as failed:
        tune.machines_came(context, LOST_AGAIN)
    assert not isinstance(failed.value, AirflowFailException)
    verdict = cluster.condition(NAME, "WorkspaceSucceeded")
    assert (verdict.get("reason") == "workspaceFailed") is not again


def test_what_no_other_machine_could_change_ends_the_run(tune: TuneOperator, context: dict[str, Any]) -> None:
    second_try(tune, context)
    with pytest.raises(AirflowFailException, match="auth: no right"):
        tune.machines_came(context, {"message": "auth: no right", "reason": "LaunchFailed"})


@pytest.mark.parametrize(
    ("tried", "pod", "there", "final"),
    [
        (2, ended_pod(1, "boom"), True, False),
        (3, ended_pod(1, "boom"), True, True),
        (9, ended_pod(1, "boom"), False, False),
        (9, ended_pod(75, "asked to end", marks=["DisruptionTarget"]), True, False),
        (9, None, False, False),
    ],
    ids=["twice", "three times", "with its machine", "evicted", "gone with its machine"],
)
def test_a_training_may_crash_three_times_and_lose_its_machines_more_often(
    tune: TuneOperator,
    cluster: FakeCluster,
    comes_back: Any,
    context: dict[str, Any],
    tried: int,
    pod: Any,
    there: bool,
    final: bool,
) -> None:
    context["ti"].try_number, context["ti"].max_tries = tried, 20
    if there:
        have_machine(cluster)
    comes_back(tune, pod, AirflowException("pod failed"))
    with pytest.raises(AirflowException) as failed:
        tune.trigger_reentry(context, {**EVENT, "status": "failed"})
    assert isinstance(failed.value, AirflowFailException) is final
    assert (cluster.condition(NAME, "WorkspaceSucceeded")["reason"] == "workspaceFailed") is final


@pytest.mark.parametrize(
    ("left", "again"),
    [
        ({"node": "n0", "evicted": False}, True),
        ({"node": "n1", "evicted": True}, True),
        ({"node": "n1", "evicted": False}, False),
        ({}, False),
    ],
    ids=["its node was replaced already", "evicted", "its node is there", "nobody saw it"],
)
def test_a_pod_that_is_gone_went_with_its_machine_or_was_deleted(
    tune: TuneOperator,
    cluster: FakeCluster,
    comes_back: Any,
    context: dict[str, Any],
    left: dict[str, Any],
    again: bool,
) -> None:
    have_machine(cluster)  # n1
    comes_back(tune, None, AirflowException("not found"))
    with pytest.raises(AirflowException) as failed:
        tune.trigger_reentry(context, {**EVENT, "status": "error", **left})
    assert isinstance(failed.value, AirflowFailException) is not again


async def test_the_wait_comes_back_to_its_task(
    cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where an adapter is published: who waits here has decided to train."""
    monkeypatch.setattr(base, "AsyncKaitoClusterHook", lambda conn_id: AsyncCluster(cluster))
    monkeypatch.setattr(hooks.AsyncKaitoClusterHook, "find", None)
    workspace["status"] = {
        "adapter": {"reference": "r.example.com/a@sha256:1"},
        "conditions": [{"type": "AdapterPublished", "status": "True", "observedGeneration": 1}],
    }
    waits = [kind(**WHICH, purpose="tuning") for kind in (GpuPoolReadyTrigger, LostMachinesTrigger)]
    assert isinstance(await ending(waits[0]), TaskSuccessEvent), "no machines are needed"
    assert (await ending(waits[1])).payload["missing"] is True
    have_machine(cluster)
    event = await ending(LostMachinesTrigger(**WHICH, purpose="tuning"))
    assert event.payload == {"ready": True, "message": "1 GPU node(s) ready: n1", "offer": ""}
