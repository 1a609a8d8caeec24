"""NodeClaims in the shape that KAITO's gpu-provisioner reads (kaito-api.md#nodeclaims)."""

from __future__ import annotations

import re

from include.manifests import ManifestSettings
from include.planning import plan, plan_serving
from include.pools import nodeclaim
from include.pools.nodeclaim import node_claim_name
from include.workspace import parse_workspace
from include.workspace.api import names
from tests.support.pool_plan import CATALOG, DOCUMENT, PLAN


def test_the_shape() -> None:
    (claim,) = nodeclaim.node_claims(DOCUMENT, PLAN, "run 1")
    assert claim == {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {
            "name": node_claim_name(DOCUMENT, "tuning", 0),
            "labels": {
                "app": "x",
                "team": "a",
                "kaito.sh/workspace": "w",  # reserved: the author's value is not used
                "kaito.sh/workspacenamespace": "ml",
                "kaito.sh/pool": "tuning",
                "kaito.sh/component": "pool",
                "kaito.sh/run-id": names.run_id_label("run 1"),
                "karpenter.sh/nodepool": "kaito",
            },
            "annotations": {"karpenter.sh/do-not-disrupt": "true", "kaito.sh/node-image-family": "ubuntu"},
        },
        "spec": {
            "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
            "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
            "requirements": [
                {"key": "karpenter.sh/nodepool", "operator": "In", "values": ["kaito"]},
                # As the cloud spells it: KAITO compares the node's label with what the author wrote (10.1-10).
                {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]},
                {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
                {"key": "karpenter.azure.com/sku-name", "operator": "In", "values": ["Standard_NC6s_v3"]},
            ],
            "resources": {"requests": {"storage": "1024Gi"}},
        },
    }


def test_names_are_pool_names_and_the_two_pools_differ() -> None:
    tuning = nodeclaim.node_claims(DOCUMENT, PLAN, "r")[0]["metadata"]["name"]
    serving = nodeclaim.node_claims(DOCUMENT, plan_serving(parse_workspace(DOCUMENT), CATALOG), "r")[0]
    assert re.fullmatch(r"ws[0-9a-f]{9}", tuning)
    assert serving["metadata"]["name"] != tuning
    assert serving["metadata"]["labels"]["kaito.sh/pool"] == "serving"
    assert serving["spec"]["resources"]["requests"]["storage"] == "87Gi"  # 7.12 + 80, truncated
    # Another run of the same generation finds the same nodes instead of buying new ones.
    assert nodeclaim.node_claims(DOCUMENT, PLAN, "another run")[0]["metadata"]["name"] == tuning


def test_one_claim_a_node() -> None:
    document = {**DOCUMENT, "resource": {**DOCUMENT["resource"], "count": 3}}
    document["inference"] = {"template": {}}
    document.pop("tuning")
    made = plan(parse_workspace(document), CATALOG)
    claims = nodeclaim.node_claims(document, made, "r")
    assert len({claim["metadata"]["name"] for claim in claims}) == 3
    assert claims[0]["spec"]["resources"]["requests"]["storage"] == "1024Gi"


def test_other_clouds_and_image_families() -> None:
    document = {
        **DOCUMENT,
        "metadata": {**DOCUMENT["metadata"], "annotations": {"kaito.sh/node-image-family": " AzureLinux"}},
        "resource": {**DOCUMENT["resource"], "instanceType": "g5.xlarge"},
    }
    settings = ManifestSettings("i", node_class="gpu")
    (claim,) = nodeclaim.node_claims(document, plan(parse_workspace(document), CATALOG), "r", settings)
    assert claim["metadata"]["annotations"]["kaito.sh/node-image-family"] == "azurelinux"
    own = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}
    assert claim["spec"]["nodeClassRef"] == own
    last = claim["spec"]["requirements"][-1]
    assert last == {"key": "karpenter.k8s.aws/instance-gpu-count", "operator": "Gt", "values": ["0"]}
