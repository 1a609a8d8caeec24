"""The properties of an agent pool on the wire: names, types, enumerations and limits of API version 2026-08-01.

What is unknown or of the wrong type is refused as the service refuses it, so that a client cannot rely on a property
that Azure does not have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sandbox.arm.errors import ArmError, invalid_parameter, unmarshal

Json = dict[str, Any]

TEXT, WHOLE, NUMBER, SWITCH, OBJECT, TEXTS, MAP, OBJECTS = (
    "string",
    "int32",
    "float64",
    "bool",
    "object",
    "[]string",
    "map[string]string",
    "[]object",
)
#: Everything that AgentPool.properties may hold; the sandbox keeps what it does not act on.
PROPERTIES: Mapping[str, str] = {
    **dict.fromkeys(("count", "osDiskSizeGB", "maxPods", "maxCount", "minCount"), WHOLE),
    **dict.fromkeys(
        ("vmSize", "osDiskType", "kubeletDiskType", "workloadRuntime", "messageOfTheDay", "vnetSubnetID"),
        TEXT,
    ),
    **dict.fromkeys(("podSubnetID", "podIPAllocationMode", "osType", "osSKU", "scaleDownMode", "type"), TEXT),
    **dict.fromkeys(("mode", "orchestratorVersion", "nodeImageVersion", "nodePublicIPPrefixID"), TEXT),
    **dict.fromkeys(("scaleSetPriority", "scaleSetEvictionPolicy", "proximityPlacementGroupID"), TEXT),
    **dict.fromkeys(("gpuInstanceProfile", "capacityReservationGroupID", "hostGroupID"), TEXT),
    **dict.fromkeys(("eTag", "currentOrchestratorVersion", "provisioningState"), TEXT),
    **dict.fromkeys(
        ("enableAutoScaling", "enableNodePublicIP", "enableEncryptionAtHost", "enableUltraSSD", "enableFIPS"),
        SWITCH,
    ),
    **dict.fromkeys(("availabilityZones", "nodeTaints"), TEXTS),
    **dict.fromkeys(("tags", "nodeLabels"), MAP),
    **dict.fromkeys(
        ("upgradeSettings", "powerState", "kubeletConfig", "linuxOSConfig", "creationData"), OBJECT
    ),
    **dict.fromkeys(("networkProfile", "windowsProfile", "securityProfile", "gpuProfile"), OBJECT),
    **dict.fromkeys(("gatewayProfile", "artifactStreamingProfile", "virtualMachinesProfile"), OBJECT),
    **dict.fromkeys(("status", "localDNSProfile"), OBJECT),
    "virtualMachineNodesStatus": OBJECTS,
    "spotMaxPrice": NUMBER,
}
READ_ONLY = ("eTag", "currentOrchestratorVersion", "provisioningState", "status")
ENUMS: Mapping[str, tuple[str, ...]] = {
    "osType": ("Linux", "Windows"),
    "osSKU": (
        "Ubuntu",
        "AzureLinux",
        "AzureLinux3",
        "CBLMariner",
        "Windows2019",
        "Windows2022",
        "Ubuntu2204",
        "Windows2025",
        "Ubuntu2404",
        "AzureContainerLinux",
    ),
    "mode": ("System", "User", "Gateway"),
    "type": ("VirtualMachineScaleSets", "AvailabilitySet", "VirtualMachines"),
    "scaleSetPriority": ("Spot", "Regular"),
    "scaleSetEvictionPolicy": ("Delete", "Deallocate"),
    "scaleDownMode": ("Delete", "Deallocate"),
    "osDiskType": ("Managed", "Ephemeral"),
    "kubeletDiskType": ("OS", "Temporary"),
    "workloadRuntime": ("OCIContainer", "WasmWasi", "KataVmIsolation"),
    "podIPAllocationMode": ("DynamicIndividual", "StaticBlock"),
    "gpuInstanceProfile": ("MIG1g", "MIG2g", "MIG3g", "MIG4g", "MIG7g"),
}
GPU_DRIVERS = ("Install", "None")
POWER_STATES = ("Running", "Stopped")
NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
MAX_COUNT, MAX_DISK_GB, MAX_WINDOWS_NAME = 1000, 2048, 6
ZONES = ("1", "2", "3")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_TAINT = re.compile(r"(?P<key>[^=:]+)(=(?P<value>[^=:]*))?:(?P<effect>[A-Za-z]+)")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_TAG_FORBIDDEN = set("<>%&\\?/")
_FIELD = "agentPoolProfile"
#: AKS's own, which a client may send back as it has read them.
OWN_KEYS = frozenset({"kubernetes.azure.com/scalesetpriority"})


def _fits(value: object, type_: str) -> bool:
    match type_:
        case "string":
            return isinstance(value, str)
        case "int32":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float64":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "bool":
            return isinstance(value, bool)
        case "[]string":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case "[]object":
            return isinstance(value, list) and all(isinstance(item, dict) for item in value)
        case "map[string]string":
            return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    return isinstance(value, dict)


def _go_kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    kinds = ((str, "string"), (list, "array"), (dict, "object"))
    return next((name for type_, name in kinds if isinstance(value, type_)), "null")


def read_properties(body: object) -> Json:
    """The properties that a PUT asks for, spelt as Azure spells enumerations, without nulls and read-only ones.

    :raises ArmError: 400 with the first thing that is wrong.
    """
    if not isinstance(body, dict):
        raise unmarshal(f"cannot unmarshal {_go_kind(body)} into Go value of type AgentPool")
    for field in body:
        if field not in ("id", "name", "type", "properties", "systemData"):
            raise unmarshal(f'unknown field "{field}"')
    given = body.get("properties")
    if not isinstance(given, dict):
        raise invalid_parameter(f"{_FIELD}.properties", "properties are required")
    result: Json = {}
    for field, value in given.items():
        if field not in PROPERTIES:
            raise unmarshal(f'unknown field "{field}"')
        if value is None or field in READ_ONLY:
            continue
        if not _fits(value, PROPERTIES[field]):
            into = f"Go struct field Properties.properties.{field} of type {PROPERTIES[field]}"
            raise unmarshal(f"cannot unmarshal {_go_kind(value)} into {into}")
        result[field] = _enumerated(field, value)
    return result


def _enumerated(field: str, value: object) -> Any:
    known = ENUMS.get(field)
    if known is None:
        return value
    spelt = next((name for name in known if name.lower() == str(value).lower()), None)
    if spelt is None:
        raise invalid_parameter(f"{_FIELD}.{field}", f"'{value}' is not one of {', '.join(known)}")
    return spelt


def check_name(name: str, properties: Mapping[str, Any]) -> None:
    if not NAME.fullmatch(name):
        why = (
            f"Agentpool name '{name}' has to match the regular expression '^[a-z][a-z0-9]{{0,11}}$'. "
            "Please see https://aka.ms/aks-naming-rules for more details"
        )
        raise invalid_parameter(f"{_FIELD}.name", why)
    if properties.get("osType") == "Windows" and len(name) > MAX_WINDOWS_NAME:
        why = f"Windows agent pool name '{name}' can be at most {MAX_WINDOWS_NAME} characters"
        raise invalid_parameter(f"{_FIELD}.name", why)


def check_properties(properties: Json) -> None:
    """Refuse what no agent pool can have. Raises ArmError (400) with the first fault, as the service does."""
    least = 1 if properties.get("mode") == "System" else 0
    count = properties.get("count", 1)
    if not least <= count <= MAX_COUNT:
        raise invalid_parameter(f"{_FIELD}.count", f"count {count} is not between {least} and {MAX_COUNT}")
    disk = properties.get("osDiskSizeGB", 0)
    if disk and not 30 <= disk <= MAX_DISK_GB:
        raise invalid_parameter(
            f"{_FIELD}.osDiskSizeGB", f"{disk} is neither 0 nor between 30 and {MAX_DISK_GB}"
        )
    _check_zones(properties)
    _check_spot(properties)
    power = (properties.get("powerState") or {}).get("code")
    if power not in (None, *POWER_STATES):
        raise invalid_parameter(f"{_FIELD}.powerState.code", f"'{power}' is not one of Running, Stopped")
    driver = (properties.get("gpuProfile") or {}).get("driver")
    if driver is not None and driver not in GPU_DRIVERS:
        raise invalid_parameter(f"{_FIELD}.gpuProfile.driver", f"'{driver}' is not one of Install, None")
    for key, value in (properties.get("nodeLabels") or {}).items():
        _check_label(f"{_FIELD}.nodeLabels", key, value)
    for text in properties.get("nodeTaints") or []:
        read_taint(text)
    _check_tags(properties)


def _check_zones(properties: Json) -> None:
    for zone in properties.get("availabilityZones") or []:
        if zone not in ZONES:
            known = ",".join(f"'{known}'" for known in ZONES)
            message = f"The zone(s) '{zone}' for resource 'agentpool' is not supported. The supported zones are {known}"
            raise ArmError(400, "AvailabilityZoneNotSupported", message, target=f"{_FIELD}.availabilityZones")


def _check_tags(properties: Json) -> None:
    for key, value in (properties.get("tags") or {}).items():
        if not key or len(key) > 512 or len(value) > 256 or _TAG_FORBIDDEN & set(key):
            message = f"The tag name '{key}' is too long or has reserved characters '<,>,%,&,\\,?,/'."
            raise ArmError(400, "InvalidTagNameCharacters", message, target=f"{_FIELD}.tags")


def _check_spot(properties: Json) -> None:
    spot = properties.get("scaleSetPriority") == "Spot"
    for field in ("scaleSetEvictionPolicy", "spotMaxPrice"):
        if field in properties and not spot:
            raise invalid_parameter(
                f"{_FIELD}.{field}", f"{field} can only be set when scaleSetPriority is Spot"
            )
    price = properties.get("spotMaxPrice", -1)
    if spot and price != -1 and price <= 0:
        raise invalid_parameter(f"{_FIELD}.spotMaxPrice", f"{price} is neither -1 nor greater than zero")
    if spot and properties.get("mode") == "System":
        raise invalid_parameter(f"{_FIELD}.scaleSetPriority", "a system pool cannot be a spot pool")


def _check_label(field: str, key: str, value: str) -> None:
    prefix, slash, name = key.rpartition("/")
    if not _LABEL_NAME.fullmatch(name) or (slash and not _PREFIX.fullmatch(prefix)):
        raise invalid_parameter(field, f"label key '{key}' is not a qualified Kubernetes name")
    if value and not _LABEL_NAME.fullmatch(value):
        raise invalid_parameter(
            field, f"label value '{value}' of '{key}' is not a Kubernetes label value (63 characters)"
        )
    if prefix == "kubernetes.azure.com" and key not in OWN_KEYS:
        raise invalid_parameter(
            field, f"label key '{key}' has the prefix kubernetes.azure.com, which is reserved for AKS"
        )


def read_taint(text: str) -> Json:
    """`key=value:Effect` as a Node carries it. Raises ArmError (400)."""
    result = _TAINT.fullmatch(text)
    if result is None or result["effect"] not in _EFFECTS:
        raise invalid_parameter(
            f"{_FIELD}.nodeTaints",
            f"'{text}' is not key=value:Effect, with Effect one of {', '.join(_EFFECTS)}",
        )
    _check_label(f"{_FIELD}.nodeTaints", result["key"], result["value"] or "")
    taint: Json = {"key": result["key"], "effect": result["effect"]}
    return {**taint, "value": result["value"]} if result["value"] else taint
