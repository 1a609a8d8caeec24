"""A training that has lost its machines: others are asked for and waited for, and the run's choices count again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from airflow.triggers.base import TaskSuccessEvent
from kaito.hooks import kubernetes as hooks
from kaito.hooks.api import NODE, POD, Kind
from kaito.operators import tuning
from kaito.operators.dataset import FetchDatasetOperator
from kaito.operators.tuning import TuneOperator
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.triggers import base
from kaito.triggers.pool import GpuPoolReadyTrigger, LostMachinesTrigger
from kaito.triggers.workload import NODE_LOST

from include.workspace.api import names
from include.workspace.status.conditions import timestamp
from tests.support.fake_cluster import FakeCalls, FakeCluster
from tests.support.machine_choices import A100, H100, NAME, V100, asked_for, gave_up, told
from tests.support.triggers import WHICH, ending
from tests.support.workload_pods import EVENT, ended_pod, have_machine, started

LOST_AGAIN = {"message": "The pool has no NodeClaims", "reason": "NodeClaimMissing", "missing": True}


@pytest.fixture
def tune(cluster: FakeCluster) -> TuneOperator:
    operator = TuneOperator(task_id="tune")
    operator.cluster = cluster
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
    tune.machines_came(context, {"ready": True, "message": "1 GPU node ready: n1"})
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
    assert cluster.condition(NAME, "JobStarted")["reason"] == "WorkspaceTuningJobStatusPending"


def test_a_second_try_asks_for_machines_that_were_lost_and_waits_for_them(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = second_try(tune, context).trigger.serialize()[1]
    assert asked_for(cluster) == [V100]
    assert (wait["workspace"], wait["namespace"], wait["purpose"]) == (NAME, "default", "tuning")
    assert cluster.condition(NAME, "JobStarted") == {}
    comes_up(cluster)
    comes_back_to_work(tune, context, monkeypatch)
    assert cluster.condition(NAME, "JobStarted")["reason"] == "WorkspaceTuningJobStatusPending"


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
    monkeypatch.setattr(base, "AsyncKaitoClusterHook", lambda conn_id: FakeCalls(cluster))
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
    assert event.payload == {"ready": True, "message": "1 GPU node ready: n1", "offer": ""}


# -- a machine that falls silent -------------------------------------------------------------------------------------

LOST: dict[str, Any] = {
    **EVENT,
    "status": NODE_LOST,
    "node": "n1",
    "message": "Node n1 has not been Ready since 2026-11-24T00:00:00Z: Kubelet stopped posting node status",
}


def falls_silent(cluster: FakeCluster, seconds: float = 400) -> None:
    """The machine's Node stays, and nobody reports from it; the pod on it was told to go and cannot."""
    have_machine(cluster)
    since = timestamp(datetime.now(UTC) - timedelta(seconds=seconds))
    ready = {"type": "Ready", "status": "Unknown", "lastTransitionTime": since, "message": "Kubelet stopped."}
    made = "2026-01-01T00:00:00Z"
    cluster.add(
        NODE, {"metadata": {"name": "n1", "creationTimestamp": made}, "status": {"conditions": [ready]}}
    )
    for name, node in (("tuning", "n1"), ("dataset", "cpu")):
        metadata = {"name": name, "namespace": "default", "labels": {names.WORKSPACE: NAME}}
        cluster.add(POD, {"metadata": metadata, "spec": {"nodeName": node}})


class Cloud:
    """Takes the Node of a claim that is deleted away, unless it is told to keep it; notes what was deleted how."""

    def __init__(self, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, keeps: bool = False) -> None:
        self.cluster, self.keeps, self.told, self._delete = cluster, keeps, [], cluster.delete
        monkeypatch.setattr(cluster, "delete", self.delete)

    def delete(self, kind: Kind, name: str, *rest: Any, **guards: Any) -> bool:
        self.told.append((kind.plural, name, guards.get("grace_seconds")))
        found = self._delete(kind, name, *rest, **guards)
        if kind == NODE_CLAIM and not self.keeps:
            self._delete(NODE, "n1")
        return found


def test_a_lost_node_is_told_and_the_task_tries_again(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any]
) -> None:
    falls_silent(cluster)
    context["ti"].max_tries = 2
    with pytest.raises(AirflowException, match="tune: Node n1 has not been Ready since") as failed:
        tune.trigger_reentry(context, LOST)
    assert not isinstance(failed.value, AirflowFailException)
    told = cluster.condition(NAME, "JobStarted")
    assert told["status"] == "False"
    assert told["message"].endswith("Kubelet stopped posting node status; trying again")
    assert cluster.condition(NAME, "WorkspaceSucceeded")["reason"] == "workspacePending"


def test_the_next_try_lets_the_machine_go_before_it_forgets_its_pod_and_asks_for_another(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod on a machine that is only silent may still write checkpoints."""
    falls_silent(cluster)
    cloud = Cloud(cluster, monkeypatch)
    cluster.writes.clear()
    second_try(tune, context)
    assert cloud.told == [("nodeclaims", "ws1", None), ("pods", "tuning", 0)]
    done = [write for write in cluster.writes if write[0] in ("nodeclaims", "pods")]
    assert [kind for kind, _ in done] == ["nodeclaims", "pods", "nodeclaims"]
    assert done[:2] == [("nodeclaims", "-ws1"), ("pods", "-tuning")]
    assert asked_for(cluster) == [V100]
    assert cluster.find(POD, "dataset", "default"), "on another machine"


def test_a_machine_that_does_not_go_is_not_replaced(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    falls_silent(cluster)
    cloud = Cloud(cluster, monkeypatch, keeps=True)
    monkeypatch.setattr(tuning, "GONE_WITHIN", timedelta(0))
    context["ti"].try_number = 2
    with pytest.raises(
        AirflowException, match=r"Kubelet stopped\. Its machine does not go: Still there .*: ws1"
    ):
        tune.execute(context)
    assert "pods" not in [kind for kind, *_ in cloud.told]
    assert asked_for(cluster) == []
    told = cluster.condition(NAME, "ResourceReady")
    assert told["message"].endswith("Kubelet stopped: its machine is deleted, then replaced")


def test_a_machine_that_may_come_back_is_waited_for(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    falls_silent(cluster, 200)
    cloud = Cloud(cluster, monkeypatch)
    second_try(tune, context)
    assert cloud.told == []


async def test_the_wait_for_machines_ends_when_one_falls_silent(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "AsyncKaitoClusterHook", lambda conn_id: FakeCalls(cluster))
    monkeypatch.setattr(hooks.AsyncKaitoClusterHook, "find", None)
    falls_silent(cluster)
    event: Mapping[str, Any] = (await ending(LostMachinesTrigger(**WHICH, purpose="tuning"))).payload
    assert event["lost"] == ["n1"]
    assert event["message"].startswith("Node n1 has not been Ready since")
    cloud = Cloud(cluster, monkeypatch)
    with pytest.raises(TaskDeferred) as deferred:
        tune.machines_came(context, event)
    assert isinstance(deferred.value.trigger, LostMachinesTrigger)
    assert cloud.told == [("nodeclaims", "ws1", None), ("pods", "tuning", 0)]


def test_a_machine_that_came_back_meanwhile_costs_a_try_only(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any]
) -> None:
    have_machine(cluster)
    event = {"message": "Node n1 has not been Ready", "lost": ["n1"]}
    with pytest.raises(AirflowException) as failed:
        tune.machines_came(context, event)
    assert not isinstance(failed.value, AirflowFailException)


def test_a_silent_byo_node_is_its_owners_to_judge(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its machine still trains, nobody here can know, so that nothing may take its place."""
    falls_silent(cluster)
    context["ti"].xcoms["preflight"]["workspace"]["metadata"]["annotations"] = {names.POOL_PROVIDER: "byo"}
    waits: list[float | None] = []
    pod = SimpleNamespace(metadata=SimpleNamespace(name="p", namespace="default"))
    tune.hook = SimpleNamespace(get_pod=lambda name, namespace: pod)
    deferring(monkeypatch, waits)
    with pytest.raises(TaskDeferred):
        tune.trigger_reentry(context, LOST)
    assert waits == [None]
    assert cluster.condition(NAME, "JobStarted")["message"].endswith(
        "elsewhere after: kubectl delete node n1"
    )


def deferring(monkeypatch: pytest.MonkeyPatch, waits: list[float | None]) -> None:
    """Leave the task at the point where the provider's operator does."""

    def leave(self: Any, **_: Any) -> None:
        waits.append(self.lost_seconds)
        raise TaskDeferred(trigger=None, method_name="trigger_reentry")

    monkeypatch.setattr(KubernetesPodOperator, "invoke_defer_method", leave)


def test_only_a_training_is_taken_from_a_silent_machine() -> None:
    """The other steps are short and need no machine of ours: Kubernetes' own eviction is all that there is."""
    assert (TuneOperator(task_id="t").lost_seconds, FetchDatasetOperator(task_id="f").lost_seconds) == (
        300.0,
        None,
    )
