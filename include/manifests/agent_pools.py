"""GPU pools as AKS agent pools: one pool with all machines of a plan, as the body that Azure's REST API takes.

The shape follows KAITO's gpu-provisioner (kaito-api.md#agent-pools) and sets what that leaves out: mode, tags, spot,
zones, driver. It must never set the label `karpenter.sh/nodepool`: gpu-provisioner deletes pools that have it and a
Workspace's label but no NodeClaim. Names are deterministic; another machine type or zone, which cannot change, has
another name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from include.manifests.pods import Manifest, pool_labels, workspace_of
from include.manifests.pools import DEFAULT_IMAGE_FAMILY, storage_gib
from include.planning import Plan
from include.workspace import Workspace
from include.workspace.api import names
from include.workspace.api.offers import SPOT
from include.workspace.api.selector import node_labels

MANAGED_BY_TAG, MANAGED_BY = "kaito-managed-by", names.FIELD_MANAGER  # include.pools.aks reads it
WORKSPACE_TAG, NAMESPACE_TAG = "kaito-workspace", "kaito-namespace"
RUN_TAG, PURPOSE_TAG = "kaito-run-id", "kaito-pool"
OFFER_TAG = "kaito-offer"  # include.pools.aks reads it
MACHINE_TYPE_LABEL = "kaito.sh/machine-type"
TAINTS = ("sku=gpu:NoSchedule",)
OS_SKUS = {"ubuntu": "Ubuntu", "azurelinux": "AzureLinux"}
NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
MAX_COUNT, MAX_DISK_GB = 1000, 2048
EVICTION_POLICIES, GPU_DRIVERS = ("Delete", "Deallocate"), ("Install", "None")
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_RESERVED_PREFIX = "kubernetes.azure.com"
_TAG_FORBIDDEN = "<>%&\\?/"


@dataclass(frozen=True, slots=True)
class AgentPoolOptions:
    """What an installation or a retry decides about a pool, beyond the plan.

    `spot_max_price` is in US dollars an hour, -1 up to the on-demand price. `zones` are Azure's ("1", "2", "3"); none
    lets Azure place the machines. `gpu_driver` "None" is for clusters whose GPU operator brings the driver.
    `subnet_id` is the resource id of the nodes' subnet, needed where the cluster has a BYO network.
    """

    spot: bool = False
    eviction_policy: str = "Delete"
    spot_max_price: float = -1.0
    zones: tuple[str, ...] = ()
    gpu_driver: str = "Install"
    subnet_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


class AgentPoolInvalid(ValueError):
    """AKS would refuse this pool; `faults` has one sentence for each reason."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(" ".join(faults))
        self.faults = faults


def agent_pool_name(workspace: Mapping[str, Any], plan: Plan, options: AgentPoolOptions) -> str:
    """11 characters, the same at every attempt for the same machines: `ws` and nine hex digits."""
    meta = workspace["metadata"]
    price = f"{options.spot_max_price:g}" if options.spot else "on-demand"
    parts = (
        names.namespace(workspace),
        meta["name"],
        meta.get("uid", ""),
        names.generation(workspace),
        plan.purpose,
        plan.instance_type,
        price,
        ",".join(options.zones),
    )
    return "ws" + hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:9]


def agent_pool(
    ws: Workspace | Mapping[str, Any], plan: Plan, run_id: str, options: AgentPoolOptions | None = None
) -> Manifest:
    """The pool of a plan: `name`, and `properties` as the REST API spells them.

    :raises AgentPoolInvalid: AKS would refuse it; all reasons at once.
    """
    workspace, asked = workspace_of(ws), _of_the_plan(options or AgentPoolOptions(), plan)
    run = names.run_id_label(run_id)
    family = workspace.annotations.get(names.NODE_IMAGE_FAMILY, DEFAULT_IMAGE_FAMILY).strip().lower()
    properties: Manifest = {
        "type": "VirtualMachineScaleSets",
        "mode": "User",
        "osType": "Linux",
        "osSKU": OS_SKUS.get(family, OS_SKUS[DEFAULT_IMAGE_FAMILY]),
        "vmSize": plan.instance_type,
        "count": plan.node_count,
        "enableAutoScaling": False,
        "osDiskSizeGB": storage_gib(plan),
        "gpuProfile": {"driver": asked.gpu_driver},
        "nodeLabels": {
            **node_labels(workspace),
            **pool_labels(workspace, plan.purpose),
            names.COMPONENT: "pool",
            names.RUN_ID: run,
            MACHINE_TYPE_LABEL: "gpu",
        },
        "nodeTaints": list(TAINTS),
        "tags": {
            **asked.tags,
            MANAGED_BY_TAG: MANAGED_BY,
            WORKSPACE_TAG: workspace.name,
            NAMESPACE_TAG: workspace.namespace,
            PURPOSE_TAG: plan.purpose,
            RUN_TAG: run,
            **({OFFER_TAG: plan.offer} if plan.offer != plan.instance_type else {}),
        },
        **_choices(asked),
    }
    found = {"name": agent_pool_name(workspace.to_dict(), plan, asked), "properties": properties}
    if faults := [*_option_faults(asked), *agent_pool_faults(found)]:
        raise AgentPoolInvalid(faults)
    return found


def _of_the_plan(options: AgentPoolOptions, plan: Plan) -> AgentPoolOptions:
    """The options with what the plan's own offer says: its zone and its terms win."""
    spot = plan.capacity_type == SPOT if plan.capacity_type else options.spot
    return replace(options, spot=spot, zones=(plan.zone,) if plan.zone else options.zones)


def _choices(options: AgentPoolOptions) -> Manifest:
    found: Manifest = {}
    if options.spot:
        found["scaleSetPriority"] = "Spot"
        found["scaleSetEvictionPolicy"] = options.eviction_policy
        found["spotMaxPrice"] = options.spot_max_price
    if options.zones:
        found["availabilityZones"] = list(options.zones)
    if options.subnet_id:
        found["vnetSubnetID"] = options.subnet_id
    return found


def _option_faults(options: AgentPoolOptions) -> list[str]:
    faults = []
    if options.spot and options.eviction_policy not in EVICTION_POLICIES:
        faults.append(
            f"The eviction policy must be one of {', '.join(EVICTION_POLICIES)}, not {options.eviction_policy!r}."
        )
    if options.spot and options.spot_max_price != -1 and not 0 < options.spot_max_price < float("inf"):
        faults.append(
            "The spot price limit must be US dollars an hour above 0, or -1 for the on-demand price, "
            f"not {options.spot_max_price:g}."
        )
    if options.gpu_driver not in GPU_DRIVERS:
        faults.append(f"The GPU driver must be one of {', '.join(GPU_DRIVERS)}, not {options.gpu_driver!r}.")
    faults += [
        f"Zone {zone!r} is not an availability zone of Azure: they are '1', '2' and '3'."
        for zone in options.zones
        if zone not in ("1", "2", "3")
    ]
    return faults


def agent_pool_faults(pool: Manifest) -> list[str]:
    """Why AKS would refuse a pool, one sentence for each reason; empty when it would not."""
    name, properties = str(pool.get("name") or ""), pool["properties"]
    faults = []
    if not NAME.fullmatch(name):
        faults.append(
            f"Agent pool name {name!r} must be a small letter followed by at most 11 small letters and digits."
        )
    if not str(properties.get("vmSize") or "").startswith("Standard_"):
        faults.append(
            f"vmSize {properties.get('vmSize')!r} is not an Azure machine type: those start with Standard_."
        )
    if not 1 <= properties["count"] <= MAX_COUNT:
        faults.append(f"A pool has between 1 and {MAX_COUNT} machines, not {properties['count']}.")
    if properties["osDiskSizeGB"] > MAX_DISK_GB:
        faults.append(
            f"The model needs a disk of {properties['osDiskSizeGB']} GiB; AKS gives a machine up to {MAX_DISK_GB}."
        )
    for key, value in properties["nodeLabels"].items():
        faults += _label_faults(key, value)
    for key, value in properties["tags"].items():
        if not key or len(key) > 512 or len(value) > 256 or any(char in _TAG_FORBIDDEN for char in key):
            faults.append(
                f"Azure takes no tag {key!r} = {value!r}: a name has up to 512 characters and none of "
                f"{_TAG_FORBIDDEN}, a value up to 256."
            )
    return faults


def _label_faults(key: str, value: str) -> list[str]:
    prefix, slash, name = key.rpartition("/")
    faults = []
    if not _LABEL_NAME.fullmatch(name) or (slash and not _LABEL_PREFIX.fullmatch(prefix)):
        faults.append(f"Node label {key!r} is not a Kubernetes label name.")
    if value and not _LABEL_NAME.fullmatch(value):
        faults.append(
            f"Node label {key} has the value {value!r}: Kubernetes takes up to 63 letters, digits, '.', '_' and '-'."
        )
    if prefix == _RESERVED_PREFIX:
        faults.append(f"Node label {key} is AKS's own: labels below {_RESERVED_PREFIX} cannot be set.")
    return faults
