"""A Workspace beside an object of its name, against an API server: the object stays what it was, to the letter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kaito.hooks import api
from kaito.hooks.api import SERVICE, WORKSPACE
from kaito.hooks.ownership import ForeignObject, applying

from include import manifests
from tests.support.installed import Installed

NAME = "workspace-tuning-phi-3"
SHOP: dict[str, Any] = {
    "metadata": {"name": NAME},
    "spec": {"selector": {"app": "shop"}, "ports": [{"name": "http", "port": 443, "protocol": "TCP"}]},
}


async def service_of(cluster: Installed) -> dict[str, Any]:
    return manifests.services(await cluster.quick_start())[0]


async def test_a_foreign_service_keeps_its_selector_and_outlives_the_workspace(cluster: Installed) -> None:
    before = await cluster.apply(SERVICE, SHOP)
    with pytest.raises(ForeignObject, match=f"Service {NAME} exists and belongs to nobody that we know"):
        await cluster.hook.apply(SERVICE, await service_of(cluster))
    await cluster.hook.send(api.delete(WORKSPACE, NAME, "default"))
    assert await cluster.hook.find(SERVICE, NAME, "default") == before


async def test_a_service_that_appears_in_between_is_not_taken_over(cluster: Installed) -> None:
    wanted = await service_of(cluster)
    steps = applying(SERVICE, wanted, force=True)
    next(steps)
    shop = {**SHOP, "metadata": {"name": NAME, "namespace": "default"}}
    before = await cluster.hook.send(
        _by_kubectl(api.create(SERVICE, shop))
    )  # after our look, before our write
    write = steps.send(None)
    with pytest.raises(api.ClusterError) as refused:
        await cluster.hook.send(write)
    assert refused.value.status == 409, "our values are not theirs"
    seen = await cluster.hook.send(steps.throw(refused.value))
    with pytest.raises(ForeignObject):
        steps.send(seen)
    assert await cluster.hook.find(SERVICE, NAME, "default") == before


async def test_what_was_merged_without_a_conflict_is_taken_back(cluster: Installed) -> None:
    """Nothing of a ConfigMap conflicts when the keys differ: the owner reference must go all the same."""
    workspace = await cluster.quick_start()
    service = manifests.services(workspace)[0]
    ours = {"metadata": {**service["metadata"], "name": "notes"}, "data": {"ours": "1"}}
    steps = applying(api.CONFIG_MAP, ours, force=True)
    next(steps)
    notes = {"name": "notes", "namespace": "default", "labels": {"app": "shop"}}
    theirs = {"metadata": notes, "data": {"theirs": "1"}}
    await cluster.hook.send(_by_kubectl(api.create(api.CONFIG_MAP, theirs)))
    made = await cluster.hook.send(steps.send(None))
    with pytest.raises(ForeignObject, match="belongs to kubectl"):
        steps.send(await cluster.hook.send(steps.send(made)))
    after = await cluster.hook.find(api.CONFIG_MAP, "notes", "default")
    assert after is not None
    assert after["data"] == {"theirs": "1"}
    assert (after["metadata"]["labels"], after["metadata"].get("ownerReferences")) == ({"app": "shop"}, None)


def _by_kubectl(request: api.Request) -> api.Request:
    return replace(request, query=(("fieldManager", "kubectl"),))


async def test_ours_is_written_again_and_again(cluster: Installed) -> None:
    wanted = await service_of(cluster)
    first = await cluster.hook.apply(SERVICE, wanted)
    wanted["spec"]["ports"] = wanted["spec"]["ports"][:1]
    second = await cluster.hook.apply(SERVICE, wanted)
    assert first["metadata"]["uid"] == second["metadata"]["uid"]
    assert len(second["spec"]["ports"]) == 1
