"""What Azure would refuse is passed over before anything exists; where nobody may ask, the run finds out itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks import aks
from kaito.hooks.api import ClusterError
from kaito.hooks.azure_account import AksError

from include.pools.azure_offer import Wanted
from include.workspace.api import names
from tests.support.fake_cluster import FakeCluster
from tests.support.tasks import preflight

NAME = "workspace-tuning-phi-3"
V100, A100 = "Standard_NC6s_v3", "Standard_NC24ads_A100_v4"
pytestmark = pytest.mark.usefixtures("established_crd")


class Azure:
    """Answers for AksHook and its calls; `none` are the machine types that it would refuse."""

    none: tuple[str, ...] = ()
    pools: Sequence[dict[str, Any]] = ()
    error: Exception | None = None
    silent: Exception | None = None  # of what Azure has, not of what is there
    asked: list[Wanted]

    def __init__(self, _conn_id: str) -> None:
        Azure.asked = []

    @property
    def calls(self) -> Azure:
        return self

    async def list_pools(self) -> Sequence[dict[str, Any]]:
        if Azure.error:
            raise Azure.error
        return Azure.pools

    async def offers_faults(self, wanted: Sequence[Wanted]) -> list[list[str]]:
        if Azure.silent:
            raise Azure.silent
        Azure.asked = list(wanted)
        return [[f"no quota for {w.instance_type}."] if w.instance_type in Azure.none else [] for w in wanted]


@pytest.fixture(autouse=True)
def azure(cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aks, "AksHook", Azure)
    Azure.none, Azure.pools, Azure.error, Azure.silent = (), (), None, None
    live = cluster.objects["workspaces", "default", NAME]["metadata"]
    live["annotations"] = {
        **(live.get("annotations") or {}),
        names.POOL_PROVIDER: "aks",
        names.INSTANCE_TYPES: f"{A100}@2",
        names.CAPACITY_TYPE: "spot,on-demand",
    }


def offers(result: dict[str, Any]) -> list[str]:
    plans = [result["plan"], *result.get("alternatives", {}).get("tuning", [])]
    return [f"{p['instance_type']}@{p.get('zone', '')}/{p['capacity_type']}" for p in plans]


def test_all_choices_are_asked_about_with_their_zones_and_terms(cluster: FakeCluster) -> None:
    found = offers(preflight(cluster, {"name": NAME}))
    assert found == [f"{V100}@/spot", f"{A100}@2/spot", f"{V100}@/on-demand", f"{A100}@2/on-demand"]
    assert [(w.instance_type, w.zones, w.spot) for w in Azure.asked] == [
        (V100, (), True),
        (A100, ("2",), True),
        (V100, (), False),
        (A100, ("2",), False),
    ]


def test_what_azure_would_refuse_is_passed_over(cluster: FakeCluster) -> None:
    Azure.none = (V100,)
    assert offers(preflight(cluster, {"name": NAME})) == [f"{A100}@2/spot", f"{A100}@2/on-demand"]


def test_when_that_is_all_the_run_ends_before_anything_exists(cluster: FakeCluster) -> None:
    Azure.none = (V100, A100)
    with pytest.raises(AirflowFailException, match="none of 4 choices"):
        preflight(cluster, {"name": NAME})
    told = cluster.condition(NAME, "ResourceReady")
    assert told["reason"] == "CapacityUnavailable"
    assert f"no quota for {A100}." in told["message"]
    assert cluster.writes == []


def test_a_refusal_and_a_price_are_told_apart(cluster: FakeCluster) -> None:
    """What is over budget stays so; what the cloud lacks may come back, so this is not the budget's verdict."""
    Azure.none = (V100,)
    cluster.objects["workspaces", "default", NAME]["metadata"]["annotations"][names.BUDGET] = "0.01"
    with pytest.raises(AirflowFailException, match=r"the cloud refused 2, 2 would exceed the budget"):
        preflight(cluster, {"name": NAME})
    told = cluster.condition(NAME, "ResourceReady")
    assert told["reason"] == "CapacityUnavailable"
    assert f"{V100}/spot: refused: " in told["message"]
    assert f"{A100}@2/spot: over budget: the tuning without its training is estimated at" in told["message"]
    assert cluster.condition(NAME, "WorkspaceReady")["reason"] != "BudgetExceeded"
    assert cluster.writes == []


def test_without_the_right_to_ask_the_run_goes_on(cluster: FakeCluster) -> None:
    Azure.silent = AksError(403, "AuthorizationFailed", "no right to read skus")
    assert len(offers(preflight(cluster, {"name": NAME}))) == 4


def test_an_azure_that_does_not_answer_is_no_refusal(cluster: FakeCluster) -> None:
    Azure.error = AksError(503, "ServiceUnavailable", "try later")
    assert len(offers(preflight(cluster, {"name": NAME}))) == 4


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AuthorizationFailed", "Grant the role"),
        ("ResourceGroupNotFound", "Resource group 'x' could not be found"),
    ],
)
def test_a_connection_that_can_never_make_pools_ends_the_run_at_once(
    cluster: FakeCluster, code: str, words: str
) -> None:
    Azure.error = AksError(403, code, words)
    with pytest.raises(AirflowFailException, match=words):
        preflight(cluster, {"name": NAME})
    assert words in cluster.condition(NAME, "ResourceReady")["message"]
    assert cluster.writes == []


def test_machines_that_the_workspace_holds_are_not_asked_for_again(cluster: FakeCluster) -> None:
    """Their own cores count in the quota: a run that goes on, or a repair, would refuse itself."""
    Azure.none = (V100, A100)
    labels = {
        names.WORKSPACE: NAME,
        names.WORKSPACE_NAMESPACE: "default",
        names.POOL: "tuning",
    }
    tags = {"kaito-managed-by": names.FIELD_MANAGER}
    pool = {"nodeLabels": labels, "tags": tags, "provisioningState": "Succeeded"}
    Azure.pools = [{"name": "p", "properties": pool}]
    assert len(offers(preflight(cluster, {"name": NAME}))) == 4
    pool["provisioningState"] = "Deleting"
    with pytest.raises(AirflowFailException, match="none of 4 choices"):
        preflight(cluster, {"name": NAME})


def test_other_providers_are_not_asked(cluster: FakeCluster) -> None:
    Azure.error = AssertionError("nobody asks Azure")
    cluster.objects["workspaces", "default", NAME]["metadata"]["annotations"][names.POOL_PROVIDER] = (
        "nodeclaim"
    )
    assert len(offers(preflight(cluster, {"name": NAME}))) == 4


# -- rights, and what AKS takes --------------------------------------------------------------------------------------


def provider(cluster: FakeCluster, name: str, **labels: str) -> None:
    live = cluster.objects["workspaces", "default", NAME]
    live["metadata"]["annotations"] = {names.POOL_PROVIDER: name}
    live["resource"]["labelSelector"]["matchLabels"] |= labels


@pytest.mark.parametrize(("name", "kind"), [("nodeclaim", "nodeclaims"), ("nodepool", "nodepools")])
def test_a_right_that_is_missing_is_named_before_anything_is_made(
    cluster: FakeCluster, name: str, kind: str
) -> None:
    provider(cluster, name)
    for verb in ("create", "delete"):
        cluster.refuse[verb, kind] = ClusterError(403, "Forbidden", "no")
    words = rf"may not create, delete {kind}\.karpenter\.sh: grant it that \(kubectl apply -f presets/rbac\)"
    with pytest.raises(AirflowFailException, match=words):
        preflight(cluster, {"name": NAME})
    assert "presets/rbac" in cluster.condition(NAME, "ResourceReady")["message"]
    assert cluster.writes == []


def test_a_cluster_without_karpenter_is_told_apart_from_a_missing_right(cluster: FakeCluster) -> None:
    provider(cluster, "nodeclaim")
    cluster.refuse["list", "nodeclaims"] = ClusterError(404, "NotFound", "the server could not find it")
    with pytest.raises(AirflowFailException, match="knows no NodeClaims: install Karpenter or the gpu-prov"):
        preflight(cluster, {"name": NAME})


def test_a_pool_that_aks_would_never_take_is_refused_before_the_dataset_is_fetched(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_ZONES", "7")
    provider(cluster, "aks")
    with pytest.raises(AirflowFailException, match="Zone '7' is not an availability zone of Azure"):
        preflight(cluster, {"name": NAME})
    assert "Zone '7'" in cluster.condition(NAME, "ResourceReady")["message"]
