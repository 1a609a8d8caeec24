"""The REST contract to the letter: paths, api-version, statuses, headers, and every error body."""

from __future__ import annotations

import re

import pytest

from sandbox.arm import account
from sandbox.faults import Fault, FaultKind
from tests.support.azure_api import GPU, POOLS, TOKEN

GUID = r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}"


def code(answer):
    """The code of an error body, after a look at its shape."""
    error = answer.body["error"]
    assert set(answer.body) == {"error"}
    assert {"code", "message", "details"} <= set(error) <= {"code", "message", "details", "target"}
    assert error["details"] == []
    assert error["message"]
    assert answer.headers["x-ms-failure-cause"] in ("gateway", "service")
    return error["code"]


async def test_a_creation_answers_as_published(azure):
    answer = await azure.put(
        count=3,
        osType="Linux",
        tags={"name1": "val1"},
        nodeLabels={"key1": "val1"},
        nodeTaints=["Key1=Value1:NoSchedule"],
        scaleSetPriority="Spot",
        scaleSetEvictionPolicy="Delete",
        orchestratorVersion="",
    )
    assert answer.status == 201
    assert answer.body["id"] == f"{POOLS}/wsgpu"
    assert answer.body["type"] == "Microsoft.ContainerService/managedClusters/agentPools"
    assert answer.body["name"] == "wsgpu"
    assert set(answer.body) == {"id", "name", "type", "properties"}
    shown = answer.body["properties"]
    assert shown["provisioningState"] == "Creating"
    assert (shown["count"], shown["vmSize"], shown["maxPods"], shown["spotMaxPrice"]) == (3, GPU, 110, -1)
    assert shown["tags"] == {"name1": "val1"}
    assert shown["orchestratorVersion"] == shown["currentOrchestratorVersion"]
    assert "Key1=Value1:NoSchedule" in shown["nodeTaints"]
    base = f"{azure.url}/subscriptions/{account.SUBSCRIPTION}/providers/Microsoft.ContainerService/locations/sandbox"
    monitor = answer.headers["Azure-AsyncOperation"]
    assert re.fullmatch(re.escape(f"{base}/operations/") + GUID + r"\?api-version=2026-08-01", monitor)
    assert int(answer.headers["Retry-After"]) >= 1
    assert re.fullmatch(GUID, shown["eTag"])
    for name in ("x-ms-request-id", "x-ms-correlation-request-id"):
        assert re.fullmatch(GUID, answer.headers[name])


async def test_the_status_monitor_follows_the_operation(azure):
    answer = await azure.put(count=1)
    first = await azure.call("GET", answer.headers["Azure-AsyncOperation"])
    assert (first.status, first.body["status"]) == (200, "InProgress")
    assert "endTime" not in first.body
    assert "Retry-After" in first.headers
    await azure.settled()
    last = await azure.call("GET", answer.headers["Azure-AsyncOperation"])
    assert (last.body["status"], last.body["name"]) == ("Succeeded", first.body["name"])
    assert last.body["startTime"] == first.body["startTime"] < last.body["endTime"]


async def test_a_deletion_answers_202_with_monitor_and_location_and_then_204(azure):
    await azure.put(count=1)
    await azure.settled()
    answer = await azure.call("DELETE", f"{POOLS}/wsgpu")
    assert (answer.status, answer.body) == (202, None)
    assert "/operations/" in answer.headers["Azure-AsyncOperation"]
    assert "/operationresults/" in answer.headers["Location"]
    result = await azure.call("GET", answer.headers["Location"])
    if result.status == 202:
        assert "Location" in result.headers
    assert await azure.settled() == "gone"
    assert (await azure.call("GET", answer.headers["Location"])).status == 204
    assert (await azure.call("DELETE", f"{POOLS}/wsgpu")).status == 204


async def test_the_list_holds_the_system_pool_first_and_nothing_else_at_the_start(azure):
    answer = await azure.call("GET", POOLS)
    assert [pool["name"] for pool in answer.body["value"]] == ["nodepool1"]
    assert answer.body["value"][0]["properties"]["mode"] == "System"


async def test_names_in_paths_have_no_case(azure):
    assert (
        await azure.call("GET", POOLS.replace("resourceGroups/sandbox", "RESOURCEGROUPS/SandBox"))
    ).status == 200


async def test_the_clients_request_id_comes_back_when_it_asks(azure):
    sent = {"x-ms-client-request-id": "me-1", "x-ms-return-client-request-id": "true"}
    assert (await azure.call("GET", POOLS, headers=sent)).headers["x-ms-client-request-id"] == "me-1"
    sent.pop("x-ms-return-client-request-id")
    assert "x-ms-client-request-id" not in (await azure.call("GET", POOLS, headers=sent)).headers


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        (None, "MissingApiVersionParameter"),
        ("2019-01-01", "InvalidApiVersionParameter"),
        ("x", "InvalidApiVersionParameter"),
    ],
)
async def test_the_api_version_is_needed_and_known(azure, version, wanted):
    answer = await azure.call("GET", POOLS, version=version)
    assert (answer.status, code(answer)) == (400, wanted)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", "AuthenticationFailed"),
        ("Basic x", "AuthenticationFailedInvalidHeader"),
        ("Bearer x", "InvalidAuthenticationToken"),
    ],
)
async def test_who_is_not_known_is_refused_before_anything_else(azure, header, wanted):
    answer = await azure.call("GET", "/nonsense", headers={"Authorization": header}, version=None)
    assert (answer.status, code(answer)) == (401, wanted)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer authorization_uri=")


@pytest.mark.parametrize(
    ("method", "path", "status", "wanted"),
    [
        ("GET", "/subscriptions/me", 400, "InvalidSubscriptionId"),
        (
            "GET",
            f"/subscriptions/{TOKEN[:0]}11111111-1111-1111-1111-111111111111",
            404,
            "SubscriptionNotFound",
        ),
        ("GET", POOLS.replace("resourceGroups/sandbox", "resourceGroups/rg1"), 404, "ResourceGroupNotFound"),
        (
            "GET",
            POOLS.replace("managedClusters/sandbox", "managedClusters/c1"),
            404,
            "ParentResourceNotFound",
        ),
        (
            "GET",
            account.CLUSTER_ID.replace("managedClusters/sandbox", "managedClusters/c1"),
            404,
            "ResourceNotFound",
        ),
        ("GET", f"{POOLS}/nopool", 404, "AgentPoolNotFound"),
        ("POST", f"{POOLS}/nopool/abort", 404, "AgentPoolNotFound"),
        ("POST", f"{POOLS}/nodepool1/abort", 409, "OperationNotAllowed"),
        ("DELETE", f"{POOLS}/nodepool1", 400, "OperationNotAllowed"),
        ("PATCH", f"{POOLS}/nodepool1", 405, "HttpMethodNotAllowed"),
        ("GET", account.CLUSTER_ID + "/nonsense", 404, "InvalidResourceType"),
    ],
)
async def test_what_is_not_there_is_said_in_azures_codes(azure, method, path, status, wanted):
    answer = await azure.call(method, path)
    assert (answer.status, code(answer)) == (status, wanted)


@pytest.mark.parametrize(
    ("name", "properties", "wanted", "words"),
    [
        ("GPU", {}, "InvalidParameter", "[a-z][a-z0-9]{0,11}"),
        ("ws0123456789a", {}, "InvalidParameter", "agentPoolProfile.name"),
        ("wsgpu", {"vmSize": ""}, "InvalidParameter", "vmSize"),
        ("wsgpu", {"vmSize": "Standard_Fantasy_v9"}, "BadRequest", "not allowed in your subscription"),
        ("wsgpu", {"count": -1}, "InvalidParameter", "count -1"),
        ("wsgpu", {"count": 1001}, "InvalidParameter", "1000"),
        ("wsgpu", {"count": "two"}, "UnmarshalError", "properties.count of type int32"),
        ("wsgpu", {"count": True}, "UnmarshalError", "cannot unmarshal bool"),
        ("wsgpu", {"vm_size": GPU}, "UnmarshalError", 'unknown field "vm_size"'),
        ("wsgpu", {"osSKU": "Debian"}, "InvalidParameter", "osSKU"),
        ("wsgpu", {"osDiskSizeGB": 5000}, "InvalidParameter", "2048"),
        ("wsgpu", {"availabilityZones": ["4"]}, "AvailabilityZoneNotSupported", "'4'"),
        ("wsgpu", {"spotMaxPrice": 1.5}, "InvalidParameter", "scaleSetPriority is Spot"),
        ("wsgpu", {"scaleSetPriority": "Spot", "spotMaxPrice": 0}, "InvalidParameter", "greater than zero"),
        ("wsgpu", {"gpuProfile": {"driver": "Maybe"}}, "InvalidParameter", "Install, None"),
        ("wsgpu", {"nodeLabels": {"a": "x" * 64}}, "InvalidParameter", "63 characters"),
        ("wsgpu", {"nodeLabels": {"kubernetes.azure.com/a": "x"}}, "InvalidParameter", "reserved"),
        ("wsgpu", {"nodeTaints": ["sku=gpu"]}, "InvalidParameter", "key=value:Effect"),
        ("wsgpu", {"tags": {"kaito.sh/x": "y"}}, "InvalidTagNameCharacters", "kaito.sh/x"),
    ],
)
async def test_a_pool_that_makes_no_sense_is_refused(azure, name, properties, wanted, words):
    answer = await azure.put(name, **properties)
    assert (answer.status, code(answer)) == (400, wanted)
    assert words in answer.body["error"]["message"]
    assert azure.state.pools == {}


async def test_a_body_that_is_no_json_is_refused(azure):
    answer = await azure.call("PUT", f"{POOLS}/wsgpu", "{")
    assert (answer.status, code(answer)) == (400, "InvalidRequestContent")


async def test_another_operation_on_the_cluster_is_waited_for_by_the_caller(azure, faults):
    faults.set(Fault(FaultKind.SLOW_BOOT, value=60))
    await azure.put("wsone", count=1)
    for answer in (await azure.put("wstwo", count=1), await azure.call("DELETE", f"{POOLS}/wsone")):
        assert (answer.status, code(answer)) == (409, "OperationNotAllowed")
        assert "(wsone - Creating) is in progress" in answer.body["error"]["message"]
    cluster = await azure.call("GET", account.CLUSTER_ID)
    assert cluster.body["properties"]["provisioningState"] == "Updating"


@pytest.mark.parametrize(
    ("fault", "status", "wanted", "words"),
    [
        (Fault(FaultKind.QUOTA, GPU), 400, "ErrCode_InsufficientVCPUQuota", "standardNCADSA100v4Family"),
        (Fault(FaultKind.SKU, GPU), 409, "SkuNotAvailable", "aka.ms/azureskunotavailable"),
        (Fault(FaultKind.SKU, f"{GPU}@2"), 409, "SkuNotAvailable", "zone '2'"),
        (Fault(FaultKind.AUTH, "PUT *"), 403, "AuthorizationFailed", "managedClusters/agentPools/write"),
        (Fault(FaultKind.AUTH, "PUT *", 401), 401, "ExpiredAuthenticationToken", "expiry"),
        (Fault(FaultKind.API_THROTTLE, "PUT *", 7), 429, "TooManyRequests", "throttled"),
        (Fault(FaultKind.API_ERROR, "PUT *", 503), 503, "InternalServerError", "told to fail"),
    ],
)
async def test_faults_speak_azures_language(azure, faults, fault, status, wanted, words):
    faults.set(fault)
    answer = await azure.put(count=1, availabilityZones=["1", "2"])
    assert (answer.status, code(answer)) == (status, wanted)
    assert words in answer.body["error"]["message"]
    assert azure.state.pools == {}
    assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)


@pytest.mark.parametrize(
    ("target", "asked", "wanted"),
    [
        (GPU, {}, "AllocationFailed"),
        (f"{GPU}@3", {"availabilityZones": ["3"]}, "ZonalAllocationFailed"),
        (f"{GPU}/spot", {"scaleSetPriority": "Spot"}, "AllocationFailed"),
    ],
)
async def test_no_capacity_fails_the_operation_and_leaves_a_failed_pool(azure, faults, target, asked, wanted):
    faults.set(Fault(FaultKind.NO_CAPACITY, target))
    answer = await azure.put(count=1, **asked)
    assert answer.status == 201
    assert await azure.settled() == "Failed"
    monitor = await azure.call("GET", answer.headers["Azure-AsyncOperation"])
    assert (monitor.body["status"], monitor.body["error"]["code"]) == ("Failed", wanted)
    pool = await azure.call("GET", f"{POOLS}/wsgpu")
    assert pool.body["properties"]["status"]["provisioningError"]["code"] == wanted
    assert await azure.nodes() == []
    assert azure.ledger.rentals() == []


@pytest.mark.parametrize("target", [f"{GPU}@3", f"{GPU}/spot"])
async def test_another_zone_or_other_terms_have_machines(azure, faults, target):
    faults.set(Fault(FaultKind.NO_CAPACITY, target))
    await azure.put(count=1, availabilityZones=["1"])
    assert await azure.settled() == "Succeeded"


async def test_the_quota_shows_in_the_usages(azure, faults):
    path = f"/subscriptions/{account.SUBSCRIPTION}/providers/Microsoft.Compute/locations/sandbox/usages"
    await azure.put(count=2)
    await azure.settled()
    faults.set(Fault(FaultKind.QUOTA, GPU))
    answer = await azure.call("GET", path, version="2026-04-01")
    family = next(u for u in answer.body["value"] if u["name"]["value"] == "standardNCADSA100v4Family")
    assert (family["currentValue"], family["limit"], family["unit"]) == (48, 48, "Count")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": '"other"'}, 412),
        ({"If-None-Match": "*"}, 412),
        ({"If-Match": "*"}, 200),
        ({"If-None-Match": ""}, 200),
        ({"If-None-Match": '"other"'}, 400),
    ],
)
async def test_conditions_on_a_pool_that_is_there(azure, headers, status):
    await azure.put(count=1)
    await azure.settled()
    answer = await azure.put(headers=headers, count=1)
    assert answer.status == status
    if status == 412:
        assert code(answer) == "PreconditionFailed"


@pytest.mark.parametrize(("headers", "status"), [({"If-Match": "*"}, 412), ({"If-None-Match": "*"}, 201)])
async def test_conditions_on_a_pool_that_is_not_there(azure, headers, status):
    assert (await azure.put(headers=headers, count=1)).status == status


async def test_what_a_pool_is_made_of_cannot_change(azure):
    await azure.put(count=1)
    await azure.settled()
    answer = await azure.call(
        "PUT", f"{POOLS}/wsgpu", {"properties": {"vmSize": "Standard_NC6s_v3", "count": 1}}
    )
    assert (answer.status, code(answer)) == (400, "PropertyChangeNotAllowed")
    assert answer.body["error"]["target"] == "properties.vmSize"
