"""The one subscription, resource group and managed cluster that the sandbox's Azure has, and what it says of them.

Names are case-insensitive, as in Azure. The quota is large: a fault makes it small.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterable
from typing import Any

from include.catalog import load_catalog
from sandbox.arm.schema import ZONES
from sandbox.arm.state import Pool
from sandbox.cloud.nodes import REGION
from sandbox.faults import FaultKind, Faults
from sandbox.node.machine import KUBELET_VERSION

Json = dict[str, Any]

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
GROUP, CLUSTER, LOCATION = "sandbox", "sandbox", REGION
NODE_GROUP = f"MC_{GROUP}_{CLUSTER}_{LOCATION}"
CONTAINER_SERVICE = ("2026-08-01",)
COMPUTE = ("2021-07-01", "2024-07-01", "2026-04-01")
CLUSTER_ID = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.ContainerService"
    f"/managedClusters/{CLUSTER}"
)
KUBERNETES = KUBELET_VERSION.removeprefix("v")
VCPU_LIMIT = 1_000_000
SYSTEM_POOL = "nodepool1"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def vcpus(instance_type: str) -> int:
    """The virtual CPUs that a size's name says: 24 of Standard_NC24ads_A100_v4."""
    result = re.search(r"\d+", instance_type)
    return int(result[0]) if result else 1


def family(instance_type: str) -> str:
    """The quota family of a size, spelt like Azure's: standardNCADSA100v4Family of Standard_NC24ads_A100_v4."""
    size, *rest = instance_type.removeprefix("Standard_").split("_")
    letters = re.sub(r"\d+", "", size).upper()
    return "standard" + letters + "".join(rest) + "Family"


def node_image(properties: Json) -> str:
    linux = str(properties.get("osSKU") or "").lower().startswith("azure")
    return "AKSAzureLinux-V3gen2-202611.10.0" if linux else "AKSUbuntu-2204gen2containerd-202611.10.0"


def cluster_number() -> str:
    """The eight digits that all scale sets of one cluster share."""
    return f"{zlib.crc32(CLUSTER_ID.encode()) % 10**8:08d}"


def scale_set(pool: str) -> str:
    return f"aks-{pool}-{cluster_number()}-vmss"


def machine_name(pool: str, index: int) -> str:
    """aks-<pool>-<8 digits>-vmss00000N, N in base 36 as scale sets count."""
    digits = ""
    while index:
        index, digit = divmod(index, 36)
        digits = _DIGITS[digit] + digits
    return scale_set(pool) + digits.rjust(6, "0")


def pool_properties(pool: Pool) -> Json:
    """The `properties` of a pool as a GET shows them: those that were asked for, Azure's defaults, and the state."""
    spot = {"scaleSetEvictionPolicy": "Delete", "spotMaxPrice": -1.0} if pool.spot else {}
    asked = pool.properties
    result: Json = {
        "osDiskSizeGB": 128,
        "osDiskType": "Managed",
        "kubeletDiskType": "OS",
        "maxPods": 110,
        "type": "VirtualMachineScaleSets",
        "scaleDownMode": "Delete",
        "powerState": {"code": "Running"},
        "orchestratorVersion": KUBERNETES,
        "mode": "User",
        "osType": "Linux",
        "osSKU": "Ubuntu",
        "enableAutoScaling": False,
        "enableNodePublicIP": False,
        "enableFIPS": False,
        **spot,
        **{field: value for field, value in asked.items() if value not in ("", [])},
        "count": pool.count,
        "currentOrchestratorVersion": asked.get("orchestratorVersion") or KUBERNETES,
        "nodeImageVersion": node_image(asked),
        "provisioningState": pool.state,
        "eTag": pool.etag,
    }
    if pool.spot:
        taint = "kubernetes.azure.com/scalesetpriority=spot:NoSchedule"
        result["nodeTaints"] = list(dict.fromkeys([taint, *(asked.get("nodeTaints") or [])]))
        label = {"kubernetes.azure.com/scalesetpriority": "spot"}
        result["nodeLabels"] = {**label, **(asked.get("nodeLabels") or {})}
    if pool.error:
        result["status"] = {"provisioningError": pool.error}
    return result


def pool_resource(pool: Pool) -> Json:
    return {
        "id": f"{CLUSTER_ID}/agentPools/{pool.name}",
        "name": pool.name,
        "type": "Microsoft.ContainerService/managedClusters/agentPools",
        "properties": pool_properties(pool),
    }


def system_pool() -> Pool:
    """The pool that every cluster has; its machine is the sandbox's own node, which no operation touches."""
    properties = {"count": 1, "vmSize": "Standard_D8s_v5", "mode": "System"}
    return Pool(SYSTEM_POOL, properties, state="Succeeded", etag="11111111-1111-1111-1111-111111111111")


def cluster_resource(pools: Iterable[Pool], busy: Pool | None) -> Json:
    return {
        "id": CLUSTER_ID,
        "name": CLUSTER,
        "type": "Microsoft.ContainerService/managedClusters",
        "location": LOCATION,
        "tags": {},
        "eTag": "22222222-2222-2222-2222-222222222222",
        "identity": {"type": "SystemAssigned", "principalId": SUBSCRIPTION, "tenantId": SUBSCRIPTION},
        "sku": {"name": "Base", "tier": "Standard"},
        "properties": {
            "provisioningState": "Updating" if busy else "Succeeded",
            "powerState": {"code": "Running"},
            "kubernetesVersion": KUBERNETES,
            "currentKubernetesVersion": KUBERNETES,
            "dnsPrefix": CLUSTER,
            "fqdn": "sandbox.hcp.sandbox.azmk8s.io",
            "nodeResourceGroup": NODE_GROUP,
            "maxAgentPools": 100,
            "enableRBAC": True,
            "agentPoolProfiles": [{"name": pool.name, **pool_properties(pool)} for pool in pools],
        },
    }


def _usage(name: str, shown: str, current: int, limit: int) -> Json:
    return {
        "limit": limit,
        "unit": "Count",
        "currentValue": current,
        "name": {"value": name, "localizedValue": shown},
    }


def usages(pools: Collection[Pool], faults: Faults) -> list[Json]:
    """Microsoft.Compute's usages of the location; a quota fault shows as a limit that is reached."""
    used: dict[str, int] = {}
    total = 0
    for pool in pools:
        cores = vcpus(pool.instance_type) * len(pool.machines)
        total += cores
        used[family(pool.instance_type)] = used.get(family(pool.instance_type), 0) + cores
    spot = sum(vcpus(pool.instance_type) * len(pool.machines) for pool in pools if pool.spot)
    result = [
        _usage("cores", "Total Regional vCPUs", total, VCPU_LIMIT),
        _usage("lowPriorityCores", "Total Regional Low-priority vCPUs", spot, VCPU_LIMIT),
    ]
    short = {family(name) for name in _azure_sizes() if faults.peek(FaultKind.QUOTA, name)}
    for name in dict.fromkeys(family(size) for size in _azure_sizes()):
        limit = used.get(name, 0) if name in short else VCPU_LIMIT
        result.append(_usage(name, f"Standard {name[8:-6]} Family vCPUs", used.get(name, 0), limit))
    return result


def skus(faults: Faults) -> list[Json]:
    """Microsoft.Compute's sizes of the location, with the restrictions that a fault puts on them."""
    result = []
    for name in _azure_sizes():
        machine = load_catalog().machine(name)
        restricted = faults.peek(FaultKind.SKU, name)
        result.append(
            {
                "resourceType": "virtualMachines",
                "name": name,
                "tier": "Standard",
                "size": name.removeprefix("Standard_"),
                "family": family(name),
                "locations": [LOCATION],
                "locationInfo": [{"location": LOCATION, "zones": list(ZONES), "zoneDetails": []}],
                "capabilities": [
                    {"name": "vCPUs", "value": str(vcpus(name))},
                    {"name": "GPUs", "value": str(machine.gpu_count)},
                    {"name": "LowPriorityCapable", "value": "True"},
                ],
                "restrictions": [_restriction()] if restricted else [],
            }
        )
    return result


def _restriction() -> Json:
    where = {"locations": [LOCATION]}
    return {
        "type": "Location",
        "values": [LOCATION],
        "restrictionInfo": where,
        "reasonCode": "NotAvailableForSubscription",
    }


def _azure_sizes() -> list[str]:
    return [name for name in load_catalog().machine_names() if name.startswith("Standard_")]
