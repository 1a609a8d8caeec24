"""What the API server would refuse to a run, the preflight refuses in its words, before a machine is asked for."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import SERVICE, VOLUME_CLAIM, ClusterError
from kaito.operators import dry_run
from kaito.tasks.base import Run
from kaito.tasks.preflight_result import PreflightResult

from include.manifests import ManifestSettings
from tests.support.fake_cluster import RUN_ID, FakeCluster
from tests.support.tasks import preflight

pytestmark = pytest.mark.usefixtures("established_crd")

NAME = "workspace-tuning-phi-3"
BY_NAME = {"workspace": {"metadata": {"name": NAME}}}
QUOTA = (
    f'pods "{NAME}-g1-tuning" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, '
    "used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=0"
)


def planned(context: dict[str, Any]) -> list[tuple[str, str]]:
    run = Run.of(PreflightResult.from_xcom(context["ti"].xcoms["preflight"]), RUN_ID)
    made = dry_run.planned(run, ManifestSettings("i:1"))
    return [(kind.name, _without_digest(obj["metadata"]["name"])) for kind, obj in made]


def _without_digest(name: str) -> str:
    """A Secret's name ends in a digest of what it holds."""
    return re.sub(r"-[0-9a-f]{10}$", "", name)


def test_every_object_of_a_tuning_that_is_served_is_asked_about(context: dict[str, Any]) -> None:
    assert planned(context) == [
        ("PersistentVolumeClaim", f"{NAME}-work"),
        ("NetworkPolicy", f"{NAME}-tuning"),
        ("ConfigMap", f"{NAME}-g1-tuning"),
        ("Secret", f"{NAME}-dataset"),
        ("Pod", f"{NAME}-g1-dataset"),
        ("Pod", f"{NAME}-g1-tuning"),
        ("Pod", f"{NAME}-g1-adapter"),
        ("Service", NAME),
        ("Service", f"{NAME}-headless"),
        ("StatefulSet", NAME),
        ("Pod", f"{NAME}-0"),
    ]


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_refusal_is_a_fault_with_the_servers_sentence(
    cluster: FakeCluster, workspace: dict[str, Any], status: int
) -> None:
    cluster.refuse["dry run", "pods"] = ClusterError(status, "Forbidden", QUOTA)
    with pytest.raises(AirflowFailException) as refused:
        preflight(cluster, BY_NAME)
    assert QUOTA in str(refused.value)
    assert "raise the namespace's ResourceQuota" in str(refused.value)
    assert cluster.writes == []
    assert QUOTA in cluster.condition(NAME, "ResourceReady")["message"]


def test_all_refusals_are_told_at_once(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    cluster.refuse["dry run", "pods"] = ClusterError(403, "Forbidden", QUOTA)
    cluster.refuse["dry run", "persistentvolumeclaims"] = ClusterError(403, "Forbidden", "no more storage")
    with pytest.raises(AirflowFailException, match=r"(?s)no more storage.*exceeded quota"):
        preflight(cluster, BY_NAME)


def test_what_the_workspace_has_already_is_nobodys_refusal(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    owner = {"kind": "Workspace", "name": NAME, "uid": workspace["metadata"]["uid"], "controller": True}
    cluster.add(VOLUME_CLAIM, {"metadata": {"name": f"{NAME}-work", "ownerReferences": [owner]}})
    cluster.refuse["dry run", "persistentvolumeclaims"] = ClusterError(409, "AlreadyExists", "exists")
    assert preflight(cluster, BY_NAME)["plan"]


def test_what_somebody_else_has_under_the_name_is_named_before_anything_costs_money(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    cluster.add(SERVICE, {"metadata": {"name": NAME}, "spec": {"selector": {"app": "shop"}}})
    labels = {"kaito.sh/workspace": NAME, "kaito.sh/component": "tuning"}
    cluster.add(VOLUME_CLAIM, {"metadata": {"name": f"{NAME}-work", "labels": labels}})
    for plural in ("services", "persistentvolumeclaims"):
        cluster.refuse["dry run", plural] = ClusterError(409, "AlreadyExists", "exists")
    with pytest.raises(AirflowFailException) as refused:
        preflight(cluster, BY_NAME)
    for what in (f"Service {NAME}", f"PersistentVolumeClaim {NAME}-work"):
        assert f"{what} exists and belongs to nobody that we know; it is not touched" in str(refused.value)
    assert cluster.writes == []


def test_a_server_that_cannot_answer_is_asked_again(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    before = copy.deepcopy(cluster.objects)
    cluster.refuse["dry run", "pods"] = ClusterError(503, "ServiceUnavailable", "a moment")
    with pytest.raises(ClusterError, match="a moment"):
        preflight(cluster, BY_NAME)
    assert cluster.objects == before
