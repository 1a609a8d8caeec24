"""GPU machines as AKS agent pools: one pool with all machines of a plan, as Azure's REST API takes and shows it.

Pure: the body to create, whose a pool is, and what Azure's answers and the Nodes say of its machines. The shape follows
KAITO's gpu-provisioner (kaito-api.md#agent-pools) and sets what that leaves out: mode, tags, spot, zones, driver. It
must never set the label `karpenter.sh/nodepool`: gpu-provisioner deletes pools that have it and a Workspace's label but
no NodeClaim. Names are deterministic; another machine type or zone, which cannot change, has another name. The messages
are Azure's own. Whose a pool is follows from its tag and its node labels alone. It must never talk to a cloud or a
cluster.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from include.contracts.plural import plural
from include.manifests.pods import Manifest, pool_labels, workspace_of
from include.planning import Plan
from include.pools.lost_nodes import standing
from include.pools.nodeclaim import DEFAULT_IMAGE_FAMILY, storage_gib
from include.pools.observed import (
    ObservedPool,
    UnregisteredCapacity,
    group_status,
    node_machine,
)
from include.pools.status import (
    FailureClass,
    PoolStatus,
    Stage,
    classify,
    node_problem,
    node_stage,
)
from include.workspace import Workspace
from include.workspace.api import names
from include.workspace.api.offers import SPOT
from include.workspace.api.selector import node_labels

#: What it makes, as users know it.
KIND = "AgentPool"
#: What a pool was asked for as, where its machine type alone does not tell it.
OFFER_TAG = "kaito-offer"
#: As the annotation kaito.sh/keep; Azure's tag names take no slash.
KEEP_TAG = "kaito-keep"
AGENT_POOL_LABEL = "kubernetes.azure.com/agentpool"
#: The tag that says that this project made a pool; Azure's tag names take no slash.
MANAGED_BY_TAG, MANAGED_BY = "kaito-managed-by", names.FIELD_MANAGER
#: Azure has given up on a pool: nothing happens to it until somebody asks.
ENDED_STATES = frozenset({"Failed", "Canceled"})
LEAVING_STATES = frozenset({"Deleting"})
SUCCEEDED, CREATING = "Succeeded", "Creating"
WORKSPACE_TAG, NAMESPACE_TAG = "kaito-workspace", "kaito-namespace"
RUN_TAG, PURPOSE_TAG = "kaito-run-id", "kaito-pool"
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

AgentPool = Mapping[str, Any]


def properties(pool: AgentPool) -> Mapping[str, Any]:
    return pool.get("properties") or {}


def state(pool: AgentPool) -> str:
    return str(properties(pool).get("provisioningState") or "")


def labels(pool: AgentPool) -> Mapping[str, str]:
    return properties(pool).get("nodeLabels") or {}


def is_ours(pool: AgentPool) -> bool:
    """Whether this project made the pool: its tag says so, and its nodes belong to a Workspace."""
    tagged = (properties(pool).get("tags") or {}).get(MANAGED_BY_TAG) == MANAGED_BY
    return tagged and names.WORKSPACE in labels(pool)


def belongs(pool: AgentPool, wanted: Mapping[str, str]) -> bool:
    """Whether the pool is ours and its nodes have all these labels."""
    return is_ours(pool) and all(labels(pool).get(key) == value for key, value in wanted.items())


def offer(pool: AgentPool) -> str:
    """What the cloud was asked for: the pool's own mark, else its machine type."""
    tags = properties(pool).get("tags") or {}
    return str(tags.get(OFFER_TAG) or properties(pool).get("vmSize") or "")


def machines(pool: AgentPool) -> int:
    """How many machines the pool is meant to have."""
    return int(properties(pool).get("count") or 0)


def nodes_of(pools: Iterable[AgentPool], nodes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The Nodes of the machines of these pools."""
    wanted = {str(pool["name"]) for pool in pools}
    return [n for n in nodes if (n["metadata"].get("labels") or {}).get(AGENT_POOL_LABEL) in wanted]


def failure(pool: AgentPool) -> tuple[str, str]:
    """Azure's code and sentence for a pool that failed."""
    told = (properties(pool).get("status") or {}).get("provisioningError") or {}
    details = [detail for detail in told.get("details") or [] if detail.get("message")]
    message = " ".join([told.get("message") or "", *(detail["message"] for detail in details)]).strip()
    return str(told.get("code") or state(pool)), message or f"Azure says {state(pool)} and no reason"


def unregistered_capacity(pools: Iterable[AgentPool]) -> list[UnregisteredCapacity]:
    """What a ledger has to know of pools whose machines may not all have joined."""
    return [found for pool in pools if (found := _unregistered(pool))]


def _unregistered(pool: AgentPool) -> UnregisteredCapacity | None:
    """A pool that succeeded has no such machines, and one for which Azure had none of them neither."""
    asked = labels(pool).get(names.ASKED_AT) or ""
    if state(pool) == SUCCEEDED or not asked.isdecimal():
        return None
    gave_up = state(pool) in ENDED_STATES
    if gave_up and classify(*failure(pool)) != FailureClass.TRANSIENT:
        return None
    return UnregisteredCapacity(
        pool=str(pool["name"]),
        run=labels(pool).get(names.RUN_ID, ""),
        purpose=labels(pool).get(names.POOL, ""),
        instance_type=str(properties(pool).get("vmSize") or ""),
        since=datetime.fromtimestamp(int(asked), UTC),
        count=machines(pool) if gave_up or state(pool) == CREATING else 0,
    )


def _pool_problem(
    pool: AgentPool, nodes: Sequence[Mapping[str, Any]]
) -> tuple[FailureClass, str, str] | None:
    """Return (class, reason, message) of the first thing that is not done, None when the pool is ready."""
    name, wanted = pool["name"], machines(pool)
    if state(pool) in ENDED_STATES:
        code, message = failure(pool)
        return classify(code, message), code, f"AgentPool {name}: {message}"
    members = nodes_of([pool], nodes)
    if len(members) < wanted:
        sentence = f"AgentPool {name} is {state(pool)}: {len(members)} of {plural(wanted, 'node')} joined the cluster"
        return FailureClass.TRANSIENT, "NodeNotReady", sentence
    for node in members:
        if problem := node_problem(node):
            return classify(*problem), *problem
    return None


def observed(
    pool: AgentPool, nodes: Iterable[Mapping[str, Any]], now: datetime | None = None
) -> ObservedPool:
    """An agent pool and the Nodes of its machines."""
    members, tags = nodes_of([pool], nodes), properties(pool).get("tags") or {}
    leaving = state(pool) in LEAVING_STATES
    return ObservedPool(
        provider=names.ProviderName.AKS,
        kind=KIND,
        name=str(pool["name"]),
        workspace=(
            labels(pool).get(names.WORKSPACE_NAMESPACE) or "",
            labels(pool).get(names.WORKSPACE) or "",
        ),
        purpose=labels(pool).get(names.POOL) or "",
        run=labels(pool).get(names.RUN_ID) or "",
        status=_status(pool, members),
        machines=tuple(node_machine(node) for node in members),
        version=str(properties(pool).get("eTag") or ""),
        instance_type=str(properties(pool).get("vmSize") or ""),
        size=_size(pool, members, now or datetime.now(UTC)),
        details=state(pool),
        deleting=f"its state is {state(pool)}" if leaving else "",
        keep=tags.get(KEEP_TAG) == "true",
        component=labels(pool).get(names.COMPONENT) or "",
        unregistered=_unregistered(pool),
        mark="" if is_ours(pool) else f"our tag {MANAGED_BY_TAG}",
    )


def agent_pool_status(pools: Sequence[AgentPool], nodes: Iterable[Mapping[str, Any]]) -> PoolStatus:
    """Judge a Workspace's agent pools of one purpose and the cluster's Nodes."""
    listed = list(nodes)
    return group_status([observed(pool, listed) for pool in pools], KIND)


def _size(pool: AgentPool, members: Sequence[Mapping[str, Any]], now: datetime) -> int:
    """How many machines a pool has or is to get.

    One that Azure is working on has those that it is to get; any other one those that have joined and report, since
    Azure does not replace by itself a machine that died or was evicted.
    """
    if state(pool) not in ENDED_STATES | {SUCCEEDED}:
        return machines(pool)
    return min(machines(pool), len(standing(members, now)))


def _status(pool: AgentPool, members: Sequence[Mapping[str, Any]]) -> PoolStatus:
    names_ = tuple(sorted(node["metadata"]["name"] for node in members))
    problem = _pool_problem(pool, members)
    if problem is None:
        sentence = f"{plural(len(names_), 'GPU node')} ready: {', '.join(names_)}"
        return PoolStatus(names_, True, "NodesReady", sentence, offer=offer(pool))
    failed, reason, message = problem
    stage = node_stage(reason) if len(members) >= machines(pool) else Stage.LAUNCH
    ended = state(pool) in ENDED_STATES
    return PoolStatus(names_, False, reason, message, failed, ended=ended, stage=stage, offer=offer(pool))


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
    result = {"name": agent_pool_name(workspace.to_dict(), plan, asked), "properties": properties}
    if faults := [*_option_faults(asked), *agent_pool_faults(result)]:
        raise AgentPoolInvalid(faults)
    return result


def _of_the_plan(options: AgentPoolOptions, plan: Plan) -> AgentPoolOptions:
    """The options with what the plan's own offer says: its zone and its terms win."""
    spot = plan.capacity_type == SPOT if plan.capacity_type else options.spot
    return replace(options, spot=spot, zones=(plan.zone,) if plan.zone else options.zones)


def _choices(options: AgentPoolOptions) -> Manifest:
    result: Manifest = {}
    if options.spot:
        result["scaleSetPriority"] = "Spot"
        result["scaleSetEvictionPolicy"] = options.eviction_policy
        result["spotMaxPrice"] = options.spot_max_price
    if options.zones:
        result["availabilityZones"] = list(options.zones)
    if options.subnet_id:
        result["vnetSubnetID"] = options.subnet_id
    return result


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
