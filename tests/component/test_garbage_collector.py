"""A sweep of the janitor over a real API server (the sandbox's, in this process), with a scripted Airflow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowSkipException
from kaito.controller.dag_runs import AirflowRuns
from kaito.controller.leader_election import NAME
from kaito.hooks import api
from kaito.hooks.api import EVENT, LEASE, POD, STATEFUL_SET, VOLUME_CLAIM, ClusterError, Kind
from kaito.hooks.azure_account import AksError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.operators import janitor
from kaito.operators.janitor import ORPHANS, SweepOperator
from kaito.providers.aks import AgentPools
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.providers.registry import owners

from include.workspace.api import names
from tests.support import janitor_world as world
from tests.support.fake_cluster import FakeCalls, FakeCluster
from tests.support.installed import Installed

LIVE = "workspace-tuning-phi-3"
Now = Callable[..., Any]


class Store:
    """Airflow's asset state, as a task sees it."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def __getitem__(self, asset: Any) -> Store:
        assert asset is ORPHANS
        return self

    async def aget(self, key: str) -> Any:
        return self.kept.get(key)

    async def aset(self, key: str, value: Any) -> None:
        self.kept[key] = value


class Janitor:
    """Sweeps as Airflow would let it; `metrics` counts what it told."""

    def __init__(self, cluster: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster, self.store, self.metrics, self.azure = cluster, Store(), [], None
        monkeypatch.setattr(janitor, "AsyncKaitoClusterHook", self._hook)
        monkeypatch.setattr(janitor, "AirflowRuns", lambda: AirflowRuns(cluster.airflow))
        monkeypatch.setattr(janitor, "owners", self._owners)
        monkeypatch.setattr(
            janitor.stats,  # type: ignore[attr-defined]
            "incr",
            lambda name, tags: self.metrics.append((name, tags["kind"])),
        )

    def _hook(self, conn_id: str) -> Any:
        hook = self.cluster.hook

        class Connected:
            @asynccontextmanager
            async def connected(self) -> Any:
                yield hook

        return Connected()

    @asynccontextmanager
    async def _owners(self, hook: Any) -> Any:
        """The providers that a cluster without Azure has, and Azure where there is one."""
        async with owners(hook) as found:
            context = found[0].context
            yield [*found, *([AgentPools(context, self.azure)] if self.azure else [])]

    async def sweep(self, **params: Any) -> dict[str, Any]:
        params = {"delete": None, "grace_minutes": 0, **params}
        context: Any = {
            "params": params,
            "dag_run": SimpleNamespace(conf=params),
            "asset_state_store": self.store,
        }
        found: dict[str, Any] = await SweepOperator(task_id="sweep").aexecute(context)
        return found

    async def left(self) -> set[str]:
        kinds = (POD, NODE_CLAIM, VOLUME_CLAIM, STATEFUL_SET)
        return {f"{k.name}/{o['metadata']['name']}" for k in kinds for o in await self.cluster.hook.list(k)}


@pytest.fixture
def sweeper(cluster: Installed, monkeypatch: pytest.MonkeyPatch) -> Janitor:
    return Janitor(cluster, monkeypatch)


def _bare(obj: dict[str, Any], owned: bool = True) -> dict[str, Any]:
    """What a client sends. Kubernetes itself collects what names an owner that is gone, so orphans name none."""
    without = {"uid", "resourceVersion", "creationTimestamp"} | (set() if owned else {"ownerReferences"})
    return {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k not in without}}


async def _children(cluster: Installed, owner: str, uid: str, *, owned: bool = True) -> None:
    """A pod, a machine and a volume of a Workspace."""
    spec = {"containers": [{"name": "main", "image": "busybox"}]}
    one = world.pod("tuning", owner=owner, uid=uid, spec=spec)
    one["spec"].pop("nodeName")
    await cluster.apply(POD, {k: v for k, v in _bare(one, owned).items() if k != "status"})
    claim = _bare(world.claim("tuning", owner=owner, uid=uid, node=""))
    template = {"nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"}}
    await cluster.apply(NODE_CLAIM, {**claim, "spec": {**template, "requirements": []}})
    size = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await cluster.apply(VOLUME_CLAIM, {**_bare(world.volume(owner, uid=uid), owned), "spec": size})


@pytest.fixture
async def orphaned(cluster: Installed) -> None:
    """Children of a Workspace that is gone, and of one that lives and works."""
    live = await cluster.quick_start(LIVE)
    await cluster.look()
    await _children(cluster, "gone", world.UID, owned=False)
    await _children(cluster, LIVE, live["metadata"]["uid"])
    await cluster.look()


GONE = {"Pod/gone-g1-tuning-x7", "NodeClaim/gonetuning", "PersistentVolumeClaim/gone-work"}


@pytest.mark.usefixtures("orphaned")
async def test_a_dry_run_reports_and_deletes_nothing(
    sweeper: Janitor, capsys: pytest.CaptureFixture[str]
) -> None:
    before = await sweeper.left()
    found = await sweeper.sweep()
    log = capsys.readouterr().out
    assert (found["delete"], found["deleted"]) == (False, 0)
    assert {row["object"].split("/")[-1].split()[-1] for row in found["orphans"]} == {
        name.split("/")[1] for name in GONE
    }
    assert {row["verdict"] for row in found["orphans"]} == {"delete"}
    assert await sweeper.left() == before
    assert "Workspace default/gone is gone" in log
    assert "3 orphans, 3 of them would be deleted now. Dry run" in log
    assert f"PersistentVolumeClaim default/{LIVE}-work" in log
    assert sweeper.metrics == []


@pytest.mark.usefixtures("orphaned")
async def test_with_delete_orphans_go_and_what_is_at_work_stays(sweeper: Janitor) -> None:
    before = await sweeper.left()
    found = await sweeper.sweep(delete=True)
    assert found["deleted"] == 3
    assert await sweeper.left() == before - GONE
    told = [e for e in await sweeper.cluster.hook.list(EVENT) if e["reason"] == "OrphanDeleted"]
    assert {(e["involvedObject"]["kind"], e["involvedObject"]["name"]) for e in told} == {
        ("Pod", "gone-g1-tuning-x7"),
        ("NodeClaim", "gonetuning"),
        ("PersistentVolumeClaim", "gone-work"),
    }
    assert all("Workspace default/gone is gone" in e["message"] for e in told)
    assert sweeper.store.kept["seen"]["seen"] == {}, "what is gone is forgotten"
    kinds = ["Pod", "NodeClaim", "PersistentVolumeClaim"]
    assert sweeper.metrics == [("kaito.janitor.deleted", kind) for kind in kinds]


@pytest.mark.usefixtures("orphaned")
async def test_the_setting_allows_deletion_and_the_form_goes_before_it(
    sweeper: Janitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__JANITOR_DELETE", "true")
    assert (await sweeper.sweep(delete=False))["deleted"] == 0
    assert (await sweeper.sweep())["deleted"] == 3


@pytest.mark.usefixtures("orphaned")
async def test_orphans_wait_for_the_grace_time_and_are_remembered(sweeper: Janitor) -> None:
    found = await sweeper.sweep(delete=True, grace_minutes=None)
    assert (found["deleted"], {row["verdict"] for row in found["orphans"]}) == (0, {"wait"})
    first = sweeper.store.kept["seen"]
    assert len(first["seen"]) == 3
    await sweeper.sweep(grace_minutes=None)
    assert sweeper.store.kept["seen"]["seen"] == first["seen"]


@pytest.mark.usefixtures("orphaned")
async def test_without_a_memory_it_sweeps_all_the_same(
    sweeper: Janitor, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeper.store = None  # type: ignore[assignment]
    assert len((await sweeper.sweep())["orphans"]) == 3
    assert "seen for the first time" in capsys.readouterr().out


async def _lease(cluster: Installed, holder: str) -> None:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 30}
    await cluster.apply(LEASE, {"metadata": {"name": NAME, "namespace": "kaito-system"}, "spec": spec})


@pytest.mark.usefixtures("orphaned")
async def test_a_passive_deployment_sweeps_nothing(sweeper: Janitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__DEPLOYMENT_ID", "ours")
    await _lease(sweeper.cluster, "another")
    before = await sweeper.left()
    with pytest.raises(AirflowSkipException, match="another"):
        await sweeper.sweep(delete=True)
    assert await sweeper.left() == before


@pytest.mark.usefixtures("orphaned")
async def test_the_holder_sweeps_and_leaves_its_lease_as_it_is(
    sweeper: Janitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__DEPLOYMENT_ID", "ours")
    await _lease(sweeper.cluster, "ours")
    before = await sweeper.cluster.hook.find(LEASE, NAME, "kaito-system")
    assert (await sweeper.sweep(delete=True))["deleted"] == 3
    assert await sweeper.cluster.hook.find(LEASE, NAME, "kaito-system") == before


@pytest.mark.usefixtures("orphaned")
async def test_what_cannot_be_seen_stops_the_sweep(sweeper: Janitor, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = AsyncKaitoClusterHook.pages

    def forbidden(hook: Any, kind: Kind, *args: Any, **more: Any) -> Any:
        if kind is api.WORKSPACE:
            raise ClusterError(403, "Forbidden", "workspaces.kaito.sh is forbidden")
        return pages(hook, kind, *args, **more)

    monkeypatch.setattr(AsyncKaitoClusterHook, "pages", forbidden)
    before = await sweeper.left()
    with pytest.raises(AirflowException, match="not everything could be seen: workspaces"):
        await sweeper.sweep(delete=True)
    assert await sweeper.left() == before


@pytest.mark.usefixtures("orphaned")
async def test_a_workspace_that_comes_back_meanwhile_keeps_what_it_had(
    sweeper: Janitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = janitor.Sweep.look  # type: ignore[attr-defined]

    async def and_then(sweep: Any, *args: Any) -> Any:
        found = await look(sweep, *args)
        await sweeper.cluster.quick_start("gone")
        return found

    monkeypatch.setattr(janitor.Sweep, "look", and_then)  # type: ignore[attr-defined]
    before = await sweeper.left()
    assert (await sweeper.sweep(delete=True))["deleted"] == 0
    assert await sweeper.left() == before


@pytest.mark.usefixtures("orphaned")
async def test_one_refusal_stops_no_other_deletion_and_fails_the_task(
    sweeper: Janitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = AsyncKaitoClusterHook.send

    async def refusing(hook: Any, request: api.Request) -> Any:
        if request.method == "DELETE" and "/pods/" in request.path:
            raise ClusterError(403, "Forbidden", "you may not delete pods")
        return await send(hook, request)

    monkeypatch.setattr(AsyncKaitoClusterHook, "send", refusing)
    with pytest.raises(AirflowException, match="Pod default/gone-g1-tuning-x7: you may not delete pods"):
        await sweeper.sweep(delete=True)
    assert GONE & await sweeper.left() == {"Pod/gone-g1-tuning-x7"}


async def test_an_orphan_of_a_live_workspace_is_told_to_it_once(sweeper: Janitor) -> None:
    live = await sweeper.cluster.quick_start(LIVE)
    await sweeper.cluster.look()
    await _children(sweeper.cluster, LIVE, world.EARLIER)
    sweeper.cluster.airflow.runs = dict.fromkeys(sweeper.cluster.airflow.runs, "failed")
    for _ in range(2):
        found = await sweeper.sweep()
    assert f"NodeClaim {LIVE}tuning" in {row["object"] for row in found["orphans"]}
    told = [e for e in await sweeper.cluster.events(LIVE) if e["reason"] == "OrphanFound"]
    assert {e["count"] for e in told} == {1}
    assert {e["involvedObject"]["uid"] for e in told} == {live["metadata"]["uid"]}
    assert len(told) == len(found["orphans"])


class OneAgentPool:
    """Azure with one pool of ours and one of somebody else."""

    def __init__(self) -> None:
        other = world.agent_pool(**{"kaito-managed-by": "somebody"})
        self.pools = [world.agent_pool(), {**other, "name": "foreign"}]
        self.deleted: list[tuple[str, str | None]] = []
        self.error: AksError | None = None

    async def list_pools(self) -> list[dict[str, Any]]:
        if self.error and not self.error.stale:
            raise self.error
        return self.pools

    async def begin_delete(self, name: str, *, etag: str | None = None, timeout: float = 600) -> bool:
        if self.error:
            raise self.error
        self.deleted.append((name, etag))
        return True


async def test_agent_pools_go_as_they_were_read_and_foreign_ones_stay(sweeper: Janitor) -> None:
    sweeper.azure = azure = OneAgentPool()
    assert (await sweeper.sweep())["deleted"] == 0
    assert azure.deleted == []
    assert (await sweeper.sweep(delete=True))["deleted"] == 1
    assert azure.deleted == [("wsabc", "e1")]
    assert names.WORKSPACE in azure.pools[0]["properties"]["nodeLabels"]


async def test_a_cloud_that_does_not_answer_stops_the_sweep(sweeper: Janitor) -> None:
    sweeper.azure = azure = OneAgentPool()
    azure.error = AksError(404, "ResourceNotFound", "there is no such cluster")
    with pytest.raises(AirflowException, match="not everything could be seen"):
        await sweeper.sweep(delete=True)


async def test_an_agent_pool_that_changed_meanwhile_stays(sweeper: Janitor) -> None:
    sweeper.azure = azure = OneAgentPool()
    azure.error = AksError(412, "PreconditionFailed", "the pool has changed")
    assert (await sweeper.sweep(delete=True))["deleted"] == 0


@pytest.mark.usefixtures("orphaned")
async def test_machines_are_judged_after_all_that_airflow_and_the_cluster_answer(sweeper: Janitor) -> None:
    """Its run is over, which Airflow tells; its machine is in use all the same, which only a second look tells."""
    sweeper.cluster.airflow.runs = dict.fromkeys(sweeper.cluster.airflow.runs, "failed")
    hook = sweeper.cluster.admin
    claim = await hook.find(NODE_CLAIM, f"{LIVE}tuning")
    assert claim is not None
    await hook.send(
        api.Request(
            "PATCH",
            NODE_CLAIM.path(claim["metadata"]["name"], subresource="status"),
            (),
            {"status": {"nodeName": "gpu-1"}},
            api.MERGE_PATCH,
        )
    )
    containers = [{"name": "main", "image": "busybox"}]
    await sweeper.cluster.apply(
        POD, {"metadata": {"name": "notebook"}, "spec": {"nodeName": "gpu-1", "containers": containers}}
    )
    found = await sweeper.sweep(delete=True)
    assert f"NodeClaim/{LIVE}tuning" in await sweeper.left()
    assert f"Pod default/{LIVE}-g1-tuning-x7" in {row["object"] for row in found["orphans"]}


WHERE = '"subscriptionId": "s", "resourceGroup": "g", "clusterName": "c"'


@pytest.mark.parametrize(
    ("connection", "provider", "looked_at"),
    [
        (None, "nodeclaim", False),
        ('{"conn_type": "azure"}', "nodeclaim", False),
        ('{"conn_type": "azure", "extra": {' + WHERE + "}}", "nodeclaim", True),
        (None, "aks", True),
    ],
)
async def test_azure_is_looked_at_where_there_can_be_pools(
    monkeypatch: pytest.MonkeyPatch, connection: str | None, provider: str, looked_at: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__AZURE_CONN_ID", "janitor_azure")
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDER", provider)
    if connection:
        monkeypatch.setenv("AIRFLOW_CONN_JANITOR_AZURE", connection)
    async with owners(FakeCalls(FakeCluster())) as found:  # type: ignore[arg-type]
        assert ("aks" in [maker.name for maker in found]) is looked_at


@pytest.mark.usefixtures("orphaned")
async def test_a_sweep_deletes_only_where_workspaces_may_run(
    sweeper: Janitor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__ALLOWED_NAMESPACES", "team-*")
    before = await sweeper.left()
    found = await sweeper.sweep(delete=True)
    assert found["deleted"] == 0
    assert await sweeper.left() == before
    assert "namespace default is none of [kaito] allowed_namespaces" in capsys.readouterr().out
