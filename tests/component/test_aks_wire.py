"""What AksHook puts on the wire, to the letter of the published contract, and the error bodies that it understands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from kaito.hooks.aks import AksHook, AsyncAksHook
from kaito.hooks.azure_account import AksError
from kaito.providers.base import FailureClass
from kaito.providers.selection import failure_class

from include.catalog import load_catalog
from include.planning import plan
from include.pools.aks import AgentPoolOptions, agent_pool
from include.pools.azure_offer import Wanted
from include.workspace import parse_workspace
from sandbox.arm import errors, schema, server
from sandbox.faults import FaultKind
from tests.support.azure_thread import AzureThread, azure_thread
from tests.support.fake_cluster import QUICK_START

VERSION = "2026-08-01"
SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-000000000000"
CLUSTER = (
    f"{SUBSCRIPTION}/resourceGroups/sandbox/providers/Microsoft.ContainerService/managedClusters/sandbox"
)
WORKSPACE = {**QUICK_START, "metadata": {**QUICK_START["metadata"], "uid": "u1", "generation": 1}}
OPTIONS = AgentPoolOptions(spot=True, spot_max_price=1.5, zones=("1", "2"), tags={"owner": "me"})


@dataclass
class Sent:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """Every request that reaches the endpoint, as it came."""
    seen: list[Sent] = []
    real = server.ArmServer.handle

    async def listen(self: Any, request: Any) -> Any:
        text, url = await request.text(), urlsplit(request.raw_path)
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = json.loads(text) if text else None
        seen.append(Sent(request.method, url.path, dict(parse_qsl(url.query)), headers, body))
        return await real(self, request)

    monkeypatch.setattr(server.ArmServer, "handle", listen)
    return seen


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wire: list[Sent]) -> Iterator[AzureThread]:
    monkeypatch.setattr("kaito.hooks.azure_account.RETRIES", 0)
    with azure_thread(tmp_path) as running:
        monkeypatch.setenv("AIRFLOW_CONN_AKS", running.connection())
        yield running


def body(nodes: int = 1) -> dict[str, Any]:
    asked = replace(plan(parse_workspace(WORKSPACE), load_catalog()), node_count=nodes)
    return agent_pool(WORKSPACE, asked, "run-1", OPTIONS)


def the(wire: list[Sent], method: str) -> Sent:
    (found,) = [sent for sent in wire if sent.method == method]
    assert found.query == {"api-version": VERSION}
    assert found.headers["authorization"].startswith("Bearer ")
    return found


def test_a_creation_is_a_put_that_no_pool_may_precede(azure: AzureThread, wire: list[Sent]) -> None:
    wanted = body()
    AksHook("aks").begin_create(wanted)
    sent = the(wire, "PUT")
    assert sent.path == f"{CLUSTER}/agentPools/{wanted['name']}"
    assert (sent.headers["if-none-match"], sent.headers.get("if-match")) == ("*", None)
    assert sent.headers["content-type"] == "application/json"
    assert sent.headers["accept"] == "application/json"
    assert sent.body == {"properties": wanted["properties"]}


def test_all_that_we_send_has_the_published_names_types_and_values() -> None:
    wanted = body()
    assert schema.NAME.fullmatch(wanted["name"])
    assert set(wanted["properties"]) <= set(schema.PROPERTIES) - set(schema.READ_ONLY)
    read = schema.read_properties({"properties": wanted["properties"]})
    assert read == wanted["properties"]  # enumerations in Azure's own letters
    schema.check_properties(read)
    spot = {name: read[name] for name in ("scaleSetPriority", "scaleSetEvictionPolicy", "spotMaxPrice")}
    assert spot == {"scaleSetPriority": "Spot", "scaleSetEvictionPolicy": "Delete", "spotMaxPrice": 1.5}
    assert read["availabilityZones"] == ["1", "2"]
    assert read["nodeTaints"] == ["sku=gpu:NoSchedule"]


def test_a_change_and_a_deletion_name_the_etag_that_was_read(azure: AzureThread, wire: list[Sent]) -> None:
    hook = AksHook("aks")
    name = hook.begin_create(body())[0]["name"]
    azure.settled(name)
    etag = hook.find(name)["properties"]["eTag"]  # type: ignore[index]
    wire.clear()
    hook.begin_update(body(nodes=2), etag=etag)
    sent = the(wire, "PUT")
    assert (sent.headers["if-match"], sent.headers.get("if-none-match")) == (f'"{etag}"', None)
    azure.settled(name)
    etag = hook.find(name)["properties"]["eTag"]  # type: ignore[index]
    hook.begin_delete(name, etag=etag)
    sent = the(wire, "DELETE")
    assert sent.path == f"{CLUSTER}/agentPools/{name}"
    assert (sent.headers["if-match"], sent.body) == (f'"{etag}"', None)


async def test_over_an_event_loop_the_same_is_sent(azure: AzureThread, wire: list[Sent]) -> None:
    """A creation, a change, a deletion that Azure is too busy for at first, and the question before all of them."""
    hook = AsyncAksHook("aks")
    assert await hook.offers_faults([Wanted("Standard_Fantasy", 1, "")]) == [
        ["Azure has no machine type Standard_Fantasy in location sandbox."]
    ]
    made, asked = await hook.begin_create(body())
    assert asked
    assert (await hook.begin_create(body()))[1] is False
    sent = the(wire, "PUT")
    assert (sent.headers["if-none-match"], sent.body) == ("*", {"properties": body()["properties"]})
    await asyncio.to_thread(azure.settled, made["name"])
    etag = (await hook.find(made["name"]))["properties"]["eTag"]  # type: ignore[index]
    with pytest.raises(AksError) as refused:
        await hook.begin_update(body(nodes=2), etag="old")
    assert refused.value.stale
    await hook.begin_update(body(nodes=2), etag=etag)  # aborted by the deletion, as it is under way
    wire.clear()
    assert await hook.begin_delete(made["name"], etag=etag)
    assert the(wire, "POST").path.endswith("/abort")
    assert the(wire, "DELETE").headers.get("if-match") is None
    while await hook.find(made["name"]):
        await asyncio.sleep(0.02)
    assert not await hook.begin_delete(made["name"])
    await hook.close()


def test_an_abort_is_a_post_without_a_body(azure: AzureThread, wire: list[Sent]) -> None:
    azure.break_(FaultKind.SLOW_BOOT, value=60)
    hook = AksHook("aks")
    name = hook.begin_create(body())[0]["name"]
    hook.abort(name)
    sent = the(wire, "POST")
    assert (sent.path, sent.body) == (f"{CLUSTER}/agentPools/{name}/abort", None)


def test_quota_and_sizes_are_asked_of_compute_and_all_pages_are_read(
    azure: AzureThread, wire: list[Sent]
) -> None:
    assert AksHook("aks").offers_faults([Wanted("Standard_NV72ads_A10_v5", 1, "")]) == [
        []
    ]  # not on the first page
    compute = f"{SUBSCRIPTION}/providers/Microsoft.Compute"
    sizes = [sent for sent in wire if sent.path == f"{compute}/skus"]
    assert sizes[0].query["$filter"] == "location eq 'sandbox'"
    assert [sent.query.get("$skiptoken") for sent in sizes][:2] == [None, "16"]
    usages = [sent for sent in wire if sent.path == f"{compute}/locations/sandbox/usages"]
    assert len(usages) > 1
    assert {sent.method for sent in wire} == {"GET"}


@pytest.mark.parametrize("shape", ["as published", "flat, as AKS itself sends them"])
@pytest.mark.parametrize(
    ("fault", "value", "code", "failure"),
    [
        (FaultKind.QUOTA, None, "ErrCode_InsufficientVCPUQuota", FailureClass.QUOTA),
        (FaultKind.SKU, None, "SkuNotAvailable", FailureClass.CAPACITY),
        (FaultKind.AUTH, 403, "AuthorizationFailed", FailureClass.AUTH),
        (FaultKind.AUTH, 401, "ExpiredAuthenticationToken", FailureClass.AUTH),
        (FaultKind.API_ERROR, 500, "InternalServerError", FailureClass.TRANSIENT),
    ],
)
def test_errors_are_understood_in_either_shape(
    azure: AzureThread,
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    fault: FaultKind,
    value: float | None,
    code: str,
    failure: FailureClass,
) -> None:
    if shape != "as published":
        flat = lambda error: {"code": error.code, "message": error.message, "details": None, "subcode": ""}  # noqa: E731
        monkeypatch.setattr(errors.ArmError, "body", flat)
    azure.break_(
        fault, target="PUT *" if fault in (FaultKind.AUTH, FaultKind.API_ERROR) else "*", value=value
    )
    with pytest.raises(AksError) as refused:
        AksHook("aks").begin_create(body())
    assert refused.value.code == code
    assert failure_class(refused.value) is failure


@pytest.mark.parametrize(
    ("code", "message", "busy"),
    [
        (
            "OperationNotAllowed",
            "Operation is not allowed because there's an in progress update managed cluster operation (operation ID: "
            "1) on the managed cluster started on UTC 2026-01-01T00:00:00Z. Please wait for it to finish.",
            True,
        ),
        (
            "OperationNotAllowed",
            "Operation is not allowed: Another operation (Updating) is in progress, please wait for it to finish "
            "before starting a new operation.",
            True,
        ),
        (
            "OperationNotAllowed",
            "Operation could not be completed as it results in exceeding approved standardNCSv3Family Cores quota.",
            False,
        ),
    ],
)
def test_azures_ways_to_say_that_it_is_busy_are_known(code: str, message: str, busy: bool) -> None:
    assert AksError(409, code, message).busy is busy


def test_a_throttled_request_is_sent_again_when_azure_says(
    azure: AzureThread, monkeypatch: pytest.MonkeyPatch, wire: list[Sent]
) -> None:
    monkeypatch.setattr("kaito.hooks.azure_account.RETRIES", 2)
    azure.break_(FaultKind.API_THROTTLE, target="GET *", value=1, count=1)
    assert [pool["name"] for pool in AksHook("aks").list_pools()] == ["nodepool1"]
    assert len(wire) == 2
