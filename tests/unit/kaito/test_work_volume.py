"""Where the work volume is decides where machines are asked for, and whether anything is begun at all."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import NODE, STORAGE_CLASS, VOLUME, VOLUME_CLAIM, ClusterError
from kaito.operators.dataset import FetchDatasetOperator
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.tasks.base import Run
from kaito.tasks.preflight_result import PreflightResult

from include.catalog import load_catalog
from include.manifests import ManifestSettings
from include.planning import plan
from include.pools.aks import AgentPoolOptions
from include.pools.nodepool import node_pool
from include.pools.volume_placement import VolumePlacement, placement, reading_zones
from include.workspace import parse_workspace
from tests.support.fake_cluster import QUICK_START, RUN_ID, FakeCluster
from tests.support.tasks import claims, create, preflight

NAME = "workspace-tuning-phi-3"
BY_NAME = {"workspace": {"metadata": {"name": NAME}}}
ZONE, AZURE, HOST = (
    "topology.kubernetes.io/zone",
    "topology.disk.csi.azure.com/zone",
    "kubernetes.io/hostname",
)


def volume(*terms: dict[str, list[str]]) -> dict[str, Any]:
    listed = [
        {"matchExpressions": [{"key": k, "operator": "In", "values": v} for k, v in term.items()]}
        for term in terms
    ]
    affinity = {"nodeAffinity": {"required": {"nodeSelectorTerms": listed}}} if terms else {}
    return {"metadata": {"name": "pv-1"}, "spec": affinity}


def bind(cluster: FakeCluster, **affinity: list[str]) -> None:
    """The dataset step has written to the work volume."""
    keys = {"zone": AZURE, "host": HOST}
    spec = {"volumeName": "pv-1"}
    cluster.add(
        VOLUME_CLAIM, {"metadata": {"name": f"{NAME}-work"}, "spec": spec, "status": {"phase": "Bound"}}
    )
    cluster.add(VOLUME, volume({keys[key]: values for key, values in affinity.items()}))


@pytest.mark.parametrize(
    ("terms", "zones", "nodes"),
    [
        ((), None, None),
        (({AZURE: ["westeurope-2"]},), {"westeurope-2"}, None),
        (({AZURE: ["e-1"]}, {AZURE: ["e-2"]}), {"e-1", "e-2"}, None),
        (({ZONE: ["e-1", "e-2"], AZURE: ["e-2", "e-3"]},), {"e-2"}, None),
        (({AZURE: ["e-1"]}, {HOST: ["n"]}), None, None),
        (({HOST: ["n"]},), None, {"n"}),
        (({AZURE: [""]},), {""}, None),
    ],
)
def test_a_volume_says_where_it_can_be_mounted(
    terms: tuple[dict[str, list[str]], ...], zones: set[str] | None, nodes: set[str] | None
) -> None:
    found = placement(volume(*terms))
    assert found == VolumePlacement(
        None if zones is None else frozenset(zones), None if nodes is None else frozenset(nodes)
    )


def test_a_zone_is_known_by_its_number_and_by_its_name() -> None:
    found = placement(volume({AZURE: ["westeurope-2"]}))
    assert [found.holds(zone) for zone in ("2", "westeurope-2", "1", "westeurope-12")] == [
        True,
        True,
        False,
        False,
    ]


def test_machines_are_asked_for_where_the_volume_is(cluster: FakeCluster, context: dict[str, Any]) -> None:
    bind(cluster, zone=["westeurope-2"])
    create(cluster).execute(context)
    [claim] = cluster.list(NODE_CLAIM)
    asked = [r for r in claim["spec"]["requirements"] if r["key"] == ZONE]
    assert asked == [{"key": ZONE, "operator": "In", "values": ["westeurope-2"]}]


@pytest.mark.parametrize("affinity", [{}, {"zone": [""]}])
def test_a_volume_without_a_zone_asks_for_none(
    cluster: FakeCluster, context: dict[str, Any], affinity: dict[str, list[str]]
) -> None:
    bind(cluster, **affinity)
    create(cluster).execute(context)
    [claim] = cluster.list(NODE_CLAIM)
    assert ZONE not in {r["key"] for r in claim["spec"]["requirements"]}


def test_serving_machines_may_be_anywhere(cluster: FakeCluster, context: dict[str, Any]) -> None:
    bind(cluster, host=["cpu-1"])
    create(cluster, "serving").execute(context)
    assert len(claims(cluster)) == 1


def test_no_machine_is_bought_for_a_volume_of_another_node(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    bind(cluster, host=["cpu-1"])
    with pytest.raises(AirflowFailException, match="belongs to Node cpu-1, so no new machine can mount it"):
        create(cluster).execute(context)
    assert claims(cluster) == []
    assert "cpu-1" in cluster.condition(NAME, "ResourceReady")["message"]


def test_no_machine_is_bought_in_another_zone(cluster: FakeCluster, context: dict[str, Any]) -> None:
    bind(cluster, zone=["westeurope-2"])
    context["ti"].xcoms["preflight"]["plan"] |= {"zone": "1"}
    with pytest.raises(
        AirflowFailException, match="the work volume is in westeurope-2 and cannot be mounted in 1"
    ):
        create(cluster).execute(context)
    assert claims(cluster) == []


def with_model(cluster: FakeCluster, context: dict[str, Any], **affinity: list[str]) -> None:
    """The model's files lie on a volume of their own."""
    context["ti"].xcoms["preflight"]["workspace"]["metadata"]["annotations"] = {
        "kaito.sh/model-volume": "models/phi"
    }
    cluster.add(VOLUME_CLAIM, {"metadata": {"name": "models"}, "spec": {"volumeName": "pv-2"}})
    keys = {"zone": AZURE, "host": HOST}
    found = volume({keys[key]: values for key, values in affinity.items()})
    cluster.add(VOLUME, {**found, "metadata": {"name": "pv-2"}})


@pytest.mark.parametrize("purpose", ["tuning", "serving"])
def test_machines_are_asked_for_where_the_models_volume_is(
    cluster: FakeCluster, context: dict[str, Any], purpose: str
) -> None:
    with_model(cluster, context, zone=["westeurope-2"])
    bind(cluster, zone=["westeurope-1", "westeurope-2"])
    create(cluster, purpose).execute(context)
    [claim] = cluster.list(NODE_CLAIM)
    asked = [r["values"] for r in claim["spec"]["requirements"] if r["key"] == ZONE]
    assert asked == [["westeurope-2"]]


@pytest.mark.parametrize(
    ("affinity", "words"),
    [
        ({"zone": ["westeurope-1"]}, "volumes of .*-work and models are in different zones"),
        ({"host": ["n"]}, "volume of PersistentVolumeClaim models belongs to Node n"),
    ],
)
def test_no_machine_is_bought_that_cannot_mount_the_models_volume(
    cluster: FakeCluster, context: dict[str, Any], affinity: dict[str, list[str]], words: str
) -> None:
    with_model(cluster, context, **affinity)
    bind(cluster, zone=["westeurope-2"])
    with pytest.raises(AirflowFailException, match=words):
        create(cluster).execute(context)
    assert claims(cluster) == []


def test_no_serving_machine_is_bought_in_another_zone_than_the_models(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    with_model(cluster, context, zone=["westeurope-2"])
    context["ti"].xcoms["preflight"]["serving_plan"] |= {"zone": "1"}
    with pytest.raises(
        AirflowFailException, match="the volume of models is in westeurope-2 and cannot be mounted"
    ):
        create(cluster, "serving").execute(context)


def test_a_role_that_may_not_look_stops_nothing(cluster: FakeCluster, context: dict[str, Any]) -> None:
    bind(cluster, zone=["westeurope-2"])
    cluster.refuse["get", "persistentvolumes"] = ClusterError(403, "Forbidden", "no")
    create(cluster).execute(context)
    assert len(claims(cluster)) == 1


def test_a_node_pool_in_a_zone_is_not_regional() -> None:
    workspace = parse_workspace(QUICK_START)
    made = plan(workspace, load_catalog())
    for zones, key in (((), "karpenter.azure.com/placement-scope"), (("e-2",), ZONE)):
        pool = node_pool(workspace, made, "r", ManifestSettings("i", volume_zones=zones))
        keys = {r["key"] for r in pool["spec"]["template"]["spec"]["requirements"]}
        assert keys & {"karpenter.azure.com/placement-scope", ZONE} == {key}


@pytest.mark.parametrize(
    ("classes", "setting", "free", "words"),
    [
        ([], "", False, "has no default StorageClass"),
        (["fast"], "", False, "the cluster has: fast"),
        ([], "", True, ""),
        (["fast"], "slow", False, "there is no StorageClass slow"),
        (["fast"], "fast", False, ""),
    ],
)
def test_a_work_volume_that_never_comes_is_refused_before_anything_is_made(
    cluster: FakeCluster,
    workspace: dict[str, Any],
    established_crd: None,
    monkeypatch: pytest.MonkeyPatch,
    classes: list[str],
    setting: str,
    free: bool,
    words: str,
) -> None:
    cluster.objects.pop((STORAGE_CLASS.plural, "", "standard"))
    for name in classes:
        cluster.add(STORAGE_CLASS, {"metadata": {"name": name}})
    if free:
        cluster.add(VOLUME, {"metadata": {"name": "by-hand"}, "spec": {}, "status": {"phase": "Available"}})
    if setting:
        monkeypatch.setenv("AIRFLOW__KAITO__STORAGE_CLASS", setting)
    if not words:
        assert preflight(cluster, BY_NAME)["plan"]
        return
    with pytest.raises(AirflowFailException, match=rf"{words}.*\[P12\]"):
        preflight(cluster, BY_NAME)
    assert cluster.writes == []


@pytest.mark.parametrize("why", ["bound", "forbidden"])
def test_what_is_there_or_cannot_be_seen_is_not_refused(
    cluster: FakeCluster, workspace: dict[str, Any], established_crd: None, why: str
) -> None:
    cluster.objects.pop((STORAGE_CLASS.plural, "", "standard"))
    if why == "bound":
        bind(cluster)
    else:
        cluster.refuse["list", "storageclasses"] = ClusterError(403, "Forbidden", "no")
    assert preflight(cluster, BY_NAME)["plan"]


def test_an_agent_pool_keeps_to_the_zones_of_its_volume() -> None:
    from kaito.providers.aks import AgentPools

    for own, zones, wanted in (((), ("e-2",), ("2",)), (("1", "2"), ("e-2",), ("2",)), (("1",), (), ("1",))):
        provider = AgentPools.__new__(AgentPools)
        provider.options = AgentPoolOptions(zones=own)
        assert provider._in_reach(zones).zones == wanted


def node(
    name: str, zone: str = "", *, taint: str = "", ready: bool = True, cordoned: bool = False, gpus: str = ""
) -> Any:
    spec: dict[str, Any] = {"unschedulable": True} if cordoned else {}
    if taint:
        spec["taints"] = [{"key": "k", "effect": taint}]
    told = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": {"name": name, "labels": {ZONE: zone}},
        "spec": spec,
        "status": {"conditions": told, "allocatable": {"nvidia.com/gpu": gpus} if gpus else {}},
    }


@pytest.mark.parametrize(
    ("choices", "nodes", "bound", "wanted"),
    [
        (["2"], [node("a", "e-1"), node("b", "e-2")], None, ("e-2",)),
        (["e-2"], [node("a", "e-1"), node("b", "e-2")], None, ("e-2",)),
        (["3", "1"], [node("a", "e-1"), node("b", "e-2")], None, ("e-1",)),
        (["", "1"], [node("a", "e-2"), node("b", "e-1")], None, ("e-1",)),
        (["3", ""], [node("a", "e-1")], None, ()),
        (["2"], [node("a", "e-12")], None, ()),
        (["1"], [node("a", "e-1", taint="NoSchedule")], None, ()),
        (["1"], [node("a", "e-1", taint="PreferNoSchedule")], None, ("e-1",)),
        (["1"], [node("a", "e-1", ready=False)], None, ()),
        (["1"], [node("a", "e-1", gpus="1")], None, ()),
        (["1"], [node("a", "e-1", gpus="0")], None, ("e-1",)),
        (["1"], [node("a", "e-1", cordoned=True)], None, ()),
        (["1"], [node("a", "e-1")], VolumePlacement(zones=frozenset({"e-2"})), ()),
        (["1", "2"], [node("a", "e-1"), node("b", "e-2")], VolumePlacement(frozenset({"e-2"})), ("e-2",)),
        (["1"], [node("a", "e-1")], VolumePlacement(nodes=frozenset({"a"})), ()),
    ],
)
def test_the_dataset_is_written_in_the_zone_of_the_first_machine_where_a_pod_can_run(
    choices: list[str], nodes: list[Any], bound: VolumePlacement | None, wanted: tuple[str, ...]
) -> None:
    assert reading_zones(choices, nodes, bound) == wanted


def pod_zones(cluster: FakeCluster, context: dict[str, Any]) -> list[Any]:
    """The required node affinity of the dataset's pod, as the operator would create it."""
    fetch = FetchDatasetOperator(task_id="fetch_dataset")
    fetch.cluster = cluster
    run = Run.of(PreflightResult.from_xcom(context["ti"].xcoms["preflight"]), RUN_ID)
    affinity = fetch.pod_manifest(run, context)["spec"].get("affinity") or {}
    required = (affinity.get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    return [one for term in required.get("nodeSelectorTerms") or () for one in term["matchExpressions"]]


def test_the_dataset_pod_goes_where_the_users_own_gpu_nodes_are(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    for number in (1, 2):
        cluster.add(NODE, node(f"cpu-{number}", f"westeurope-{number}"))
    gpu = node("gpu", "westeurope-2", taint="NoSchedule")
    gpu["metadata"]["labels"] |= {"app": "tuning-phi-3"}
    cluster.add(NODE, gpu)
    context["ti"].xcoms["preflight"]["plan"] |= {"own_nodes": True}
    assert pod_zones(cluster, context) == [{"key": ZONE, "operator": "In", "values": ["westeurope-2"]}]


@pytest.mark.parametrize(
    "why_not", ["", "no zone asked for", "the volume is there", "forbidden", "its source"]
)
def test_the_dataset_pod_goes_where_the_machine_will_be(
    cluster: FakeCluster, context: dict[str, Any], workspace: dict[str, Any], why_not: str
) -> None:
    for number in (1, 2):
        cluster.add(NODE, node(f"cpu-{number}", f"westeurope-{number}"))
    context["ti"].xcoms["preflight"]["plan"] |= {"zone": "" if why_not == "no zone asked for" else "2"}
    if why_not == "the volume is there":
        bind(cluster, zone=["westeurope-1"])
    if why_not == "forbidden":
        cluster.refuse["list", "nodes"] = ClusterError(403, "Forbidden", "no")
    if why_not == "its source":
        cluster.add(VOLUME_CLAIM, {"metadata": {"name": "rows"}, "spec": {"volumeName": "pv-2"}})
        cluster.add(VOLUME, volume({AZURE: ["westeurope-1"]}) | {"metadata": {"name": "pv-2"}})
        source = {"volumeSource": {"persistentVolumeClaim": {"claimName": "rows"}}}
        context["ti"].xcoms["preflight"]["workspace"]["tuning"]["input"] = source
    wanted = [] if why_not else [{"key": ZONE, "operator": "In", "values": ["westeurope-2"]}]
    assert pod_zones(cluster, context) == wanted
