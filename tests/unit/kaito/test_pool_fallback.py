"""From one choice of machines to the next: what is asked for, let go, remembered and told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from kaito.hooks.api import EVENT, ClusterError
from kaito.hooks.azure_account import AksError
from kaito.operators.pool import CreateGpuPoolOperator, ReleaseGpuPoolOperator
from kaito.operators.tuning import TuneOperator
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.sensors.workspace import GpuPoolReadySensor

from include.workspace.api import names
from tests.support.fake_cluster import FakeCluster
from tests.support.machine_choices import A100, H100, NAME, ORDER, V100, asked_for, gave_up, told
from tests.support.tasks import create, release

NO_QUOTA = AksError(400, "QuotaExceeded", "0 of 24 cores left")


def wait(cluster: FakeCluster) -> GpuPoolReadySensor:
    sensor = GpuPoolReadySensor(
        task_id="wait_for_nodes", purpose="tuning", workspace=NAME, namespace="default"
    )
    sensor.cluster = cluster
    return sensor


def test_what_is_refused_is_deleted_and_the_next_is_asked_for(
    cluster: FakeCluster, choices: dict[str, Any]
) -> None:
    create(cluster).execute(choices)
    assert asked_for(cluster) == [V100]
    with pytest.raises(TaskDeferred):
        wait(cluster).execute_complete(choices, gave_up(V100))
    assert asked_for(cluster) == [A100]
    claim = cluster.list(NODE_CLAIM)[0]
    assert claim["metadata"]["annotations"][names.OFFER] == f"{A100}@2"
    zones = [r["values"] for r in claim["spec"]["requirements"] if r["key"] == "topology.kubernetes.io/zone"]
    assert zones == [["westeurope-2"]]
    assert told(cluster) == [(V100, "Refused"), (f"{A100}@2", "Asked")]
    waiting = cluster.condition(NAME, "ResourceReady")
    assert waiting["message"] == f"Waiting for 1 x {A100}@2 (choice 2 of 3)"
    assert cluster.condition(NAME, "WorkspaceReady").get("reason") != "workspaceFailed"
    release(cluster).execute(choices)
    assert asked_for(cluster) == []


def test_when_nothing_is_left_the_run_ends_and_names_every_choice(
    cluster: FakeCluster, choices: dict[str, Any]
) -> None:
    create(cluster).execute(choices)
    sensor = wait(cluster)
    for offer in ORDER[:-1]:
        with pytest.raises(TaskDeferred):
            sensor.execute_complete(choices, gave_up(offer, f"capacity: no {offer} here"))
    with pytest.raises(AirflowFailException, match="none of 3 choices"):
        sensor.execute_complete(choices, gave_up(H100, "quota: 0 of 40 cores"))
    assert asked_for(cluster) == []
    verdict = cluster.condition(NAME, "ResourceReady")
    assert (verdict["status"], verdict["reason"]) == ("False", "CapacityUnavailable")
    for words in (f"{V100}: capacity: no {V100} here", f"no {A100}@2 here", f"{H100}: quota: 0 of 40 cores"):
        assert words in verdict["message"]
    assert cluster.condition(NAME, "WorkspaceReady")["reason"] == "workspaceFailed"


def refusing(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, *types: str) -> None:
    make = cluster.get_or_create

    def make_some(kind: Any, manifest: Any) -> Any:
        if kind == NODE_CLAIM and any(type_ in str(manifest) for type_ in types):
            make(kind, manifest)  # half of it is there when the refusal comes
            raise NO_QUOTA
        return make(kind, manifest)

    monkeypatch.setattr(cluster, "get_or_create", make_some)


def test_a_refusal_at_once_leads_to_the_next_too(
    cluster: FakeCluster, choices: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(cluster, monkeypatch, V100, A100)
    assert create(cluster).execute(choices)["instance_type"] == H100
    assert asked_for(cluster) == [H100]
    assert told(cluster) == [(V100, "Refused"), (f"{A100}@2", "Refused"), (H100, "Asked")]
    refusing(cluster, monkeypatch, H100)
    with pytest.raises(AirflowFailException, match="0 of 24 cores left"):
        wait(cluster).execute_complete(choices, gave_up(H100))
    assert asked_for(cluster) == []


def test_without_alternatives_the_clouds_words_are_the_verdict(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(cluster, monkeypatch, V100)
    with pytest.raises(AirflowFailException, match=r"^quota: QuotaExceeded: 0 of 24 cores left$"):
        create(cluster).execute(context)
    assert cluster.condition(NAME, "ResourceReady")["reason"] == "CapacityUnavailable"
    assert "machines" not in cluster.objects["workspaces", "default", NAME]["status"]


@pytest.mark.parametrize("when", ["before the deletion", "before the next", "after the next"])
def test_a_worker_that_dies_in_between_is_taken_up_where_it_was(
    cluster: FakeCluster, choices: dict[str, Any], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    class Killed(BaseException):
        """As SIGKILL: nothing of the task runs after it."""

    make = cluster.get_or_create

    def dies(first: Any, *rest: Any, **_: Any) -> Any:
        if first == EVENT:
            return make(first, *rest)
        raise Killed

    create(cluster).execute(choices)
    place = {
        "before the deletion": (cluster, "delete"),
        "before the next": (cluster, "get_or_create"),
        "after the next": (GpuPoolReadySensor, "execute"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*place[when], dies)
        with pytest.raises(Killed):
            wait(cluster).execute_complete(choices, gave_up(V100))
    # Airflow starts the task again: it waits first, and comes back when the cloud says no, or nothing is there.
    seen = asked_for(cluster)
    if when == "before the deletion":
        assert seen == [V100]
        event = gave_up(V100)
    elif when == "before the next":
        assert seen == []
        event = {"message": "The pool has no NodeClaims", "reason": "NodeClaimMissing", "missing": True}
    else:
        assert seen == [A100]
        return
    with pytest.raises(TaskDeferred):
        wait(cluster).execute_complete(choices, event)
    assert asked_for(cluster) == [A100]


def test_machines_that_somebody_deleted_are_not_asked_for_again(
    cluster: FakeCluster, choices: dict[str, Any]
) -> None:
    create(cluster).execute(choices)
    gone = {"message": "config: they were deleted", "reason": "NodeClaimMissing", "missing": True}
    with pytest.raises(AirflowFailException, match="they were deleted"):
        wait(cluster).execute_complete(choices, gone)
    assert cluster.condition(NAME, "ResourceReady")["reason"] == "NodeClaimMissing"


def test_a_setup_that_is_tried_again_goes_on_with_what_is_there(
    cluster: FakeCluster, choices: dict[str, Any]
) -> None:
    """Airflow may have lost its database: only the cluster knows what was asked for."""
    create(cluster).execute(choices)
    with pytest.raises(TaskDeferred):
        wait(cluster).execute_complete(choices, gave_up(V100))
    assert create(cluster).execute(choices)["instance_type"] == A100
    assert asked_for(cluster) == [A100]


def test_a_setup_that_died_after_a_refusal_does_not_ask_for_the_same_again(
    cluster: FakeCluster, choices: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(cluster, monkeypatch, V100)
    flaky = cluster.get_or_create

    def then_down(kind: Any, manifest: Any) -> Any:
        if kind == NODE_CLAIM and A100 in str(manifest):
            raise ClusterError(503, "ServiceUnavailable", "restarting")
        return flaky(kind, manifest)

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "get_or_create", then_down)
        with pytest.raises(ClusterError):
            create(cluster).execute(choices)
    assert create(cluster).execute(choices)["instance_type"] == A100
    assert told(cluster) == [(V100, "Refused"), (f"{A100}@2", "Asked")]


def test_a_run_that_is_cleared_after_its_end_begins_anew(
    cluster: FakeCluster, choices: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        refusing(cluster, patch, V100, A100, H100)
        with pytest.raises(AirflowFailException):
            create(cluster).execute(choices)
    assert create(cluster).execute(choices)["instance_type"] == V100


def test_later_tasks_use_the_plan_of_the_machines_that_were_got(
    cluster: FakeCluster, choices: dict[str, Any]
) -> None:
    tune = TuneOperator(task_id="tune")
    assert tune.this_run(choices).tuning_plan.instance_type == V100
    left = {"offer": f"{A100}@2", "nodes": ["n"], "message": "ready"}
    choices["ti"].xcoms["wait_for_nodes"] = json.dumps(left)  # as Airflow hands on what a trigger leaves
    got = tune.this_run(choices).tuning_plan
    assert (got.instance_type, got.zone, got.dtype) == (A100, "2", "bfloat16")
    release_task = ReleaseGpuPoolOperator(task_id="release_gpu_pool", purpose="tuning")
    assert [plan.offer for plan in release_task.this_run(choices).candidates("tuning")] == ORDER


def test_a_class_that_no_other_machine_could_change_ends_the_run(
    cluster: FakeCluster, choices: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = cluster.get_or_create

    def denied(kind: Any, manifest: Any) -> Any:
        if kind == NODE_CLAIM:
            raise AksError(403, "AuthorizationFailed", "no right")
        return make(kind, manifest)

    monkeypatch.setattr(cluster, "get_or_create", denied)
    with pytest.raises(AirflowFailException, match="auth: AuthorizationFailed"):
        CreateGpuPoolOperator.execute(create(cluster), choices)
    assert told(cluster) == []
    assert cluster.condition(NAME, "ResourceReady")["reason"] != "CapacityUnavailable"


# -- what the budget allows ------------------------------------------------------------------------------------------


def budget(cluster: FakeCluster, usd: str) -> None:
    cluster.objects["workspaces", "default", NAME]["metadata"]["annotations"][names.BUDGET] = usd


def test_a_fallback_beyond_the_budget_is_not_asked_for(cluster: FakeCluster, choices: dict[str, Any]) -> None:
    budget(cluster, "0.8")  # eleven minutes of a V100, and of an A100; not of an H100
    create(cluster).execute(choices)
    sensor = wait(cluster)
    with pytest.raises(TaskDeferred):
        sensor.execute_complete(choices, gave_up(V100))
    with pytest.raises(
        AirflowFailException, match=rf"{H100}: over budget: tuning on 1 x {H100} is estimated at .* budget"
    ) as ended:
        sensor.execute_complete(choices, gave_up(f"{A100}@2"))
    assert "the cloud refused 2, 1 would exceed the budget (annotation kaito.sh/budget-usd)" in str(
        ended.value
    )
    assert f"{V100}: refused: capacity: none left" in str(ended.value)
    assert asked_for(cluster) == []
    assert told(cluster) == [(V100, "Refused"), (f"{A100}@2", "Refused"), (H100, "OverBudget")]
    assert cluster.condition(NAME, "ResourceReady")["reason"] == "CapacityUnavailable", "V100s may come back"


@pytest.mark.parametrize("word", ["OverBudget", "TooDear"], ids=["now", "written by an earlier version"])
def test_another_try_still_knows_what_was_over_budget(
    cluster: FakeCluster, choices: dict[str, Any], word: str
) -> None:
    """The setup found the first choice over budget, and the wait, another task, is refused the others."""
    left = choices["ti"].xcoms["preflight"]
    plans = [left["plan"], *left["alternatives"]["tuning"]]
    left["plan"], left["alternatives"] = plans[2], {"tuning": plans[:2]}
    budget(cluster, "0.8")
    create(cluster).execute(choices)
    assert told(cluster) == [(H100, "OverBudget"), (V100, "Asked")]
    cluster.objects["workspaces", "default", NAME]["status"]["machines"][0]["state"] = word
    sensor = wait(cluster)
    with pytest.raises(TaskDeferred):
        sensor.execute_complete(choices, gave_up(V100))
    with pytest.raises(AirflowFailException, match=rf"{H100}: over budget: .*{V100}: refused: "):
        sensor.execute_complete(choices, gave_up(f"{A100}@2"))


def test_what_the_rows_take_counts_at_the_fallback_too(cluster: FakeCluster, choices: dict[str, Any]) -> None:
    create(cluster).execute(choices)
    budget(cluster, "5")
    choices["ti"].xcoms["fetch_dataset"] = {"characters": 4_000_000_000}
    sensor = wait(cluster)
    sensor.dataset_task_id = "fetch_dataset"
    with pytest.raises(AirflowFailException, match=r"budget of 5\.00 USD"):
        sensor.execute_complete(choices, gave_up(V100))
    assert asked_for(cluster) == []


def test_a_first_choice_beyond_the_budget_gives_way_to_one_that_is_not(
    cluster: FakeCluster, choices: dict[str, Any]
) -> None:
    left = choices["ti"].xcoms["preflight"]
    plans = [left["plan"], *left["alternatives"]["tuning"]]
    left["plan"], left["alternatives"] = plans[2], {"tuning": plans[:2]}
    budget(cluster, "0.8")
    assert create(cluster).execute(choices)["instance_type"] == V100
    assert asked_for(cluster) == [V100]
    budget(cluster, "0.01")
    cluster.objects["workspaces", "default", NAME].pop("status")
    release(cluster).execute(choices)
    with pytest.raises(AirflowFailException, match=r"budget of 0.01 USD allows: raise the annotation"):
        create(cluster).execute(choices)
    assert cluster.condition(NAME, "WorkspaceReady")["reason"] == "BudgetExceeded"
    assert asked_for(cluster) == []
