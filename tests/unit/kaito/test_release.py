"""A Workspace goes: what is told to go, what never is, and when our finalizer comes off."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.triggers.base import TaskSuccessEvent
from kaito.controller.finalizer import judge
from kaito.hooks import aks
from kaito.hooks.api import (
    CONFIG_MAP,
    EVENT,
    NODE,
    POD,
    SERVICE,
    STATEFUL_SET,
    VOLUME_CLAIM,
    WORKSPACE,
    ClusterError,
    Kind,
    Request,
)
from kaito.hooks.azure_account import AksError
from kaito.operators.release import ReleaseOperator, RemoveFinalizerOperator
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.providers.nodepool import NODE_POOL
from kaito.triggers import base
from kaito.triggers.release import ReleasedTrigger

from include.pools.aks import MANAGED_BY, MANAGED_BY_TAG
from include.workspace.api import names
from tests.support.fake_cluster import RUN_ID, FakeCalls, FakeCluster
from tests.support.triggers import ending

NAME = "workspace-tuning-phi-3"
WHICH = {"workspace": NAME, "namespace": "default"}
OURS = {"kaito.sh/workspace": NAME, "kaito.sh/workspacenamespace": "default"}
NOW = "2026-11-23T00:00:00Z"


class Deletes(FakeCluster):
    """A cluster in memory that keeps finalizers, as the API server does."""

    def __init__(self) -> None:
        super().__init__()
        self.conflicts = 0

    def delete(self, kind: Kind, name: str, namespace: str | None = None, **guards: Any) -> bool:
        metadata = self.objects.get(self._key(kind, name, namespace), {}).get("metadata", {})
        if metadata.get("finalizers"):
            metadata.setdefault("deletionTimestamp", datetime.now(UTC).isoformat())
            self.deleted.append((kind.plural, name))
            return True
        return super().delete(kind, name, namespace, **guards)

    def send(self, request: Request) -> Any:
        metadata = self.objects["workspaces", "default", NAME]["metadata"]
        if self.conflicts:
            self.conflicts -= 1
            metadata["resourceVersion"] += "1"
        if request.body["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            raise ClusterError(409, "Conflict", "somebody else was first")
        metadata["finalizers"] = request.body["metadata"]["finalizers"]
        if metadata.get("deletionTimestamp") and not metadata["finalizers"]:
            self.objects.pop(("workspaces", "default", NAME))


@pytest.fixture
def cluster() -> Deletes:
    return Deletes()


@pytest.fixture
def going(cluster: Deletes, workspace: dict[str, Any]) -> dict[str, Any]:
    """The Workspace after `kubectl delete`, held by us and by somebody else."""
    stored = cluster.objects["workspaces", "default", NAME]
    stored["metadata"] |= {
        "deletionTimestamp": datetime.now(UTC).isoformat(),
        "finalizers": [names.FINALIZER, "example.com/hold"],
        "generation": 2,
    }
    return stored


def child(cluster: FakeCluster, kind: Kind, name: str, owner: str = "0123abcd-0000", **labels: str) -> None:
    metadata: dict[str, Any] = {"name": name, "namespace": "default", "labels": {**OURS, **labels}}
    if not kind.namespaced:
        metadata.pop("namespace")
    elif owner:
        by = {"kind": "Workspace", "name": NAME, "uid": owner, "controller": True}
        metadata["ownerReferences"] = [by]
    cluster.add(kind, {"metadata": metadata})


@pytest.fixture
def everything(cluster: Deletes, going: dict[str, Any]) -> None:
    child(cluster, POD, f"{NAME}-g1-tuning", **{"kaito.sh/component": "tuning", "kaito.sh/run-id": RUN_ID})
    child(cluster, STATEFUL_SET, NAME, **{"kaito.sh/component": "serving"})
    child(cluster, SERVICE, NAME, **{"kaito.sh/component": "serving"})
    child(cluster, SERVICE, f"{NAME}-headless", **{"kaito.sh/component": "serving"})
    child(cluster, CONFIG_MAP, f"{NAME}-g1-tuning", **{"kaito.sh/component": "tuning"})
    child(cluster, VOLUME_CLAIM, f"{NAME}-work", **{"kaito.sh/component": "tuning"})
    child(cluster, NODE_POOL, "ws0", **{"kaito.sh/pool": "tuning", "kaito.sh/run-id": RUN_ID})
    child(cluster, NODE_CLAIM, "ws1", **{"kaito.sh/pool": "tuning", "kaito.sh/run-id": RUN_ID})
    child(cluster, NODE_CLAIM, "ws2", **{"kaito.sh/pool": "serving", "kaito.sh/run-id": "an-earlier-run"})


def step(operator: Any, cluster: FakeCluster) -> Any:
    operator.cluster = cluster
    return operator


def release(cluster: FakeCluster, **params: Any) -> dict[str, Any]:
    context = {"params": {"name": NAME, **params}, "dag_run": SimpleNamespace(conf=params)}
    return step(ReleaseOperator(task_id="release", **WHICH), cluster).execute(context)


def remove_finalizer(
    cluster: FakeCluster, uid: str | None = "0123abcd-0000", gone_within: float = 0.0
) -> None:
    operator = RemoveFinalizerOperator(
        task_id="remove_finalizer", gone_within=gone_within, poll_seconds=0, **WHICH
    )
    ti = SimpleNamespace(xcom_pull=lambda task_ids: {"uid": uid}, dag_id="kaito_release")
    step(operator, cluster).execute({"ti": ti, "run_id": "gone.release", "outlet_events": cluster.outlets})


def test_everything_of_it_is_told_to_go(cluster: Deletes, everything: None) -> None:
    assert release(cluster) == {"uid": "0123abcd-0000"}
    assert cluster.deleted == [
        ("statefulsets", NAME),
        ("services", NAME),
        ("services", f"{NAME}-headless"),
        ("pods", f"{NAME}-g1-tuning"),
        ("configmaps", f"{NAME}-g1-tuning"),
        ("nodepools", "ws0"),
        ("nodeclaims", "ws1"),
        ("nodeclaims", "ws2"),
        ("persistentvolumeclaims", f"{NAME}-work"),
    ]
    assert cluster.condition(NAME, "WorkspaceDeleting")["status"] == "True"


@pytest.mark.parametrize(
    ("kind", "name", "owner", "labels"),
    [
        (VOLUME_CLAIM, "my-datasets", "", {"kaito.sh/component": "tuning"}),
        (CONFIG_MAP, "my-training-config", "", {}),
        (STATEFUL_SET, NAME, "somebody-else", {"kaito.sh/component": "serving"}),
        (SERVICE, NAME, "somebody-else", {"kaito.sh/component": "serving"}),
        (VOLUME_CLAIM, f"{NAME}-work", "somebody-else", {"kaito.sh/component": "tuning"}),
        (NODE_CLAIM, "ws9", "", {"kaito.sh/workspacenamespace": "another", "kaito.sh/pool": "tuning"}),
        (NODE, "brought-along", "", {}),
    ],
)
def test_what_is_not_ours_stays(
    cluster: Deletes, going: dict[str, Any], kind: Kind, name: str, owner: str, labels: dict[str, str]
) -> None:
    child(cluster, kind, name, owner, **labels)
    release(cluster)
    remove_finalizer(cluster)
    assert cluster.deleted == []
    assert cluster.find(kind, name, "default")
    assert going["metadata"]["finalizers"] == ["example.com/hold"]


def test_a_workspace_that_nobody_deletes_is_refused(cluster: Deletes, workspace: dict[str, Any]) -> None:
    child(cluster, NODE_CLAIM, "ws1", **{"kaito.sh/pool": "tuning"})
    with pytest.raises(AirflowFailException, match="kubectl delete workspace"):
        release(cluster)
    assert cluster.deleted == []


def test_it_is_deleted_when_the_run_is_asked_to(cluster: Deletes, workspace: dict[str, Any]) -> None:
    """With our finalizer on it first: machines are no children that the API server would collect."""
    child(cluster, NODE_CLAIM, "ws1", **{"kaito.sh/pool": "tuning"})
    release(cluster, delete=True)
    assert cluster.deleted == [("workspaces", NAME), ("nodeclaims", "ws1")]
    remove_finalizer(cluster)
    assert cluster.find(WORKSPACE, NAME, "default") is None


def test_releasing_twice_or_too_late_is_no_error(cluster: Deletes, everything: None) -> None:
    uid = release(cluster)["uid"]
    release(cluster)
    remove_finalizer(cluster, uid)
    remove_finalizer(cluster, uid)
    cluster.objects.clear()
    assert release(cluster) == {"uid": None}
    remove_finalizer(cluster, None)


def test_a_workspace_made_again_is_not_touched(cluster: Deletes, workspace: dict[str, Any]) -> None:
    child(cluster, NODE_CLAIM, "new", **{"kaito.sh/pool": "tuning"})
    cluster.objects["workspaces", "default", NAME]["metadata"]["finalizers"] = [names.FINALIZER]
    remove_finalizer(cluster, uid="the-earlier-one")
    assert cluster.deleted == []
    assert cluster.find(WORKSPACE, NAME, "default")["metadata"]["finalizers"] == [names.FINALIZER]


def test_what_a_racing_task_made_goes_before_the_finalizer(cluster: Deletes, going: dict[str, Any]) -> None:
    release(cluster)
    child(cluster, NODE_CLAIM, "late", **{"kaito.sh/pool": "tuning"})
    remove_finalizer(cluster, gone_within=5)
    assert cluster.deleted == [("nodeclaims", "late")]
    assert going["metadata"]["finalizers"] == ["example.com/hold"]


def stuck(cluster: FakeCluster) -> None:
    child(cluster, NODE_CLAIM, "stuck", **{"kaito.sh/pool": "tuning"})
    metadata = cluster.objects["nodeclaims", "", "stuck"]["metadata"]
    metadata |= {"deletionTimestamp": NOW, "finalizers": ["karpenter.sh/termination"]}


def test_our_finalizer_stays_while_something_is_left(cluster: Deletes, going: dict[str, Any]) -> None:
    stuck(cluster)
    with pytest.raises(AirflowException, match=r"NodeClaim stuck \(finalizers: karpenter.sh/termination\)"):
        remove_finalizer(cluster)
    assert names.FINALIZER in going["metadata"]["finalizers"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"annotations": {names.FORCE_RELEASE: "true"}}, "kaito.sh/force-release asks for it"),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, "the deadline of 1800 s has passed"),
    ],
)
def test_a_stuck_release_is_given_up_with_a_list_of_what_was_left(
    cluster: Deletes, going: dict[str, Any], change: dict[str, Any], why: str
) -> None:
    stuck(cluster)
    going["metadata"] |= change
    remove_finalizer(cluster)
    assert going["metadata"]["finalizers"] == ["example.com/hold"]
    (event,) = cluster.list(EVENT)
    assert (event["type"], event["reason"]) == ("Warning", "ReleasedByForce")
    assert why in event["message"]
    assert "NodeClaim stuck" in event["message"]


def test_a_write_that_came_first_is_met_with_another_try(cluster: Deletes, going: dict[str, Any]) -> None:
    cluster.conflicts = 3
    remove_finalizer(cluster)
    assert going["metadata"]["finalizers"] == ["example.com/hold"]
    going["metadata"]["finalizers"].append(names.FINALIZER)
    cluster.conflicts = 99
    with pytest.raises(ClusterError, match="keeps writing"):
        remove_finalizer(cluster)


def test_a_cluster_without_node_claims_has_none(cluster: Deletes, everything: None) -> None:
    cluster.refuse["list", "nodeclaims"] = ClusterError(404, "NotFound", "the server could not find it")
    release(cluster)
    assert ("pods", f"{NAME}-g1-tuning") in cluster.deleted
    cluster.refuse["list", "pods"] = ClusterError(403, "Forbidden", "pods is forbidden")
    with pytest.raises(ClusterError, match="forbidden"):
        release(cluster)


def test_a_node_that_outlives_its_machine_is_waited_for(cluster: Deletes, going: dict[str, Any]) -> None:
    child(cluster, NODE, "aks-ws1", **{"kaito.sh/pool": "tuning"})
    found = {
        kind: [] for kind in ("pods", "statefulsets", "services", "persistentvolumeclaims", "configmaps")
    }
    remains = judge(going, {**found, "nodes": cluster.list(NODE)}, [], 1800.0)
    assert str(remains) == "Node aks-ws1"
    with pytest.raises(AirflowException, match="Node aks-ws1"):
        remove_finalizer(cluster)
    assert cluster.deleted == [], "its cloud takes it away"


POOL = {**OURS, "kaito.sh/pool": "tuning"}


class Azure:
    """Two agent pools: one of the Workspace, one of another."""

    def __init__(self) -> None:
        tags = {MANAGED_BY_TAG: MANAGED_BY}
        self.pools = [
            {
                "name": name,
                "properties": {"tags": tags, "nodeLabels": labels, "provisioningState": "Succeeded"},
            }
            for name, labels in (("ours", POOL), ("theirs", {**POOL, "kaito.sh/workspace": "another"}))
        ]

        self.trouble: Exception | None = None

    @property
    def calls(self) -> Azure:
        return self

    async def list_pools(self) -> list[dict[str, Any]]:
        if self.trouble:
            raise self.trouble
        return copy.deepcopy(self.pools)

    async def close(self) -> None: ...

    async def begin_delete(self, name: str, **_: Any) -> bool:
        for pool in self.pools:
            if pool["name"] == name:
                pool["properties"]["provisioningState"] = "Deleting"
        return True


def test_agent_pools_go_too(cluster: Deletes, going: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    azure = Azure()
    monkeypatch.setattr(aks, "AksHook", lambda conn_id: azure)
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDER", "aks")
    release(cluster)
    assert [p["properties"]["provisioningState"] for p in azure.pools] == ["Deleting", "Succeeded"]
    with pytest.raises(AirflowException, match=r"AgentPool ours \(Deleting\)"):
        remove_finalizer(cluster)
    azure.pools.pop(0)
    remove_finalizer(cluster)
    assert going["metadata"]["finalizers"] == ["example.com/hold"]


class TestTheWait:
    @pytest.fixture(autouse=True)
    def in_memory(self, monkeypatch: pytest.MonkeyPatch, cluster: Deletes) -> None:
        monkeypatch.setattr(base, "AsyncKaitoClusterHook", lambda conn_id: FakeCalls(cluster))

    def trigger(self) -> ReleasedTrigger:
        return ReleasedTrigger(
            **WHICH,
            kubernetes_conn_id="kubernetes_default",
            timeout_seconds=5.0,
            poll_seconds=0.01,
            deadline_seconds=1800.0,
        )

    async def test_it_ends_when_all_is_gone(self, cluster: Deletes, going: dict[str, Any]) -> None:
        assert isinstance(await ending(self.trigger()), TaskSuccessEvent)
        assert cluster.condition(NAME, "WorkspaceDeleting")["message"] == "Nothing is left."

    async def test_it_waits_for_agent_pools_that_the_cluster_does_not_show(
        self, cluster: Deletes, going: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        azure = Azure()
        monkeypatch.setattr(aks, "AksHook", lambda conn_id: azure)
        monkeypatch.setattr("kaito.triggers.release.CLOUD_SECONDS", 0.0)
        monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDER", "aks")
        trigger, said = self.trigger(), []
        looked = trigger.observe

        async def then_on(hook: Any) -> Any:
            seen = await looked(hook)
            said.append(seen.message)
            if azure.trouble is None and len(said) == 1:
                azure.trouble = AksError(503, "ServiceUnavailable", "come back later")
            elif azure.trouble:
                azure.trouble, azure.pools = None, azure.pools[1:]
            return seen

        monkeypatch.setattr(trigger, "observe", then_on)
        assert isinstance(await ending(trigger), TaskSuccessEvent)
        assert said[0] == "Waiting for the end of: AgentPool ours (Succeeded)"
        assert "cannot be seen (ServiceUnavailable: come back later)" in said[1]
        assert said[2:] == ["Nothing is left."]

    async def test_it_ends_when_the_workspace_is_gone_or_another(
        self, cluster: Deletes, workspace: dict[str, Any]
    ) -> None:
        before = copy.deepcopy(cluster.objects)
        assert isinstance(await ending(self.trigger()), TaskSuccessEvent)
        assert cluster.objects == before, "the new Workspace of that name hears nothing of the old one's end"
        cluster.objects.clear()
        assert isinstance(await ending(self.trigger()), TaskSuccessEvent)

    async def test_it_says_what_is_left_until_it_is_given_up(
        self, cluster: Deletes, going: dict[str, Any]
    ) -> None:
        stuck(cluster)
        trigger = self.trigger()
        looked = trigger.observe

        async def then_forced(hook: Any) -> Any:
            seen = await looked(hook)
            going["metadata"]["annotations"] = {names.FORCE_RELEASE: "true"}
            return seen

        trigger.observe = then_forced  # type: ignore[method-assign]
        said: list[str] = []
        trigger.log.info = lambda text, *args: said.append(text % args)  # type: ignore[method-assign]
        assert isinstance(await ending(trigger), TaskSuccessEvent)
        waiting = "Waiting for the end of: NodeClaim stuck (finalizers: karpenter.sh/termination)"
        assert said[1] == waiting
        assert said[2].startswith("Given up, since kaito.sh/force-release asks for it")


@pytest.mark.parametrize("which", [{"workspace": ".."}, {"workspace": "a/b"}, {"namespace": "../team-b"}])
def test_nothing_is_read_under_what_cannot_be_a_name(cluster: Deletes, which: dict[str, str]) -> None:
    cluster.find = None  # calling it would fail
    operator = step(ReleaseOperator(task_id="release", **{**WHICH, **which}), cluster)
    with pytest.raises(AirflowFailException, match=r"metadata\.name"):
        operator.execute({"params": {"name": "w"}, "dag_run": SimpleNamespace(conf={})})


def test_a_run_deletes_only_where_workspaces_may_run(
    cluster: Deletes, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__ALLOWED_NAMESPACES", "team-*")
    with pytest.raises(AirflowFailException, match="allowed_namespaces"):
        release(cluster, delete=True)
    assert cluster.deleted == []


def test_whatever_is_being_deleted_is_released_wherever_it_is(
    cluster: Deletes, everything: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__ALLOWED_NAMESPACES", "team-*")
    release(cluster)
    assert ("nodeclaims", "ws1") in cluster.deleted
