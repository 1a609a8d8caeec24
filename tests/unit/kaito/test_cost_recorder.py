"""What tasks do for the ledger: close it at the right moments, refuse what is over budget, tell what a run has cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.assets import LEDGER
from kaito.controller.cost_recorder import record_cost
from kaito.hooks.api import ClusterError
from kaito.hooks.kubernetes import StaleWorkspace, fence
from kaito.operators.ledger import RecordCostOperator
from kaito.providers.nodeclaim import NODE_CLAIM, NodeClaims
from kaito.tasks import machines

from include.contracts.purpose import Purpose
from include.ledger.records import spent
from include.pools.observed import UnregisteredCapacity
from include.workspace.api import names
from include.workspace.status import conditions
from include.workspace.status.conditions import timestamp
from tests.support.fake_cluster import RUN_ID, FakeCluster
from tests.support.providers import blocking
from tests.support.tasks import create, release

NAME, UID = "workspace-tuning-phi-3", "0123abcd-0000"
NOW = datetime.now(UTC)
DONE = {"publish_adapter": "success", "serve.create_gpu_pool": "success"}


def launch(cluster: FakeCluster, seconds_ago: float = 3600.0) -> None:
    """Every machine that was asked for has been there for so long."""
    at = timestamp(datetime.now(UTC) - timedelta(seconds=seconds_ago))
    for claim in cluster.list(NODE_CLAIM):
        told = {"type": "Launched", "status": "True", "lastTransitionTime": at}
        cluster.objects["nodeclaims", "", claim["metadata"]["name"]]["status"] = {"conditions": [told]}


def cost(cluster: FakeCluster) -> dict[str, Any]:
    return cluster.objects["workspaces", "default", NAME].get("status", {}).get("cost", {})


def record(cluster: FakeCluster, context: dict[str, Any], **states: str | None) -> dict[str, Any]:
    operator = RecordCostOperator(
        task_id="record_cost",
        needed=["publish_adapter"],
        optional=["serve.create_gpu_pool"],
        publishing_task_id="publish_adapter",
    )
    operator.cluster = cluster
    context["ti"].states = {**DONE, **states}
    operator.execute(context)
    found: dict[str, Any] = cluster.outlets[LEDGER].extra
    return found


def test_a_run_without_a_reconciler_has_its_ledger(cluster: FakeCluster, context: dict[str, Any]) -> None:
    create(cluster).execute(context)
    launch(cluster)
    release(cluster).execute(context)
    assert cost(cluster)["claims"][0]["until"]
    event = record(cluster, context)
    assert (event["run"], event["workspace"], event["namespace"], event["outcome"]) == (
        RUN_ID,
        NAME,
        "default",
        "success",
    )
    assert event["nodeSeconds"] == pytest.approx(3600, abs=60), "to the moment at which the machine was gone"
    assert event["usd"] == pytest.approx(event["nodeSeconds"] / 3600 * 3.06, abs=0.001)
    assert (event["machine"], event["nodes"], event["unpriced"]) == ("Standard_NC6s_v3", 1, False)


def test_a_failed_run_tells_what_it_wasted(cluster: FakeCluster, context: dict[str, Any]) -> None:
    create(cluster).execute(context)
    launch(cluster)
    release(cluster).execute(context)
    event = record(cluster, context, tune="failed", publish_adapter="upstream_failed")
    assert event["outcome"] == "failed"
    assert event["wastedNodeSeconds"] == event["nodeSeconds"] > 0
    assert (
        {r["outcome"] for r in event["records"]}
        == {"failed"}
        == {r["outcome"] for r in cost(cluster)["claims"]}
    )


class NeverJoining(NodeClaims):
    """As an agent pool: what it costs, the cluster does not show."""

    there = True

    async def delete_and_wait(self, *_: Any, **__: Any) -> None:
        NeverJoining.there = False

    async def unregistered_capacity(self, labels: Any) -> Any:
        since = datetime.now(UTC) - timedelta(seconds=900)
        return (
            [UnregisteredCapacity("ws1", RUN_ID, Purpose.TUNING, "Standard_NC6s_v3", since, 1)]
            if self.there
            else []
        )


def test_machines_that_never_joined_are_in_the_ledger_too(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "provider", lambda hook, *_: blocking(NeverJoining, hook))
    monkeypatch.setattr(NeverJoining, "there", True)
    release(cluster).execute(context)
    (found,) = cost(cluster)["claims"]
    assert found["until"]
    event = record(cluster, context, tune="failed", publish_adapter="upstream_failed")
    assert event["wastedNodeSeconds"] == event["nodeSeconds"] == pytest.approx(900, abs=60)


def test_telling_it_again_changes_nothing(cluster: FakeCluster, context: dict[str, Any]) -> None:
    create(cluster).execute(context)
    launch(cluster)
    release(cluster).execute(context)
    first = record(cluster, context)
    assert record(cluster, context)["records"] == first["records"]


def test_a_run_that_was_refused_tells_so(cluster: FakeCluster, context: dict[str, Any]) -> None:
    context["ti"].xcoms.clear()
    assert record(cluster, context)["outcome"] == "refused"


def test_a_run_that_was_overtaken_did_not_fail(cluster: FakeCluster, context: dict[str, Any]) -> None:
    cluster.objects["workspaces", "default", NAME]["metadata"]["generation"] = 2
    assert record(cluster, context, tune="failed")["outcome"] == "superseded"


def test_a_ledger_that_cannot_be_written_fails_nothing(cluster: FakeCluster, context: dict[str, Any]) -> None:
    create(cluster).execute(context)
    cluster.refuse["list", "nodeclaims"] = ClusterError(403, "Forbidden", "no")
    assert record_cost(cluster, NAME, "default", UID) == {}  # type: ignore[arg-type]


def test_the_first_look_at_the_rows_may_exceed_the_budget(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    cluster.objects["workspaces", "default", NAME]["metadata"]["annotations"] = {names.BUDGET: "5"}
    operator = create(cluster)
    operator.dataset_task_id = "fetch_dataset"
    context["ti"].xcoms["fetch_dataset"] = {"characters": 4_000_000_000}
    with pytest.raises(
        AirflowFailException, match=r"tuning on 1 x Standard_NC6s_v3 is estimated at .* budget of 5.00 USD"
    ):
        operator.execute(context)
    assert cluster.list(NODE_CLAIM) == []
    assert cluster.condition(NAME, "WorkspaceReady")["reason"] == "BudgetExceeded"
    del cluster.objects["workspaces", "default", NAME]["status"]
    context["ti"].xcoms["fetch_dataset"] = {"characters": 4_000}
    assert operator.execute(context)["made"]


def test_a_run_meets_the_fence_when_its_budget_is_spent(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    stored = cluster.objects["workspaces", "default", NAME]
    phase = conditions.Phase.BUDGET_EXCEEDED
    stored["status"] = conditions.progress(stored, phase, message="The budget is spent.", now=NOW)
    with pytest.raises(StaleWorkspace, match="is stopped: The budget is spent"):
        fence(stored, NAME, UID, 1)
    assert fence(stored, NAME, UID, 1, begins=True)
    with pytest.raises(AirflowFailException, match="budget"):
        create(cluster).execute(context)
    accepted = conditions.progress(stored, conditions.Phase.ACCEPTED, message="again", now=NOW)
    assert fence({**stored, "status": accepted}, NAME, UID, 1)
    assert spent(cost(cluster), NOW) == 0
