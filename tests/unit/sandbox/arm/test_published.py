"""The published contract of Microsoft.ContainerService 2026-08-01: what the endpoint takes and what it answers.

The shapes are those of the contract's own examples (spot, GPU profile, MIG, scaling, stopping), the values are ours.
The properties' names, types and enumerations are held against the models that Microsoft generates from the contract.
"""

from __future__ import annotations

import re
import typing
from typing import Any

import pytest
from azure.mgmt.containerservice import ContainerServiceClient, models

from sandbox.arm import account, schema
from sandbox.faults import Fault, FaultKind
from tests.support.azure_api import GPU, POOLS, VERSION

#: What a pool shows besides what was asked for: (property, its type).
SHOWN = {
    "count": int,
    "vmSize": str,
    "maxPods": int,
    "osType": str,
    "orchestratorVersion": str,
    "currentOrchestratorVersion": str,
    "provisioningState": str,
    "eTag": str,
    "nodeImageVersion": str,
}
#: Bodies in the shapes of the published examples of AgentPools_CreateOrUpdate.
EXAMPLES: dict[str, dict[str, Any]] = {
    "spot": {
        "count": 2,
        "nodeLabels": {"tier": "cheap"},
        "nodeTaints": ["Tier=cheap:NoSchedule"],
        "orchestratorVersion": "",
        "osType": "Linux",
        "scaleSetEvictionPolicy": "Delete",
        "scaleSetPriority": "Spot",
        "tags": {"owner": "me"},
        "vmSize": GPU,
    },
    "managed GPU": {
        "count": 1,
        "gpuProfile": {"driver": "Install", "nvidia": {"managementMode": "Managed"}},
        "mode": "User",
        "osType": "Linux",
        "vmSize": GPU,
    },
    "MIG": {"count": 1, "gpuInstanceProfile": "MIG2g", "osType": "Linux", "vmSize": "Standard_ND96asr_v4"},
    "autoscaling": {
        "count": 1,
        "enableAutoScaling": True,
        "maxCount": 3,
        "minCount": 1,
        "osType": "Linux",
        "vmSize": GPU,
    },
    "ephemeral disk": {
        "count": 1,
        "osDiskSizeGB": 64,
        "osDiskType": "Ephemeral",
        "osType": "Linux",
        "vmSize": GPU,
    },
    "system pool": {"count": 1, "mode": "System", "osType": "Linux", "vmSize": "Standard_D4s_v5"},
}
MONITOR = {"Azure-AsyncOperation", "Retry-After"}
#: The headers of the contract's responses, of all that it names.
HEADERS = {"Azure-AsyncOperation", "Location", "Retry-After", "ETag"}


def published(class_: type) -> dict[str, tuple[Any, bool]]:
    """The properties of a generated model by their name on the wire: their type, and whether they are read-only."""
    found = {}
    for base in reversed(class_.__mro__):
        for name, hint in vars(base).get("__annotations__", {}).items():
            field = vars(base).get(name)
            if hasattr(field, "_rest_name_input"):
                inner = tuple(part for part in typing.get_args(hint) if part is not type(None))
                type_ = inner[0] if len(inner) == 1 else inner
                found[str(field._rest_name_input or name)] = (type_, field._visibility == ["read"])
    return found


def wire_type(hint: Any) -> str:
    """A model's type as JSON has it; an enumeration is a string or the enumeration."""
    known = {str: schema.TEXT, int: schema.WHOLE, float: schema.NUMBER, bool: schema.SWITCH}
    if isinstance(hint, tuple):
        return schema.TEXT
    if hint in known:
        return known[hint]
    return {"list[str]": schema.TEXTS, "dict[str, str]": schema.MAP}.get(
        str(hint), schema.OBJECTS if typing.get_origin(hint) is list else schema.OBJECT
    )


def test_the_version_is_the_one_that_the_sdk_asks_for(azure):
    assert azure.sdk()._config.api_version == VERSION
    assert (VERSION,) == account.CONTAINER_SERVICE


def test_properties_have_the_published_names_and_types() -> None:
    contract = published(models.ManagedClusterAgentPoolProfileProperties)
    assert len(contract) > 50
    assert dict(schema.PROPERTIES) == {name: wire_type(hint) for name, (hint, _) in contract.items()}
    read_only = {name for name, (_, only) in contract.items() if only}
    assert read_only == set(schema.READ_ONLY) - {"status"}  # whose only field is read-only


@pytest.mark.parametrize(
    ("field", "enum"),
    [
        ("osType", models.OSType),
        ("osSKU", models.OSSKU),
        ("mode", models.AgentPoolMode),
        ("type", models.AgentPoolType),
        ("scaleSetPriority", models.ScaleSetPriority),
        ("scaleSetEvictionPolicy", models.ScaleSetEvictionPolicy),
        ("scaleDownMode", models.ScaleDownMode),
        ("osDiskType", models.OSDiskType),
        ("kubeletDiskType", models.KubeletDiskType),
        ("gpuInstanceProfile", models.GPUInstanceProfile),
        ("workloadRuntime", models.WorkloadRuntime),
        ("podIPAllocationMode", models.PodIPAllocationMode),
    ],
)
def test_enumerations_have_the_published_values(field, enum) -> None:
    assert set(schema.ENUMS[field]) == {value.value for value in enum}


def test_no_enumeration_is_ours_alone() -> None:
    enums = {
        name
        for name, (hint, _) in published(models.ManagedClusterAgentPoolProfileProperties).items()
        if isinstance(hint, tuple)
    }
    assert set(schema.ENUMS) == enums
    assert set(schema.GPU_DRIVERS) == {value.value for value in models.GPUDriver}
    assert set(schema.POWER_STATES) == {value.value for value in models.Code}


@pytest.mark.parametrize("name", EXAMPLES)
async def test_a_request_in_the_published_shape_is_answered_in_the_published_shape(azure, name):
    asked = EXAMPLES[name]
    made = await azure.call("PUT", f"{POOLS}/pool1", {"properties": asked})
    assert made.status == 201
    assert set(made.headers) & HEADERS == MONITOR
    assert_shown(made.body, asked, "Creating")
    await azure.settled("pool1")
    read = await azure.call("GET", f"{POOLS}/pool1")
    assert (read.status, set(read.headers) & HEADERS) == (200, set())
    assert_shown(read.body, asked, "Succeeded")
    again = await azure.call("PUT", f"{POOLS}/pool1", {"properties": asked})
    assert (again.status, set(again.headers) & HEADERS) == (200, set())
    assert again.body == read.body


def assert_shown(body: dict[str, Any], asked: dict[str, Any], state: str) -> None:
    assert set(body) == {"id", "name", "type", "properties"}
    assert (body["id"], body["name"]) == (f"{account.CLUSTER_ID}/agentPools/pool1", "pool1")
    assert body["type"] == "Microsoft.ContainerService/managedClusters/agentPools"
    shown = body["properties"]
    assert shown["provisioningState"] == state
    assert {name: type(shown[name]) for name in SHOWN} == SHOWN
    assert set(shown) <= set(schema.PROPERTIES)
    for name, value in asked.items():
        match value:
            case "":
                assert shown[name]  # Azure chooses
            case list():
                assert set(value) <= set(shown[name])
            case dict():
                assert value.items() <= shown[name].items()
            case _:
                assert shown[name] == value
    if "scaleSetPriority" in asked:
        assert shown["spotMaxPrice"] == -1


async def test_an_update_answers_201_while_it_runs_and_the_read_only_parts_of_its_body_are_ignored(azure):
    await azure.put("pool1", count=1)
    await azure.settled("pool1")
    read = (await azure.call("GET", f"{POOLS}/pool1")).body
    read["properties"] |= {
        "count": 2,
        "provisioningState": "Failed",
        "eTag": "x",
        "currentOrchestratorVersion": "1",
    }
    made = await azure.call("PUT", f"{POOLS}/pool1", read)
    assert (made.status, set(made.headers) & HEADERS) == (201, MONITOR)
    shown = made.body["properties"]
    assert (shown["provisioningState"], shown["count"]) == ("Updating", 2)
    assert shown["currentOrchestratorVersion"] != "1"


async def test_a_pool_is_stopped_and_started_by_its_power_state(azure):
    await azure.put("pool1", count=1)
    await azure.settled("pool1")
    for code, nodes in (("Stopped", 0), ("Running", 1)):
        made = await azure.call("PUT", f"{POOLS}/pool1", {"properties": {"powerState": {"code": code}}})
        assert (made.status, made.body["properties"]["powerState"]) == (201, {"code": code})
        await azure.settled("pool1")
        assert len(await azure.nodes()) == nodes


@pytest.mark.parametrize("case", ["delete", "abort", "delete machines"])
async def test_a_long_operation_without_a_body_answers_202_with_all_three_headers(azure, faults, case):
    if case == "abort":
        faults.set(Fault(FaultKind.SLOW_BOOT, value=60))
    await azure.put("pool1", count=1)
    if case != "abort":
        await azure.settled("pool1")
    method, path, body = {
        "delete": ("DELETE", "", None),
        "abort": ("POST", "/abort", None),
        "delete machines": ("POST", "/deleteMachines", {"machineNames": [account.machine_name("pool1", 0)]}),
    }[case]
    answer = await azure.call(method, f"{POOLS}/pool1{path}", body)
    assert (answer.status, answer.body) == (202, None)
    assert set(answer.headers) & HEADERS == {*MONITOR, "Location"}
    place = f"/subscriptions/{account.SUBSCRIPTION}/providers/Microsoft.ContainerService/locations/sandbox"
    for header, kind in (("Azure-AsyncOperation", "operations"), ("Location", "operationresults")):
        assert re.fullmatch(
            re.escape(f"{azure.url}{place}/{kind}/") + r"[0-9a-f-]{36}\?api-version=" + VERSION,
            answer.headers[header],
        )


async def test_an_operations_status_has_the_common_shape(azure, faults):
    """As common-types' OperationStatusResult: `status` is needed, the rest is text or an error."""
    faults.set(Fault(FaultKind.NO_CAPACITY))
    answer = await azure.put("pool1", count=1)
    await azure.settled("pool1")
    status = (await azure.call("GET", answer.headers["Azure-AsyncOperation"])).body
    assert set(status) == {"id", "name", "status", "startTime", "endTime", "error"}
    assert status["status"] == "Failed"
    assert status["id"].endswith(f"/operations/{status['name']}")
    assert set(status["error"]) <= {"code", "message", "target", "details", "additionalInfo"}
    shown = (await azure.call("GET", f"{POOLS}/pool1")).body["properties"]
    assert shown["status"] == {"provisioningError": status["error"]}


@pytest.mark.parametrize(("os", "status"), [("Windows", 400), ("Linux", 201)])
async def test_a_windows_pool_has_a_name_of_six_characters(azure, os, status):
    assert (await azure.put("gpuwin7", osType=os, count=1)).status == status


async def test_conditions_are_taken_where_the_contract_has_them(azure):
    """PUT takes if-match and if-none-match, which may be * alone; DELETE takes if-match."""
    etag = (await azure.put("pool1", headers={"If-None-Match": "*"}, count=1)).body["properties"]["eTag"]
    await azure.settled("pool1")
    assert (await azure.call("DELETE", f"{POOLS}/pool1", headers={"If-Match": f'"{etag}"'})).status == 412
    assert (await azure.call("DELETE", f"{POOLS}/pool1", headers={"If-None-Match": "*"})).status == 202


@pytest.mark.parametrize(
    "path", ["/providers/Microsoft.Compute/skus", "/providers/Microsoft.Compute/locations/sandbox/usages"]
)
async def test_long_lists_come_in_pages_with_links(azure, path):
    seen, url, pages = [], f"/subscriptions/{account.SUBSCRIPTION}{path}", 0
    while url:
        answer = await azure.call("GET", url, version="2021-07-01")
        assert set(answer.body) <= {"value", "nextLink"}
        seen += answer.body["value"]
        pages, url = pages + 1, answer.body.get("nextLink")
        assert url is None or url.startswith(azure.url)
    names = [str(item["name"]) for item in seen]
    assert pages > 1
    assert len(names) == len(set(names))


async def test_usages_and_sizes_have_the_published_shape(azure):
    subscription = f"/subscriptions/{account.SUBSCRIPTION}/providers/Microsoft.Compute"
    usages = await azure.call("GET", f"{subscription}/locations/sandbox/usages", version="2021-07-01")
    for usage in usages.body["value"]:
        assert {name: type(value) for name, value in usage.items()} == {
            "limit": int,
            "unit": str,
            "currentValue": int,
            "name": dict,
        }
        assert set(usage["name"]) == {"value", "localizedValue"}
    sizes = await azure.call("GET", f"{subscription}/skus", version="2021-07-01")
    for size in sizes.body["value"]:
        texts = {"resourceType", "name", "tier", "size", "family"}
        lists = {"locations", "locationInfo", "capabilities", "restrictions"}
        assert {name: type(value) for name, value in size.items()} == dict.fromkeys(
            texts, str
        ) | dict.fromkeys(lists, list)
        assert set(size["locationInfo"][0]) == {"location", "zones", "zoneDetails"}
        assert all({type(c["name"]), type(c["value"])} == {str} for c in size["capabilities"])


@pytest.mark.parametrize(
    ("text", "status"), [("location eq 'sandbox'", 200), ("location eq 'moon'", 400), ("x", 400)]
)
async def test_sizes_are_filtered_by_location(azure, text, status):
    path = f"{azure.url}/subscriptions/{account.SUBSCRIPTION}/providers/Microsoft.Compute/skus"
    answer = await azure.call("GET", f"{path}?$filter={text}&api-version=2021-07-01")
    assert answer.status == status


def test_the_client_is_microsofts() -> None:
    assert ContainerServiceClient.__module__.startswith("azure.mgmt.containerservice")
