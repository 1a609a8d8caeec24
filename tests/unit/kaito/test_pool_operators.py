"""Setup and teardown of the GPU machines, as tasks."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from kaito.hooks.api import STATEFUL_SET, ClusterError
from kaito.providers.nodeclaim import NODE_CLAIM

from tests.support.fake_cluster import RUN_ID, FakeCluster
from tests.support.tasks import claims, create, release

NAME = "workspace-tuning-phi-3"


def test_create_asks_for_the_planned_machines_once(cluster: FakeCluster, context: dict[str, Any]) -> None:
    result = create(cluster).execute(context)
    assert result["made"] == result["pools"] == claims(cluster)
    assert create(cluster).execute(context)["made"] == []
    assert cluster.condition(NAME, "ResourceReady")["status"] == "False"
    assert cluster.objects["workspaces", "default", NAME]["status"]["targetNodeCount"] == 1


def test_tuning_and_serving_pools_are_apart(cluster: FakeCluster, context: dict[str, Any]) -> None:
    create(cluster).execute(context)
    create(cluster, "serving").execute(context)
    assert len(claims(cluster)) == 2
    release(cluster).execute(context)
    assert [c["metadata"]["labels"]["kaito.sh/pool"] for c in cluster.list(NODE_CLAIM)] == ["serving"]


def test_a_setup_that_fails_takes_back_what_it_made(cluster: FakeCluster, context: dict[str, Any]) -> None:
    made = cluster.get_or_create

    def half(kind: Any, manifest: Any) -> Any:
        made(kind, manifest)
        raise ClusterError(500, "InternalError", "etcd is full")

    cluster.get_or_create = half  # type: ignore[method-assign]
    with pytest.raises(ClusterError, match="etcd is full"):
        create(cluster).execute(context)
    assert claims(cluster) == []
    assert "etcd is full" in cluster.condition(NAME, "NodeClaimReady")["message"]


@pytest.mark.parametrize(("tried", "reason"), [(1, "workspacePending"), (3, "workspaceFailed")])
def test_machines_that_are_asked_for_again_have_not_failed_the_workspace(
    cluster: FakeCluster, context: dict[str, Any], tried: int, reason: str
) -> None:
    context["ti"].try_number, context["ti"].max_tries = tried, 2

    def away(kind: Any, manifest: Any) -> Any:
        raise ClusterError(500, "InternalError", "etcd is full")

    cluster.get_or_create = away  # type: ignore[method-assign]
    with pytest.raises(ClusterError):
        create(cluster).execute(context)
    assert cluster.condition(NAME, "WorkspaceSucceeded")["reason"] == reason


def test_another_runs_machines_are_not_taken(cluster: FakeCluster, context: dict[str, Any]) -> None:
    create(cluster).execute(context)
    with pytest.raises(AirflowFailException, match=RUN_ID):
        create(cluster).execute({**context, "run_id": "manual"})
    assert len(claims(cluster)) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"deletionTimestamp": "2026-11-23T00:00:00Z", "generation": 2}, "being deleted"),
        ({"generation": 3}, "superseded by generation 3"),
    ],
)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_run_whose_workspace_moved_on_leaves_no_machines(
    cluster: FakeCluster, context: dict[str, Any], change: dict[str, Any], words: str, when: str
) -> None:
    metadata = cluster.objects["workspaces", "default", NAME]["metadata"]
    create_one = cluster.get_or_create

    def then_changed(kind: Any, manifest: Any) -> Any:
        metadata.update(change)
        return create_one(kind, manifest)

    if when == "before":
        metadata.update(change)
    cluster.get_or_create = then_changed  # type: ignore[method-assign]
    with pytest.raises(AirflowFailException, match=words):
        create(cluster).execute(context)
    assert claims(cluster) == []
    assert len(cluster.deleted) == (1 if when == "meanwhile" else 0)
    assert cluster.condition(NAME, "WorkspaceSucceeded") == {}, "a run that is over writes no status"


def test_no_rollout_skips_the_rest(cluster: FakeCluster, context: dict[str, Any]) -> None:
    context["ti"].xcoms["preflight"]["serving_plan"] = None
    with pytest.raises(AirflowSkipException):
        create(cluster, "serving").execute(context)
    assert claims(cluster) == []


def test_killing_the_setup_lets_the_machines_go(cluster: FakeCluster, context: dict[str, Any]) -> None:
    operator = create(cluster)
    operator.execute(context)
    operator.on_kill()
    assert claims(cluster) == []


def test_release_waits_until_the_machines_are_gone(cluster: FakeCluster, context: dict[str, Any]) -> None:
    create(cluster).execute(context)
    cluster.lingering.update(claims(cluster))
    with pytest.raises(TimeoutError):
        release(cluster).execute(context)
    cluster.lingering.clear()
    release(cluster).execute(context)
    assert cluster.condition(NAME, "ResourceReady")["reason"] == "NodesReleased"


def test_a_release_is_said_before_the_first_machine_goes(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    create(cluster).execute(context)
    cluster.lingering.update(claims(cluster))
    with pytest.raises(TimeoutError):
        release(cluster).execute(context)
    told = cluster.condition(NAME, "ResourceReady")
    assert (told["reason"], told["message"]) == ("NodesReleased", "The tuning machines are being released.")


def test_a_service_that_answers_keeps_its_machines(cluster: FakeCluster, context: dict[str, Any]) -> None:
    create(cluster, "serving").execute(context)
    context["ti"].states = {"serve.ask": "success"}
    release(cluster, "serving", keep="serve.ask").execute(context)
    assert len(claims(cluster)) == 1


@pytest.mark.parametrize("state", ["failed", "upstream_failed", "skipped", None])
def test_a_service_that_never_answered_is_taken_back(
    cluster: FakeCluster, context: dict[str, Any], state: str | None
) -> None:
    create(cluster, "serving").execute(context)
    cluster.add(
        STATEFUL_SET, {"metadata": {"name": NAME, "labels": {"kaito.sh/run-id": RUN_ID}}, "status": {}}
    )
    context["ti"].states = {"serve.ask": state}
    release(cluster, "serving", keep="serve.ask").execute(context)
    assert claims(cluster) == []
    assert cluster.list(STATEFUL_SET) == []


def test_a_service_that_ran_before_is_left_alone(cluster: FakeCluster, context: dict[str, Any]) -> None:
    cluster.add(
        STATEFUL_SET, {"metadata": {"name": NAME, "labels": {"kaito.sh/run-id": "earlier"}}, "status": {}}
    )
    context["ti"].states = {"serve.ask": "failed"}
    release(cluster, "serving", keep="serve.ask").execute(context)
    assert len(cluster.list(STATEFUL_SET)) == 1
