"""AksHook and the provider of agent pools, with Azure's own SDK against the sandbox's endpoint (TLS and token on)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kaito.hooks.aks import AksHook
from kaito.hooks.api import NODE
from kaito.hooks.azure_account import AksAccount, AksError, ConnectionIncomplete, async_credential, credential
from kaito.providers import registry as pools
from kaito.providers.aks import AgentPools
from kaito.providers.base import ForeignPool, GpuPool, PoolKey, PoolTaken, classify
from kaito.providers.blocking import BlockingProvider
from kaito.providers.nodeclaim import NodeClaims
from kaito.providers.registry import async_provider
from kaito.providers.settings import PoolSettings, pool_settings

from include.catalog import load_catalog
from include.contracts.purpose import Purpose
from include.manifests import ManifestSettings
from include.planning import plan
from include.pools.aks import AgentPoolOptions
from include.pools.azure_offer import Wanted, offer_faults
from include.pools.status import FailureClass
from include.workspace import parse_workspace
from include.workspace.api import names
from include.workspace.api.names import ProviderName
from sandbox.controllers.ownership import set_condition
from sandbox.faults import FaultKind
from sandbox.node.machine import is_lost
from tests.support.azure_thread import AzureThread, azure_thread
from tests.support.fake_cluster import QUICK_START, FakeCluster
from tests.support.pools import held_machines
from tests.support.providers import blocking

SETTINGS = ManifestSettings(workload_image="w")
WORKSPACE = {**QUICK_START, "metadata": {**QUICK_START["metadata"], "uid": "u1", "generation": 1}}
PLAN = replace(plan(parse_workspace(WORKSPACE), load_catalog()), node_count=2)
KEY = PoolKey(WORKSPACE["metadata"]["name"], "default", Purpose.TUNING)
CONN = "aks"


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureThread]:
    with azure_thread(tmp_path) as running:
        monkeypatch.setenv("AIRFLOW_CONN_AKS", running.connection())
        monkeypatch.setattr("kaito.hooks.azure_account.RETRIES", 0)
        yield running


def hook() -> AksHook:
    return AksHook(CONN, sleep=lambda _: time.sleep(0.02))


def offer_faults_of(machine: str, count: int, **how: Any) -> list[str]:
    (faults,) = hook().offers_faults([Wanted(machine, count, "", **how)])
    return faults


@pytest.fixture
def machines(azure: AzureThread) -> BlockingProvider:
    return blocking(AgentPools, azure, hook().calls, poll=0.02, busy_seconds=20)  # type: ignore[arg-type]


def wanted(machines: BlockingProvider, run: str = "run-1", **changes: Any) -> GpuPool:
    return machines.request(WORKSPACE, replace(PLAN, **changes), run, SETTINGS)


def eventually(check: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 20
    while not (found := check()):
        assert time.monotonic() < deadline, f"waited for: {what}"
        time.sleep(0.02)
    return found


# --- connections ------------------------------------------------------------------------------------------------------


def test_a_connection_is_tested_by_reading_the_cluster(azure: AzureThread) -> None:
    assert hook().test_connection() == (True, "AKS cluster sandbox in sandbox is Succeeded.")


def test_a_connection_without_rights_names_the_role_to_grant(azure: AzureThread) -> None:
    azure.break_(FaultKind.AUTH)
    works, told = hook().test_connection()
    assert not works
    assert "AuthorizationFailed" in told
    assert (
        "Grant the identity of Airflow connection aks the role 'Azure Kubernetes Service Contributor Role'"
        in told
    )
    assert "Microsoft.ContainerService/managedClusters/read" in told


def test_a_wrong_token_and_a_dead_endpoint_are_sentences(
    azure: AzureThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    (azure.folder / "token").write_text("wrong")
    assert hook().test_connection() == (False, "InvalidAuthenticationToken: The access token is invalid.")
    monkeypatch.setenv("AIRFLOW_CONN_AKS", azure.connection(base_url="https://127.0.0.1:9"))
    works, told = hook().test_connection()
    assert not works
    assert told.startswith("ConnectionFailed: Azure did not answer")


def test_all_that_a_connection_lacks_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"key_json": {}, "key_path": "x.json", "cloud_environment": "Moon"}
    monkeypatch.setenv("AIRFLOW_CONN_AKS", json.dumps({"conn_type": "azure", "extra": extra}))
    with pytest.raises(ConnectionIncomplete) as refused:
        _ = hook().account
    for word in ("aks:", "subscriptionId", "resourceGroup", "clusterName", "key_path", "'Moon'"):
        assert word in str(refused.value)


class Login:
    login, password = "client", "hunter2"


PLACE = {"subscriptionId": "s", "resourceGroup": "g", "clusterName": "c"}


def test_a_service_principal_signs_in_where_its_cloud_is() -> None:
    extra = {
        **PLACE,
        "tenantId": "11111111-1111-1111-1111-111111111111",
        "cloud_environment": "AzureChinaCloud",
    }
    account = AksAccount.from_connection(CONN, Login, extra)
    assert account.base_url == "https://management.chinacloudapi.cn"
    assert type(credential(account)).__name__ == "ClientSecretCredential"
    assert type(async_credential(account)).__module__.startswith("azure.identity.aio")
    assert "chinacloudapi" in account.authority or "chinacloud" in account.authority
    assert "hunter2" not in repr(account)


def test_without_a_secret_the_environments_identity_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        "kaito.hooks.azure_account.get_sync_default_azure_credential", lambda **given: seen.update(given)
    )
    extra = {**PLACE, "managed_identity_client_id": "m", "workload_identity_tenant_id": "t"}

    class Nobody:
        login = password = None

    credential(AksAccount.from_connection(CONN, Nobody, extra))
    assert seen == {"managed_identity_client_id": "m", "workload_identity_tenant_id": "t"}


# --- asking before ----------------------------------------------------------------------------------------------------


def test_what_azure_would_refuse_is_known_before_anything_is_made(azure: AzureThread) -> None:
    machine = PLAN.instance_type
    assert offer_faults_of(machine, 4, zones=("1",)) == []
    assert offer_faults_of(machine, 4, spot=True) == []
    azure.break_(FaultKind.QUOTA, machine)
    (fault,) = offer_faults_of(machine.lower(), 4)
    assert "need 24 vCPUs of quota standardNCSv3Family in sandbox: 0 of 0 are in use" in fault
    assert "at least 24" in fault
    azure.break_(FaultKind.SKU, machine)
    told = " ".join(offer_faults_of(machine, 1, zones=("9",)))
    assert "does not offer Standard_NC6s_v3 to this subscription" in told
    (fault,) = offer_faults_of("Standard_Fantasy", 1)
    assert fault == "Azure has no machine type Standard_Fantasy in location sandbox."
    assert azure.pools == {}


@pytest.mark.parametrize(
    ("zones", "words"), [(("1",), None), (("2",), "in zone 2 of eastus; zones: 1"), (("4",), "in zone 4")]
)
def test_a_zone_that_is_restricted_is_not_offered(zones: tuple[str, ...], words: str | None) -> None:
    sku = {
        "name": "Standard_NC6s_v3",
        "family": "f",
        "locationInfo": [{"location": "EastUS", "zones": ["1", "2"]}],
        "restrictions": [{"type": "Zone", "restrictionInfo": {"zones": ["2"]}, "reasonCode": "x"}],
    }
    faults = offer_faults(Wanted("Standard_NC6s_v3", 1, "eastus", zones), [sku], [])
    assert (words is None and faults == []) or (words is not None and words in faults[0])


def test_a_machine_that_is_never_sold_as_spot_is_not_offered_as_spot() -> None:
    able = {"name": "LowPriorityCapable", "value": "False"}
    sku = {"name": "Standard_ND96asr_v4", "locationInfo": [{"location": "eastus"}], "capabilities": [able]}
    assert offer_faults(Wanted("Standard_ND96asr_v4", 1, "eastus"), [sku], []) == []
    (fault,) = offer_faults(Wanted("Standard_ND96asr_v4", 1, "eastus", spot=True), [sku], [])
    assert fault == "Azure does not sell Standard_ND96asr_v4 as spot machines."


# --- the life of a pool -----------------------------------------------------------------------------------------------


def test_a_pool_is_made_becomes_ready_and_goes(azure: AzureThread, machines: BlockingProvider) -> None:
    pool = wanted(machines)
    (name,) = pool.names
    assert machines.create(pool) == [name]
    assert not machines.observe(KEY).ready
    status = eventually(lambda: (s := machines.observe(KEY)).ready and s, "the pool is ready")
    assert len(status.nodes) == 2
    machines.delete_and_wait(KEY, "run-1", timeout=20, poll=0.02)
    assert azure.pools == {}
    assert all(rental.stopped for rental in azure.azure.ledger.rentals())
    assert machines.observe(KEY).reason == "AgentPoolMissing"
    assert machines.delete(KEY, "run-1") == []


def test_what_is_sent_is_what_was_built(azure: AzureThread) -> None:
    options = AgentPoolOptions(spot=True, spot_max_price=0.5, zones=("1", "2"), gpu_driver="None")
    machines = blocking(AgentPools, azure, hook().calls, options)  # type: ignore[arg-type]
    pool = wanted(machines)
    machines.create(pool)
    sent = azure.pools[pool.names[0]].properties
    asked_at = int(sent["nodeLabels"].pop(names.ASKED_AT))
    assert 0 <= time.time() - asked_at < 60
    assert sent == pool.claims[0]["properties"]


def test_a_crash_after_asking_is_made_good_by_asking_again(
    azure: AzureThread, machines: BlockingProvider
) -> None:
    azure.break_(FaultKind.SLOW_BOOT, value=60)
    pool = wanted(machines)
    machines.create(pool)
    again = blocking(AgentPools, azure, hook().calls, poll=0.02)  # a new process knows nothing
    assert again.create(wanted(again)) == []
    azure.mend()
    assert azure.settled(pool.names[0]) == "Succeeded"
    assert len(azure.azure.ledger.rentals()) == 2


def test_the_ledger_counts_agent_machines_from_when_azure_does(
    azure: AzureThread, machines: BlockingProvider
) -> None:
    pool = wanted(machines)
    machines.create(pool)
    azure.settled(pool.names[0])
    seen = held_machines([], azure.list(NODE), [])
    rented = {rental.node: rental for rental in azure.azure.ledger.rentals()}
    assert {machine.node for machine in seen} == set(rented)
    for machine in seen:
        # Asked for in whole seconds, a moment before the machine starts.
        assert 0 <= (rented[machine.node].started - machine.since).total_seconds() < 30
        assert (machine.run, machine.purpose, machine.kind) == ("run-1", "tuning", pool.instance_type)


def test_a_creation_in_progress_can_be_taken_back(azure: AzureThread, machines: BlockingProvider) -> None:
    azure.break_(FaultKind.SLOW_BOOT, value=60)
    machines.create(wanted(machines))
    machines.delete_and_wait(KEY, "run-1", timeout=20, poll=0.02)
    assert azure.pools == {}
    assert all(rental.stopped for rental in azure.azure.ledger.rentals())


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"clusterName": "other"}, "managedClusters/other' could not be found"),
        ({"resourceGroup": "other"}, "Resource group 'other' could not be found"),
        ({"subscriptionId": "me"}, "subscription identifier 'me' is malformed"),
    ],
)
def test_a_cluster_that_is_not_there_is_not_a_pool_that_is_missing(
    azure: AzureThread, monkeypatch: pytest.MonkeyPatch, extra: dict[str, str], words: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AKS", azure.connection(**extra))
    with pytest.raises(AksError, match=words) as refused:
        hook().find("wsgpu")
    assert classify(refused.value.code, refused.value.message) is FailureClass.CONFIG


def test_a_pool_of_another_generation_is_another_pool(machines: BlockingProvider) -> None:
    edited = {**WORKSPACE, "metadata": {**WORKSPACE["metadata"], "generation": 2}}
    assert wanted(machines).names != machines.request(edited, PLAN, "run-1", SETTINGS).names


def test_one_operation_at_a_time_the_second_waits(azure: AzureThread) -> None:
    azure.break_(FaultKind.SLOW_BOOT, value=60)
    azure.put("other", count=1)

    def wait(_: float) -> None:
        azure.mend()  # the other pool's machines boot only when somebody waits for them
        time.sleep(0.02)

    machines = blocking(AgentPools, azure, AksHook(CONN, sleep=wait).calls, busy_seconds=20)  # type: ignore[arg-type]
    pool = wanted(machines)
    assert machines.create(pool) == pool.names
    assert azure.pools["other"].state == "Succeeded"


def test_who_waits_too_long_says_for_what(azure: AzureThread) -> None:
    azure.break_(FaultKind.SLOW_BOOT, value=60)
    azure.put("other", count=1)
    machines = blocking(AgentPools, azure, hook().calls, busy_seconds=0.1)  # type: ignore[arg-type]
    with pytest.raises(AksError, match=r"other - Creating\) is in progress") as refused:
        machines.create(wanted(machines))
    assert refused.value.busy
    assert classify(refused.value.code, refused.value.message) is FailureClass.TRANSIENT


def test_two_at_once_make_one_pool(azure: AzureThread) -> None:
    made: list[list[str]] = []

    def create() -> None:
        machines = blocking(AgentPools, azure, hook().calls, poll=0.02, busy_seconds=20)  # type: ignore[arg-type]
        made.append(machines.create(wanted(machines)))

    threads = [threading.Thread(target=create) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(map(len, made)) == [0, 0, 1]
    assert len(azure.azure.ledger.rentals()) == 2


def test_more_machines_are_added_to_the_pool_that_is_there(
    azure: AzureThread, machines: BlockingProvider
) -> None:
    machines.create(wanted(machines, node_count=1))
    (name,) = wanted(machines).names
    azure.settled(name)
    assert machines.create(wanted(machines)) == [name]
    assert azure.settled(name) == "Succeeded"
    assert len(azure.pools[name].machines) == 2


# --- whose a pool is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tags", [{}, {"kaito-managed-by": "kaito-airflow"}])
def test_a_foreign_pool_of_our_name_is_not_touched(
    azure: AzureThread, machines: BlockingProvider, tags: dict[str, str]
) -> None:
    pool = wanted(machines)
    (name,) = pool.names
    azure.put(name, count=1, tags=tags)
    azure.settled(name)
    before = azure.pools[name].etag
    with pytest.raises(
        ForeignPool, match=f"agent pool {name} that this project did not make; it is not touched"
    ):
        machines.create(pool)
    assert machines.delete(KEY, "run-1") == []
    machines.delete_and_wait(KEY, "run-1", timeout=1)
    assert azure.pools[name].etag == before
    assert not machines.observe(KEY).ready


def test_another_run_s_tuning_pool_is_not_taken_and_not_released(
    azure: AzureThread, machines: BlockingProvider
) -> None:
    (name,) = machines.create(wanted(machines))
    with pytest.raises(PoolTaken, match="run-1 holds the tuning machines"):
        machines.create(wanted(machines, run="run-2"))
    assert machines.delete(KEY, "run-2") == []
    assert name in azure.pools


def test_a_serving_pool_is_used_again_by_the_next_run(machines: BlockingProvider) -> None:
    machines.create(wanted(machines, purpose="serving"))
    assert machines.create(wanted(machines, run="run-2", purpose="serving")) == []


def test_a_pool_that_changes_while_it_is_released_is_looked_at_again(
    azure: AzureThread, machines: BlockingProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = machines.create(wanted(machines))
    azure.settled(name)
    real, changed = machines.provider.aks.begin_delete, []  # type: ignore[attr-defined]

    async def racing(pool: str, **given: Any) -> bool:
        if not changed:  # another run takes the pool over between our look and our deletion
            changed.append(pool)
            labels = azure.pools[name].properties["nodeLabels"]
            azure.put(
                name, count=2, nodeLabels={**labels, "kaito.sh/run-id": "run-2"}, vmSize=PLAN.instance_type
            )
            azure.settled(name)
        return await real(pool, **given)

    monkeypatch.setattr(machines.provider.aks, "begin_delete", racing)  # type: ignore[attr-defined]
    assert machines.delete(KEY, "run-1") == []
    assert azure.pools[name].state == "Succeeded"


def test_a_janitor_sees_our_pools_only_and_deletes_what_it_saw(
    azure: AzureThread, machines: BlockingProvider
) -> None:
    azure.put("foreign", count=1)
    azure.settled("foreign")
    (name,) = machines.create(wanted(machines))
    azure.settled(name)
    (seen,) = machines.list_owned()
    assert seen.name == name
    machines.create(wanted(machines, node_count=3))
    azure.settled(name)
    assert not machines.delete_observed(seen, unchanged=True)
    assert machines.delete_observed(machines.list_owned()[0], unchanged=True)
    assert azure.settled(name) == "gone"
    assert not machines.delete_observed(seen, unchanged=True)
    assert list(azure.pools) == ["foreign"]


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "expected", "words"),
    [
        (FaultKind.QUOTA, None, FailureClass.QUOTA, "Insufficient vcpu quota"),
        (FaultKind.SKU, None, FailureClass.CAPACITY, "currently not available"),
        (FaultKind.AUTH, None, FailureClass.AUTH, "Grant the identity"),
        (FaultKind.AUTH, 401, FailureClass.AUTH, "expiry"),
        (FaultKind.API_ERROR, 503, FailureClass.TRANSIENT, "told to fail"),
        (FaultKind.API_THROTTLE, 1, FailureClass.TRANSIENT, "throttled"),
    ],
)
def test_a_refusal_is_classed_and_leaves_nothing(
    azure: AzureThread,
    machines: BlockingProvider,
    kind: FaultKind,
    value: float | None,
    expected: FailureClass,
    words: str,
) -> None:
    target = PLAN.instance_type if kind in (FaultKind.QUOTA, FaultKind.SKU) else "PUT *"
    azure.break_(kind, target, value)
    with pytest.raises(AksError) as refused:
        machines.create(wanted(machines))
    assert classify(refused.value.code, refused.value.message) is expected
    assert words in str(refused.value)
    assert azure.pools == {}


def test_no_capacity_fails_the_pool_and_the_next_attempt_replaces_it(
    azure: AzureThread, machines: BlockingProvider
) -> None:
    azure.break_(FaultKind.NO_CAPACITY, PLAN.instance_type, count=1)
    (name,) = machines.create(wanted(machines))
    assert azure.settled(name) == "Failed"
    status = machines.observe(KEY)
    assert status.failed
    assert (status.failure_class, status.reason) == (FailureClass.CAPACITY, "AllocationFailed")
    assert "sufficient capacity" in status.message
    assert machines.create(wanted(machines)) == [name]
    assert azure.settled(name) == "Succeeded"


def test_another_zone_is_another_pool_and_both_go_with_the_run(azure: AzureThread) -> None:
    azure.break_(FaultKind.NO_CAPACITY, f"{PLAN.instance_type}@1")

    def in_zone(zone: str) -> BlockingProvider:
        return blocking(AgentPools, azure, hook().calls, AgentPoolOptions(zones=(zone,)), poll=0.02)  # type: ignore[arg-type]

    (first,) = in_zone("1").create(wanted(in_zone("1")))
    assert azure.settled(first) == "Failed"
    (second,) = in_zone("2").create(wanted(in_zone("2")))
    assert azure.settled(second) == "Succeeded"
    in_zone("2").delete_and_wait(KEY, "run-1", timeout=20, poll=0.02)
    assert azure.pools == {}


def fall_silent(azure: AzureThread, name: str) -> None:
    async def change() -> None:
        cluster = azure.azure.cluster
        node = await cluster.get("nodes", name)
        ready = set_condition(node["status"]["conditions"], "Ready", "Unknown", "NodeStatusUnknown")
        changed = {**node, "status": {**node["status"], "conditions": ready}}
        await cluster.update("nodes", changed, subresource="status")

    azure.do(change())


def test_a_pool_with_a_dead_machine_is_taken_away_and_made_anew(
    azure: AzureThread, machines: BlockingProvider
) -> None:
    """Azure counts a machine that does not report, so that asking for the same number changes nothing."""
    machines.create(wanted(machines))
    status = eventually(lambda: (s := machines.observe(KEY)).ready and s, "the pool is ready")
    fall_silent(azure, status.nodes[0])
    assert not machines.observe(KEY).ready
    assert machines.create(wanted(machines)) == [], "it may come back"
    impatient = blocking(AgentPools, azure, hook().calls, poll=0.02, busy_seconds=20, lost_seconds=0)  # type: ignore[arg-type]
    assert impatient.create(wanted(impatient)) == wanted(impatient).names
    eventually(lambda: machines.observe(KEY).ready, "two again")
    assert len(azure.azure.ledger.rentals()) == 4
    assert sum(1 for rental in azure.azure.ledger.rentals() if rental.stopped) == 2


def test_an_evicted_machine_makes_the_pool_unready(azure: AzureThread, machines: BlockingProvider) -> None:
    machines.create(wanted(machines))
    status = eventually(lambda: (s := machines.observe(KEY)).ready and s, "the pool is ready")

    azure.break_(FaultKind.SPOT_EVICTION, status.nodes[0], 0)
    eventually(lambda: is_lost(azure.find(NODE, status.nodes[0])), "the machine is gone")
    fall_silent(azure, status.nodes[0])
    eventually(lambda: not azure.find(NODE, status.nodes[0]), "the Node is gone")
    unready = machines.observe(KEY)
    assert (unready.ready, unready.failed) == (False, False)
    assert "1 of 2 nodes joined" in unready.message
    assert machines.create(wanted(machines)) == wanted(machines).names, "the lost machine is asked for anew"
    eventually(lambda: len(machines.observe(KEY).nodes) == 2 and machines.observe(KEY).ready, "two again")
    assert machines.create(wanted(machines)) == []


# --- the choice of a provider -----------------------------------------------------------------------------------------


async def test_triggers_see_the_same(azure: AzureThread, machines: BlockingProvider) -> None:
    machines.create(wanted(machines))
    eventually(lambda: machines.observe(KEY).ready, "the pool is ready")

    class Nodes:
        blocking = False

        async def list(self, kind: Any, **_: Any) -> list[dict[str, Any]]:
            return azure.list(kind)

    observer = async_provider(Nodes(), PoolSettings(ProviderName.AKS, CONN))  # type: ignore[arg-type]
    for _ in range(2):
        assert await observer.observe(KEY) == machines.observe(KEY)
    await observer.close()


def test_the_settings_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(pools.provider(FakeCluster()).provider, NodeClaims)  # type: ignore[arg-type]
    for key, value in {
        "POOL_PROVIDER": "aks",
        "AZURE_CONN_ID": "mine",
        "POOL_SPOT": "true",
        "POOL_SPOT_MAX_PRICE": "0.75",
        "POOL_ZONES": "1, 3",
        "POOL_GPU_DRIVER": "None",
    }.items():
        monkeypatch.setenv(f"AIRFLOW__KAITO__{key}", value)
    options = AgentPoolOptions(spot=True, spot_max_price=0.75, zones=("1", "3"), gpu_driver="None")
    assert pool_settings() == PoolSettings(ProviderName.AKS, "mine", options)
    chosen = pools.provider(FakeCluster()).provider  # type: ignore[arg-type]
    assert isinstance(chosen, AgentPools)
    assert chosen.aks.conn_id == "mine"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("POOL_PROVIDER", "gke", "must be one of nodeclaim, nodepool, aks"),
        ("POOL_SPOT", "maybe", "true or false"),
        ("POOL_SPOT_MAX_PRICE", "cheap", "US dollars an hour"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"AIRFLOW__KAITO__{key}", value)
    with pytest.raises(ValueError, match=words) as refused:
        pools.checked(pool_settings())
    assert key.lower() in str(refused.value)
