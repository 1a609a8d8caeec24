"""NodePools in the shape of KAITO's karpenter mode (kaito-api.md#nodepools)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from include.manifests import ManifestSettings
from include.pools import nodepool
from include.workspace.api import names
from tests.support.pool_plan import DOCUMENT, PLAN


def test_the_shape() -> None:
    pool = nodepool.node_pool(DOCUMENT, replace(PLAN, node_count=2), "run 1")
    labels = {
        "app": "x",
        "team": "a",
        "kaito.sh/workspace": "w",
        "kaito.sh/workspacenamespace": "ml",
        "kaito.sh/pool": "tuning",
        "kaito.sh/component": "pool",
        "kaito.sh/run-id": names.run_id_label("run 1"),
        "karpenter.kaito.sh/workspace-name": "w",
        "karpenter.kaito.sh/workspace-namespace": "ml",
    }
    assert pool == {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": "ml-w-tuning", "labels": labels},
        "spec": {
            "replicas": 2,
            "template": {
                "metadata": {"labels": labels, "annotations": {"karpenter.sh/do-not-disrupt": "true"}},
                "spec": {
                    "nodeClassRef": {
                        "group": "karpenter.azure.com",
                        "kind": "AKSNodeClass",
                        "name": "image-family-ubuntu",
                    },
                    "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
                    "requirements": [
                        {
                            "key": "node.kubernetes.io/instance-type",
                            "operator": "In",
                            "values": ["Standard_NC6s_v3"],
                        },
                        {
                            "key": "karpenter.azure.com/placement-scope",
                            "operator": "In",
                            "values": ["regional"],
                        },
                    ],
                    "expireAfter": "Never",
                },
            },
            "disruption": {"consolidateAfter": "0s", "budgets": [{"nodes": "1", "reasons": ["Drifted"]}]},
        },
    }


def test_long_names_are_cut_and_stay_apart() -> None:
    def name(workspace: str) -> str:
        document = {**DOCUMENT, "metadata": {**DOCUMENT["metadata"], "name": workspace}}
        return nodepool.node_pool(document, PLAN, "r")["metadata"]["name"]

    long = name("a" * 60)
    assert len(long) == 63
    assert long != name("a" * 59)
    assert name("w") == "ml-w-tuning"


@pytest.mark.parametrize(
    ("annotations", "settings", "machine", "expected"),
    [
        (
            {"kaito.sh/node-image-family": "AzureLinux"},
            None,
            None,
            ("AKSNodeClass", "image-family-azure-linux"),
        ),
        ({"kaito.sh/node-class-name": "mine"}, "ours", None, ("AKSNodeClass", "mine")),
        ({}, "ours", None, ("AKSNodeClass", "ours")),
        ({}, None, "p4d.24xlarge", ("EC2NodeClass", "default")),
    ],
)
def test_the_node_class_follows_the_workspace_the_installation_and_the_cloud(
    annotations: dict[str, str], settings: str | None, machine: str | None, expected: tuple[str, str]
) -> None:
    document = {**DOCUMENT, "metadata": {**DOCUMENT["metadata"], "annotations": annotations}}
    plan = replace(PLAN, instance_type=machine or PLAN.instance_type)
    given = ManifestSettings(workload_image="w", node_class=settings) if settings else None
    ref = nodepool.node_pool(document, plan, "r", given)["spec"]["template"]["spec"]["nodeClassRef"]
    assert (ref["kind"], ref["name"]) == expected
