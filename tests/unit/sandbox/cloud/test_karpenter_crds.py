"""karpenter's kinds accept what KAITO writes and refuse what makes no sense."""

from __future__ import annotations

import pytest

from sandbox.api.cluster import ApiError
from sandbox.cloud import crds


async def test_installing_twice_is_fine(cluster):
    await crds.install(cluster)


async def test_a_claim_keeps_what_kaito_writes(make_claim):
    claim = await make_claim()
    assert claim["spec"]["resources"]["requests"] == {"storage": "100Gi"}
    assert claim["spec"]["nodeClassRef"]["kind"] == "KaitoNodeClass"


@pytest.mark.parametrize(
    "spec",
    [
        {"nodeClassRef": {}},
        {"nodeClassRef": {}, "requirements": [{"operator": "In"}]},
        {"nodeClassRef": {}, "requirements": [{"key": "a", "operator": "Near"}]},
        {"nodeClassRef": {}, "requirements": [], "taints": [{"key": "a", "effect": "Never"}]},
    ],
)
async def test_a_claim_that_makes_no_sense_is_refused(cluster, spec):
    with pytest.raises(ApiError) as refused:
        await cluster.create(crds.NODECLAIMS, {"metadata": {"name": "x"}, "spec": spec})
    assert refused.value.code == 422
