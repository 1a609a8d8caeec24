"""Agent pools in the shape that KAITO's gpu-provisioner makes (kaito-api.md#agent-pools), with what it leaves out."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.pools import aks, nodeclaim
from include.pools.aks import AgentPoolInvalid, AgentPoolOptions, agent_pool_faults
from include.workspace.api import names
from tests.support.pool_plan import DOCUMENT, PLAN


def test_the_shape() -> None:
    pool = aks.agent_pool(DOCUMENT, replace(PLAN, node_count=2), "run 1")
    run = names.run_id_label("run 1")
    assert pool == {
        "name": pool["name"],
        "properties": {
            "type": "VirtualMachineScaleSets",
            "mode": "User",
            "osType": "Linux",
            "osSKU": "Ubuntu",
            "vmSize": "Standard_NC6s_v3",
            "count": 2,
            "enableAutoScaling": False,
            "osDiskSizeGB": 1024,
            "gpuProfile": {"driver": "Install"},
            "nodeLabels": {
                "app": "x",
                "team": "a",
                "kaito.sh/workspace": "w",
                "kaito.sh/workspacenamespace": "ml",
                "kaito.sh/pool": "tuning",
                "kaito.sh/component": "pool",
                "kaito.sh/run-id": run,
                "kaito.sh/machine-type": "gpu",
            },
            "nodeTaints": ["sku=gpu:NoSchedule"],
            "tags": {
                "kaito-managed-by": "kaito-airflow",
                "kaito-workspace": "w",
                "kaito-namespace": "ml",
                "kaito-pool": "tuning",
                "kaito-run-id": run,
            },
        },
    }


def test_labels_are_those_of_node_claims_but_for_the_one_that_gpu_provisioner_collects() -> None:
    (claim,) = nodeclaim.node_claims(DOCUMENT, PLAN, "run 1")
    labels = aks.agent_pool(DOCUMENT, PLAN, "run 1")["properties"]["nodeLabels"]
    assert set(claim["metadata"]["labels"]) - set(labels) == {"karpenter.sh/nodepool"}
    assert claim["metadata"]["labels"].items() >= (labels.items() - {("kaito.sh/machine-type", "gpu")})


def test_spot_zones_driver_family_subnet_and_tags_are_asked_for() -> None:
    family = {
        **DOCUMENT,
        "metadata": {**DOCUMENT["metadata"], "annotations": {"kaito.sh/node-image-family": "AzureLinux"}},
    }
    options = AgentPoolOptions(
        spot=True,
        spot_max_price=1.25,
        zones=("2", "3"),
        gpu_driver="None",
        subnet_id="/s",
        tags={"team": "a"},
    )
    properties = aks.agent_pool(family, PLAN, "r", options)["properties"]
    assert (
        properties.items()
        >= {
            "scaleSetPriority": "Spot",
            "scaleSetEvictionPolicy": "Delete",
            "spotMaxPrice": 1.25,
            "osSKU": "AzureLinux",
            "vnetSubnetID": "/s",
        }.items()
    )
    assert properties["availabilityZones"] == ["2", "3"]
    assert properties["gpuProfile"] == {"driver": "None"}
    assert properties["tags"]["team"] == "a"


def test_our_own_tags_cannot_be_overridden() -> None:
    options = AgentPoolOptions(tags={"kaito-workspace": "other"})
    assert aks.agent_pool(DOCUMENT, PLAN, "r", options)["properties"]["tags"]["kaito-workspace"] == "w"


def test_a_name_belongs_to_the_workspaces_generation_and_to_what_cannot_change() -> None:
    def name(options: AgentPoolOptions | None = None, document=DOCUMENT, plan=PLAN) -> str:
        return aks.agent_pool(document, plan, "r", options)["name"]

    edited = {**DOCUMENT, "metadata": {**DOCUMENT["metadata"], "generation": 2}}
    found = [
        name(),
        name(AgentPoolOptions(spot=True)),
        name(AgentPoolOptions(zones=("1",))),
        name(document=edited),
        name(plan=replace(PLAN, instance_type="Standard_NC24ads_A100_v4")),
    ]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"ws[0-9a-f]{9}", pool) for pool in found)
    assert name() == name(AgentPoolOptions(tags={"a": "b"}), plan=replace(PLAN, node_count=2))


def test_all_faults_are_told_at_once() -> None:
    options = AgentPoolOptions(
        spot=True,
        spot_max_price=0,
        eviction_policy="Keep",
        zones=("4",),
        gpu_driver="maybe",
        tags={"a/b": "c"},
    )
    with pytest.raises(AgentPoolInvalid) as refused:
        aks.agent_pool(DOCUMENT, replace(PLAN, node_count=0, instance_type="p4d.24xlarge"), "r", options)
    words = (
        "eviction policy",
        "spot price",
        "GPU driver",
        "Zone '4'",
        "vmSize",
        "between 1 and 1000",
        "tag 'a/b'",
    )
    assert len(refused.value.faults) == len(words)
    assert all(any(word in fault for fault in refused.value.faults) for word in words)


@pytest.mark.parametrize(
    ("label", "value", "words"),
    [
        ("kubernetes.azure.com/mode", "x", "AKS's own"),
        ("a b", "x", "not a Kubernetes label name"),
        ("a", "x" * 64, "up to 63"),
    ],
)
def test_labels_that_aks_refuses_are_named(label: str, value: str, words: str) -> None:
    pool = aks.agent_pool(DOCUMENT, PLAN, "r")
    pool["properties"]["nodeLabels"][label] = value
    (fault,) = agent_pool_faults(pool)
    assert words in fault


@given(run=st.text(max_size=80), name=st.from_regex(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", fullmatch=True))
def test_whatever_the_run_is_called_aks_takes_the_pool(run: str, name: str) -> None:
    document = {**DOCUMENT, "metadata": {**DOCUMENT["metadata"], "name": name}}
    assert agent_pool_faults(aks.agent_pool(document, PLAN, run or "r")) == []
