"""Every provider of GPU machines through the same cases, against a running cluster and cloud: real HTTP, Azure's SDK.

What a case means for a provider that it makes no sense for stands in NOT_FOR, and shows as a skip with that reason.
After each case the cloud has the nodes that it had before, and its bill has no machine that still runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kaito.hooks.aks import AksHook
from kaito.hooks.api import NODE, POD
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.providers.base import FailureClass, ForeignPool, PoolTaken
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.providers.nodepool import NODE_POOL

from demo.cluster import airflow_kubeconfig
from include.contracts.purpose import Purpose
from include.ledger import records
from include.pools.aks import AgentPoolOptions
from include.pools.status import Stage
from include.workspace.api import names
from tests.support.pools import held_machines
from tests.support.provider_cloud import (
    CONNECTION,
    Cloud,
    Killed,
    Pool,
    bring_nodes,
    kill_after,
    running_cloud,
    until,
)

pytestmark = pytest.mark.integration

MAKERS = ("nodeclaim", "nodepool", "aks")
PROVIDERS = (*MAKERS, "byo")
NOT_ASKED = "no cloud is asked for machines"
NOTHING_MADE = "nothing is made, so nothing can be half made, foreign or another run's"
#: (case, provider) -> why the case makes no sense there.
NOT_FOR = {
    ("slow", "byo"): "machines that are not there yet are the partial case",
    ("refused", "byo"): NOT_ASKED,
    ("release early", "byo"): NOT_ASKED,
    ("eviction", "byo"): "an evicted spot machine is a dead node to who brought it",
    ("foreign", "byo"): NOTHING_MADE,
    ("taken", "byo"): NOTHING_MADE,
    ("handed over", "byo"): NOTHING_MADE,
    ("killed creating", "byo"): NOTHING_MADE,
    ("killed deleting", "byo"): NOTHING_MADE,
}


def each(case: str) -> Any:
    """All providers; with a skip that says why where a case makes no sense."""
    found = []
    for kind in PROVIDERS:
        why = NOT_FOR.get((case, kind))
        found.append(pytest.param(kind, marks=[pytest.mark.skip(reason=f"{kind}: {why}")] if why else []))
    return pytest.mark.parametrize("kind", found)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(tmp_path_factory.mktemp("sandbox")) as cloud:
        with pytest.MonkeyPatch.context() as patch:
            cloud.connect(patch)
            bring_nodes(AksHook(CONNECTION), cloud, 3)
        yield cloud


@pytest.fixture
def cloud(running: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    running.connect(monkeypatch)
    return running


@pytest.fixture
def pool(request: pytest.FixtureRequest, kind: str, cloud: Cloud) -> Iterator[Pool]:
    """A pool with a name of its own, and at the end the proof that nothing of it is left."""
    before = cloud.nodes()
    name = request.node.originalname.removeprefix("test_").replace("_", "-")[:20].strip("-")
    made = Pool(cloud, kind, f"{name}-{kind}")
    yield made
    cloud.heal()
    made.release()
    mine = cloud.nodes(app="mine")  # of which a case may have killed some
    assert cloud.nodes() == [node for node in before if node in mine or not node.startswith("aks-mine-")]
    assert all(rental.stopped for rental in cloud.rentals(made.name)), made.bill()


@each("ready")
def test_pods_run_on_a_pool_and_nothing_is_left_after_it(pool: Pool) -> None:
    made = pool.create()
    assert len(made) == (pool.kind != "byo")
    assert pool.create() == []
    status = pool.ready()
    assert pool.machines().observe(pool.key) == status
    cloud = pool.cloud
    cloud.hook.get_or_create(POD, gpu_pod(pool))
    found = until(
        lambda: (
            p
            if (p := cloud.hook.find(POD, pool.name, "default"))["status"].get("phase") == "Running"
            else None
        ),  # type: ignore[index]
        "the pod runs",
    )
    assert found is not None
    assert found["spec"]["nodeName"] in status.nodes
    pool.release()
    pool.release()
    kept = cloud.hook.find(POD, pool.name, "default")
    assert (kept is not None) == (pool.kind == "byo")
    assert len(cloud.rentals(pool.name)) == (pool.kind != "byo"), pool.bill()


def gpu_pod(pool: Pool) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "busybox",
        "command": ["sleep", "60"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    app = "mine" if pool.kind == "byo" else pool.name
    spec = {
        "nodeSelector": {"app": app},
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "terminationGracePeriodSeconds": 1,
    }
    return {"metadata": {"name": pool.name, "namespace": "default"}, "spec": spec}


@each("partial")
def test_some_machines_are_not_all(pool: Pool) -> None:
    cloud = pool.cloud
    if pool.kind == "byo":
        first, *rest = cloud.nodes(app="mine")
        for node in (first, *rest[1:]):
            cloud.cordon(node)
    else:
        pool.create()
        pool.ready()
        cloud.fault("slow-boot", value=60)
        assert len(pool.create(nodes=2)) == 1
    seen = pool.observe(nodes=2)
    assert (seen.ready, seen.failed) == (False, False)
    assert "1 of 2" in seen.message
    cloud.heal()
    for node in cloud.nodes(app="mine"):
        cloud.cordon(node, cordoned=False)
    assert len(pool.ready(nodes=2).nodes) >= 2


@each("slow")
def test_slow_machines_are_waited_for(pool: Pool) -> None:
    pool.cloud.fault("slow-boot", value=60)
    pool.create()
    late = Stage.LAUNCH if pool.kind == "aks" else Stage.BOOT
    seen = until(lambda: s if (s := pool.observe()).stage == late else None, "the machine boots")
    assert seen is not None
    assert (seen.ready, seen.failed) == (False, False)
    assert any(name in seen.message for name in pool.wanted(pool.machines()).names)
    pool.cloud.heal()
    pool.ready()


@each("refused")
@pytest.mark.parametrize(
    ("fault", "failure", "words"),
    [
        ("quota", FailureClass.QUOTA, "quota"),
        ("no-capacity", FailureClass.CAPACITY, "sufficient capacity"),
    ],
)
def test_machines_that_do_not_come_are_no_endless_wait(
    pool: Pool, fault: str, failure: FailureClass, words: str
) -> None:
    pool.cloud.fault(fault, target="Standard_NC6s_v3")
    found, message = pool.fails()
    assert found == failure
    assert words in message
    if (pool.kind, fault) == ("nodepool", "no-capacity"):
        until(pool.was_refused_later, "a refusal that cannot be one of an earlier pool of that name")
    for _ in range(4):  # whatever the cloud's controllers have tried again by now
        assert not pool.observe().ready
        assert pool.observe().failed
    pool.cloud.heal()
    pool.create()
    until(lambda: pool.observe().ready, "machines, once the cloud has some")


@each("auth")
def test_a_missing_right_ends_the_wait(pool: Pool) -> None:
    denied = 'User "airflow" cannot do this in API group "karpenter.sh" at the cluster scope'
    if pool.kind == "aks":
        pool.cloud.fault("auth", target="PUT *")
    elif pool.kind == "byo":
        pool.cloud.fault("api-error", target="GET /api/v1/nodes*", value=403, message=denied)
    else:
        pool.cloud.fault("api-error", target="POST /apis/karpenter.sh/*", value=403, message=denied)
    failure, message = pool.fails()
    assert failure == FailureClass.AUTH
    assert ("Grant the identity" in message) if pool.kind == "aks" else (denied in message)


@each("release early")
def test_machines_that_still_boot_are_released(pool: Pool) -> None:
    pool.cloud.fault("slow-boot", value=60)
    pool.create(nodes=2)
    until(lambda: pool.cloud.rentals(pool.name), "the machines cost money")
    pool.release()
    assert all(rental.stopped for rental in pool.cloud.rentals(pool.name))


@each("dead node")
def test_a_node_that_dies_is_noticed_and_replaced(pool: Pool) -> None:
    if pool.kind != "byo":
        pool.create()
    dead = pool.ready().nodes[0]
    pool.cloud.fault("node-loss", target=dead)
    lose_and_replace(pool, dead)


@each("eviction")
def test_a_spot_machine_is_announced_and_replaced(pool: Pool) -> None:
    cloud = pool.cloud
    if pool.kind == "aks":
        pool = Pool(cloud, pool.kind, pool.name, AgentPoolOptions(spot=True))
    pool.create()
    (node,) = pool.ready().nodes
    cloud.fault("spot-eviction", target=node, value=1)

    def taints() -> set[str]:
        found = cloud.hook.find(NODE, node)
        return {taint["key"] for taint in found["spec"].get("taints") or []} if found else set()

    notice = "remediator.aks.microsoft.com/unschedulable" if pool.kind == "aks" else "karpenter.sh/disrupted"
    until(lambda: notice in taints(), "the node is tainted")
    assert ("kubernetes.azure.com/scalesetpriority" in taints()) == (pool.kind == "aks")
    reasons = [
        e["reason"]
        for e in cloud.hook.core_v1_client.list_event_for_all_namespaces(
            field_selector=f"involvedObject.name={node}"
        ).to_dict()["items"]
    ]
    assert "PreemptScheduled" in reasons
    lose_and_replace(pool, node)


def lose_and_replace(pool: Pool, dead: str) -> None:
    """The node goes, the pool says so or has another one, and asking again is all that a new one takes."""
    until(lambda: dead not in pool.observe().nodes, f"{dead} is not counted on")
    until(lambda: dead not in pool.cloud.nodes(), f"{dead} is gone")
    if pool.kind == "byo":
        seen = pool.observe(nodes=3)
        assert (seen.ready, seen.failed) == (False, False)
        assert "2 of 3 nodes with app=mine in the cluster" in seen.message
        return
    pool.create()
    fresh = until(lambda: s.nodes if (s := pool.observe()).ready else (), "another machine")
    mine = {names.WORKSPACE: pool.name}
    claims, nodes = (pool.cloud.hook.list(kind, labels=mine) for kind in (NODE_CLAIM, NODE))
    assert [machine.node for machine in held_machines(claims, nodes, ())] == list(fresh), "it is on the books"
    assert dead not in fresh
    assert len(fresh) == 1


@each("foreign")
def test_something_foreign_of_the_same_name_is_never_touched(pool: Pool) -> None:
    name = pool.wanted(pool.machines()).names[0]
    with foreign(pool, name) as look:
        before = look()
        with pytest.raises(ForeignPool, match=rf"{name}.* not touched"):
            pool.create()
        pool.release()
        assert look() == before


class foreign:
    """Somebody else's object with the name that our pool would have; `look` tells what may not change."""

    def __init__(self, pool: Pool, name: str) -> None:
        self.pool, self.name = pool, name

    def __enter__(self) -> Any:
        pool, name = self.pool, self.name
        if pool.kind == "aks":
            aks = AksHook(CONNECTION)
            aks.begin_create(
                {"name": name, "properties": {"count": 0, "vmSize": "Standard_D2s_v5", "mode": "User"}}
            )
            until(
                lambda: (aks.find(name) or {})["properties"]["provisioningState"] == "Succeeded",
                "the foreign pool",
            )
            return lambda: aks.find(name)
        kind = NODE_CLAIM if pool.kind == "nodeclaim" else NODE_POOL
        (manifest,) = pool.wanted(pool.machines()).claims
        theirs: dict[str, Any] = {**manifest, "metadata": {"name": name, "labels": {"team": "other"}}}
        if pool.kind == "nodepool":
            theirs["spec"] = {**manifest["spec"], "replicas": 0}
        pool.cloud.hook.get_or_create(kind, theirs)

        def look() -> Any:
            found = pool.cloud.hook.find(kind, name)
            return found and (
                found["metadata"]["uid"],
                found["metadata"]["labels"].get("team"),
                found["spec"],
            )

        return look

    def __exit__(self, *_: object) -> None:
        pool, name = self.pool, self.name
        if pool.kind == "aks":
            aks = AksHook(CONNECTION)
            aks.begin_delete(name)
            until(lambda: aks.find(name) is None, "the foreign pool goes")
            return
        kind = NODE_CLAIM if pool.kind == "nodeclaim" else NODE_POOL
        pool.cloud.hook.delete_and_wait(kind, name, timeout=20)


@each("taken")
def test_another_runs_machines_are_neither_taken_nor_released(pool: Pool) -> None:
    pool.create()
    with pytest.raises(PoolTaken, match=r"run-1.*holds"):
        pool.create(run="run-2")
    assert pool.machines().delete(pool.key, "run-2") == []
    pool.ready()


@each("handed over")
def test_a_machine_that_tuned_serves_next_or_is_let_go_as_it_was(pool: Pool) -> None:
    """Labels of a pool's template, or of an agent pool, make machines anew: those stay with their purpose."""
    pool.create()
    status = pool.ready()
    serving = replace(pool.key, purpose=Purpose.SERVING)
    machines = pool.machines()
    (seen,) = machines.list_owned(pool.key.labels)
    done = machines.hand_over(seen, "run-1", Purpose.SERVING)
    assert done == (pool.kind == "nodeclaim")
    if not done:
        assert pool.ready() == status
        assert machines.delete(serving, "run-1") == []
        return
    assert not machines.hand_over(seen, "run-1", Purpose.SERVING), "it has changed since it was read"
    assert machines.delete(pool.key, "run-1") == [], "the teardown of the tuning leaves it"
    assert machines.create(replace(pool.wanted(machines), key=serving)) == [], "it is what serving asks for"
    assert machines.observe(serving).nodes == status.nodes
    assert pool.cloud.nodes(**serving.labels) == list(status.nodes), "where pods of the service may run"
    assert len(pool.cloud.rentals(pool.name)) == 1, pool.bill()
    machines.delete_and_wait(serving, "run-1", timeout=40, poll=0.05)
    assert all(rental.stopped for rental in pool.cloud.rentals(pool.name)), pool.bill()


@each("handed over")
def test_a_worker_that_dies_handing_a_machine_over_leaves_it_to_the_tunings_teardown(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.create()
    pool.ready()
    machines = pool.machines()
    (seen,) = machines.list_owned(pool.key.labels)
    if pool.kind == "nodeclaim":
        with killed_after(machines, monkeypatch, aks="begin_create_or_update", cluster="send"):
            machines.hand_over(seen, "run-1", Purpose.SERVING)
    (left,) = pool.machines().list_owned(pool.key.labels)
    assert left.purpose == Purpose.TUNING
    pool.release()
    assert all(rental.stopped for rental in pool.cloud.rentals(pool.name)), pool.bill()


@contextmanager
def killed_after(machines: Any, monkeypatch: pytest.MonkeyPatch, *, aks: str, cluster: str) -> Iterator[None]:
    """The worker is killed as soon as Azure, or the cluster, has answered the call of that name."""
    with monkeypatch.context() as patch:
        if machines.remote:
            kill_after(patch, machines.provider.aks.hook.connection.agent_pools, aks)
        else:
            kill_after(patch, machines.provider.cluster, cluster)
        with pytest.raises(Killed):
            yield


@each("killed creating")
def test_a_creation_that_was_killed_is_taken_up_again(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = pool.machines(nodes=2)
    with killed_after(machines, monkeypatch, aks="begin_create_or_update", cluster="get_or_create"):
        machines.create(pool.wanted(machines, nodes=2))
    again = pool.create(nodes=2)
    assert again == (pool.wanted(machines, nodes=2).names[1:] if pool.kind == "nodeclaim" else [])
    assert len(pool.ready(nodes=2).nodes) == 2
    assert len(pool.cloud.rentals(pool.name)) == 2, pool.bill()


@each("killed deleting")
def test_a_deletion_that_was_killed_is_taken_up_again(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.create(nodes=2)
    pool.ready(nodes=2)
    machines = pool.machines()
    with killed_after(machines, monkeypatch, aks="begin_delete", cluster="delete"):
        machines.delete(pool.key, "run-1")
    pool.release()
    assert len(pool.cloud.rentals(pool.name)) == 2, pool.bill()


def test_a_machine_that_never_joins_is_in_our_ledger_as_in_the_clouds(cloud: Cloud) -> None:
    cloud.fault("slow-boot", value=60)
    pool = Pool(cloud, "aks", "never-joins")
    pool.create()
    (begun,) = until(lambda: cloud.rentals(pool.name), "the cloud starts the machine")
    first = records.account(
        {}, [], datetime.now(UTC), lambda _: 3.6, pool.machines().unregistered_capacity(pool.key.labels)
    )
    pool.release()
    cost = records.account(
        first, [], datetime.now(UTC), lambda _: 3.6, pool.machines().unregistered_capacity(pool.key.labels)
    )
    (ended,) = cloud.rentals(pool.name)
    assert (len(cost["claims"]), begun.node) == (1, ended.node)
    assert cost["nodeSeconds"] == pytest.approx(ended.seconds, abs=2), (
        "whole seconds, and two clocks' reading"
    )
    cloud.heal()


def test_airflows_own_account_knows_its_rights(cloud: Cloud, tmp_path: Path) -> None:
    config = airflow_kubeconfig(cloud.state / "kubeconfig", tmp_path / "kubeconfig")
    hook = KaitoClusterHook(conn_id=None, config_file=str(config))
    assert [hook.may("create", kind) for kind in (NODE_CLAIM, NODE_POOL, NODE)] == [True, True, False]


def test_creations_go_on_after_a_restart_of_the_cloud(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.fault("slow-boot", value=60)
    pools = [Pool(cloud, kind, f"restart-{kind}") for kind in MAKERS]
    for pool in pools:
        pool.create()
    cloud.down()
    cloud.up()  # faults are forgotten
    cloud.connect(monkeypatch)
    cloud.hook = Cloud(cloud.state).hook
    for pool in pools:
        assert pool.create() == []
    for pool in pools:
        pool.ready()
        assert len(cloud.rentals(pool.name)) == 1, pool.bill()
    for pool in pools:
        pool.release()
        assert all(rental.stopped for rental in cloud.rentals(pool.name))
