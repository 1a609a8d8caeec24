"""Who makes a Workspace's machines, what `auto` makes of a cluster, and what follows for operators and releases."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import CRD, NODE, ClusterError
from kaito.hooks.azure_account import AksError
from kaito.operators.pool import KILL_SECONDS
from kaito.providers import registry as pools
from kaito.providers.base import ForeignPool, GpuPool, PoolKey, PoolTaken, labels_of
from kaito.providers.byo import OwnNodes
from kaito.providers.nodeclaim import NODE_CLAIM, NodeClaims
from kaito.providers.nodepool import NODE_POOL, NodePools
from kaito.providers.registry import owners_in_a_task
from kaito.providers.selection import (
    Chooser,
    NoProvider,
    choose,
)
from kaito.providers.settings import BUDGETS, PoolSettings, budgets
from kaito.tasks import machines as operators

from include.pools.status import Stage
from include.workspace import workspace_crd
from include.workspace.api import names
from include.workspace.api.names import AUTO_PROVIDER, ProviderName
from tests.support.fake_cluster import RUN_ID, FakeCalls, FakeCluster
from tests.support.node_claims import gpu_node
from tests.support.tasks import create, preflight
from tests.support.tasks import release as release_task

NAME = "workspace-tuning-phi-3"
NO_KIND = ClusterError(404, "NotFound", "the server could not find the requested resource")
AUTO = PoolSettings(AUTO_PROVIDER, "azure_here")
AZURE = json.dumps({"conn_type": "azure", "extra": {"subscriptionId": "s"}})


def annotated(workspace: dict[str, Any], provider: str) -> dict[str, Any]:
    workspace["metadata"]["annotations"] = {names.POOL_PROVIDER: provider}
    return workspace


def test_without_a_word_machines_are_node_claims(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    assert choose(cluster, workspace).settings.provider == ProviderName.NODE_CLAIM  # type: ignore[arg-type]


def test_the_annotation_beats_the_setting(
    cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDER", "aks")
    assert choose(cluster, workspace).settings.provider == ProviderName.AKS  # type: ignore[arg-type]
    chosen = choose(cluster, annotated(workspace, "nodepool"))  # type: ignore[arg-type]
    assert chosen.settings.provider == ProviderName.NODE_POOL
    assert names.POOL_PROVIDER in str(chosen)


@pytest.mark.parametrize(
    ("lacks", "azure", "expected"),
    [
        ((), True, ProviderName.NODE_POOL),
        ((NODE_POOL,), True, ProviderName.NODE_CLAIM),
        ((NODE_POOL, NODE_CLAIM), True, ProviderName.AKS),
        ((NODE_POOL, NODE_CLAIM), False, None),
    ],
)
async def test_auto_takes_what_there_is_and_both_sides_agree(
    cluster: FakeCluster,
    workspace: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    lacks: tuple[Any, ...],
    azure: bool,
    expected: str | None,
) -> None:
    if azure:
        monkeypatch.setenv("AIRFLOW_CONN_AZURE_HERE", AZURE)
    for kind in lacks:
        cluster.refuse["list", kind.plural] = NO_KIND
    look: list[Callable[[], Any]] = [lambda: choose(cluster, workspace, AUTO)]  # type: ignore[arg-type]
    if expected is None:
        with pytest.raises(NoProvider, match=r"azure_here has no subscriptionId"):
            look[0]()
        return
    chosen = look[0]()
    assert chosen.settings.provider == expected
    assert "auto, and" in str(chosen)
    assert await Chooser(FakeCalls(cluster), AUTO).choose(workspace) == chosen  # type: ignore[arg-type]


def test_auto_without_a_machine_type_means_byo_nodes(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    workspace["resource"]["instanceType"] = ""
    chosen = choose(cluster, workspace, AUTO)  # type: ignore[arg-type]
    assert chosen.settings.provider == ProviderName.BYO
    assert "no instanceType" in chosen.why


async def test_one_look_at_the_cluster_serves_many_workspaces(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    hook, looks = FakeCalls(cluster), []
    real = hook.list

    async def counted(kind: Any, *_: Any, **selection: Any) -> Any:
        looks.append(kind.plural)
        return await real(kind, **selection)

    hook.list = counted  # type: ignore[method-assign, attr-defined]
    chooser = Chooser(hook, AUTO)  # type: ignore[arg-type]
    chosen = [(await chooser.choose(workspace)).settings.provider for _ in range(3)]
    assert chosen == [ProviderName.NODE_POOL] * 3
    assert sorted(looks) == ["nodeclaims", "nodepools"]


def test_an_api_that_is_away_is_no_missing_kind(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    cluster.refuse["list", NODE_CLAIM.plural] = ClusterError(503, "ServiceUnavailable", "away")
    with pytest.raises(ClusterError):
        choose(cluster, workspace, AUTO)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "kind"), [("nodepool", NodePools), ("nodeclaim", NodeClaims), ("byo", OwnNodes)]
)
def test_a_choice_becomes_its_provider(
    cluster: FakeCluster, workspace: dict[str, Any], name: str, kind: type
) -> None:
    made = pools.provider(cluster, PoolSettings(name), workspace)  # type: ignore[arg-type]
    assert isinstance(made.provider, kind)


def test_auto_must_be_resolved_first(cluster: FakeCluster) -> None:
    with pytest.raises(ValueError, match="no provider 'auto'"):
        pools.provider(cluster, AUTO)  # type: ignore[arg-type]


def annotate_run(context: dict[str, Any], provider: str) -> None:
    annotated(context["ti"].xcoms["preflight"]["workspace"], provider)


def test_a_node_pool_is_made_and_deleted(cluster: FakeCluster, context: dict[str, Any]) -> None:
    annotate_run(context, "nodepool")
    result = create(cluster).execute(context)
    assert result["made"] == [pool["metadata"]["name"] for pool in cluster.list(NODE_POOL)] != []
    assert cluster.list(NODE_CLAIM) == []
    release_task(cluster).execute(context)
    assert cluster.list(NODE_POOL) == []


def test_byo_nodes_are_neither_made_nor_deleted(cluster: FakeCluster, context: dict[str, Any]) -> None:
    annotate_run(context, "byo")
    cluster.add(NODE, gpu_node("mine"))
    before = list(cluster.writes)
    assert create(cluster).execute(context)["made"] == []
    release_task(cluster).execute(context)
    assert cluster.writes == before
    assert [n["metadata"]["name"] for n in cluster.list(NODE)] == ["mine"]


class Machines:
    """A provider that answers as it is told."""

    makes_machines = True

    def __init__(self, *answers: Any) -> None:
        self.answers, self.deleted = list(answers), []  # type: ignore[var-annotated]

    def request(self, workspace: Any, plan: Any, run_id: str, settings: Any) -> GpuPool:
        key = PoolKey.of(workspace, plan.purpose)
        return GpuPool(key, run_id, plan.instance_type, ({"name": "p"},))

    def create(self, pool: GpuPool) -> list[str]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    def delete(self, key: Any, run_id: str, *, timeout: float | None = None) -> list[str]:
        self.deleted.append((run_id, timeout))
        return []

    def delete_and_wait(self, key: Any, run_id: str, **_: Any) -> None:
        self.deleted.append((run_id, 0.0))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machines]:
    def provide(*answers: Any) -> Machines:
        machines = Machines(*answers)
        monkeypatch.setattr(operators, "provider", lambda *_: machines)
        return machines

    return provide


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (AksError(400, "QuotaExceeded", "0 of 24 cores left"), True),
        (AksError(403, "AuthorizationFailed", "no right"), True),
        (AksError(409, "OperationNotAllowed", "Another operation is in progress"), False),
        (AksError(0, "ConnectionFailed", "Azure did not answer"), False),
    ],
)
def test_what_azure_refuses_for_good_is_not_asked_again(
    cluster: FakeCluster, context: dict[str, Any], told: Callable[..., Machines], error: AksError, ends: bool
) -> None:
    machines = told(error)
    with pytest.raises(AirflowFailException if ends else AksError, match=error.message):
        create(cluster).execute(context)
    assert machines.deleted == [(RUN_ID, None)], "what was asked for is taken back"
    assert error.message in cluster.condition(NAME, "NodeClaimReady")["message"]


def test_machines_of_a_run_that_was_superseded_go_first(
    cluster: FakeCluster, context: dict[str, Any], told: Callable[..., Machines]
) -> None:
    earlier = RUN_ID.replace("0123abcd", "89abcdef")
    machines = told(PoolTaken("taken", [earlier]), ["p"])
    assert create(cluster).execute(context)["made"] == ["p"]
    assert machines.deleted == [(earlier, 0.0)]


@pytest.mark.parametrize("owner", [RUN_ID.replace(".g1", ".g2"), f"{RUN_ID}.r2", "manual", None])
def test_machines_of_any_other_run_stay_its_own(
    cluster: FakeCluster, context: dict[str, Any], told: Callable[..., Machines], owner: str | None
) -> None:
    machines = told(PoolTaken("another run holds it", [owner]))
    with pytest.raises(AirflowFailException, match="another run holds it"):
        create(cluster).execute(context)
    assert machines.deleted == []


def test_what_was_made_beside_a_foreign_pool_is_taken_back(
    cluster: FakeCluster, context: dict[str, Any], told: Callable[..., Machines]
) -> None:
    machines = told(ForeignPool("of that name there is another"))
    with pytest.raises(AirflowFailException, match="there is another"):
        create(cluster).execute(context)
    assert machines.deleted == [(RUN_ID, None)]


def test_a_killed_task_does_not_wait_for_a_busy_cloud(
    cluster: FakeCluster, context: dict[str, Any], told: Callable[..., Machines]
) -> None:
    machines = told(["p"])
    operator = create(cluster)
    operator.execute(context)
    operator.on_kill()
    assert machines.deleted == [(RUN_ID, KILL_SECONDS)]


@pytest.mark.parametrize(
    ("setting", "words"),
    [("gke", "pool_provider must be one of"), ("auto", "auto found nobody")],
)
def test_a_choice_that_cannot_be_made_ends_the_run_in_words(
    cluster: FakeCluster,
    context: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    words: str,
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDER", setting)
    cluster.refuse["list", NODE_POOL.plural] = cluster.refuse["list", NODE_CLAIM.plural] = NO_KIND
    with pytest.raises(AirflowFailException, match=words):
        create(cluster).execute(context)


# BYO nodes, before the run


def own(workspace: dict[str, Any], cluster: FakeCluster) -> dict[str, Any]:
    stored: dict[str, Any] = cluster.objects["workspaces", "default", NAME]
    stored["resource"]["instanceType"] = ""
    return annotated(stored, "byo")


@pytest.fixture
def established(cluster: FakeCluster) -> None:
    definition = workspace_crd()
    definition["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
    cluster.add(CRD, definition)


@pytest.mark.usefixtures("established")
def test_own_nodes_are_planned_for_by_their_labels(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    own(workspace, cluster)
    cluster.add(NODE, gpu_node("mine"))
    cluster.add(NODE, gpu_node("theirs", **{names.WORKSPACE: "other", "nvidia.com/gpu.count": "8"}))
    plan = preflight(cluster, {"name": NAME})["plan"]
    assert plan["own_nodes"] is True
    assert (plan["gpus_per_node"], plan["dtype"]) == (1, "float16")
    assert plan["estimate_usd_per_hour"] is None


@pytest.mark.usefixtures("established")
@pytest.mark.parametrize(
    ("labels", "rule"), [({"app": "other"}, "R9"), ({"nvidia.com/gpu.memory": "much"}, "R10"), (None, "R9")]
)
def test_own_nodes_that_will_not_do_are_refused_before_anything_starts(
    cluster: FakeCluster, workspace: dict[str, Any], labels: dict[str, str] | None, rule: str
) -> None:
    own(workspace, cluster)
    if labels is not None:
        cluster.add(NODE, gpu_node("mine", **labels))
    with pytest.raises(AirflowFailException, match=rf"\[{rule}\]"):
        preflight(cluster, {"name": NAME})


@pytest.mark.usefixtures("established")
def test_own_nodes_that_are_too_small_for_the_tuning_and_for_its_service_are_refused(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    own(workspace, cluster)
    cluster.add(NODE, gpu_node("small", **{"nvidia.com/gpu.memory": "2048"}))
    with pytest.raises(AirflowFailException) as refused:
        preflight(cluster, {"name": NAME})
    assert "has 2.0 GiB; select nodes with larger GPUs [F9]" in str(refused.value)
    assert "[R16]" in str(refused.value)


@pytest.mark.usefixtures("established")
def test_an_annotation_that_names_nobody_is_a_fault(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    annotated(cluster.objects["workspaces", "default", NAME], "gke")
    with pytest.raises(AirflowFailException, match=r"pool-provider.*use one of nodeclaim, nodepool, aks"):
        preflight(cluster, {"name": NAME})


# releases


@pytest.mark.parametrize(
    ("setting", "annotation", "asked"),
    [("nodeclaim", "aks", True), ("aks", "nodepool", False), ("aks", "", True), ("auto", "", True)],
)
def test_a_release_asks_azure_where_it_may_have_made_machines(
    workspace: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    annotation: str,
    asked: bool,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_DEFAULT", AZURE)
    if annotation:
        annotated(workspace, annotation)

    class Azure:
        looked = 0

        def __init__(self, _: str) -> None: ...

        @property
        def calls(self) -> Azure:
            return self

        async def list_pools(self) -> list[Any]:
            Azure.looked += 1
            return []

    monkeypatch.setattr("kaito.hooks.aks.AksHook", Azure)
    makers = owners_in_a_task(FakeCluster(), workspace, PoolSettings(setting))  # type: ignore[arg-type]
    assert [maker.list_owned(labels_of(workspace)) for maker in makers] == [[]] * len(makers)
    assert Azure.looked == asked


# budgets


def test_each_stage_has_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budgets() == BUDGETS
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_BOOT_SECONDS", "12.5")
    assert budgets()[Stage.BOOT] == 12.5


@pytest.mark.parametrize("value", ["soon", "0", "-1", "inf", "nan"])
def test_a_budget_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_LAUNCH_SECONDS", value)
    with pytest.raises(ValueError, match="pool_launch_seconds must be seconds above 0"):
        budgets()
