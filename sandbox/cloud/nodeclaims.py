"""The NodeClaim controller: karpenter's life of a claim, with simulated machines in place of an Azure scale set.

Launched -> Registered -> Initialized -> Ready; a deleted claim drains its Node, removes it and only then lets go of its
finalizer. It must never remove a Node of a living machine before its pods have ended.
"""

from __future__ import annotations

import time
import zlib
from typing import Any, ClassVar

from sandbox.cloud.crds import NODECLAIMS
from sandbox.cloud.ledger import Ledger
from sandbox.cloud.machines import MachineType, UnknownMachine, find_machine_type
from sandbox.cloud.nodes import BOOTING_SHARE, INSTANCE_TYPE, REGION, NodeLife, capacity_fault
from sandbox.controllers.ownership import (
    condition_of,
    is_finished,
    is_terminating,
    owner_reference,
    seconds_since,
    set_condition,
)
from sandbox.controllers.reconciler import Controller, Feeds, Key, Object, read, remove
from sandbox.controllers.volume_binding import DISK_ZONE
from sandbox.faults import Fault, FaultKind, Faults
from sandbox.layout import Timings
from sandbox.node import machine

FINALIZER = "karpenter.sh/termination"
DISRUPTED = {"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}
CAPACITY_TYPE, SPOT, ON_DEMAND = "karpenter.sh/capacity-type", "spot", "on-demand"
REGION_LABEL, ZONE_LABEL = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"
TYPES = ("Launched", "Registered", "Initialized")
NO_MACHINES = "AllocationFailed"
FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0


class LaunchProblem(Exception):
    """The cloud refused; the message is the cloud's."""


def instance_type_of(claim: Object) -> str:
    """The first value of the requirement on the instance type; raises LaunchProblem without one."""
    for requirement in claim["spec"].get("requirements") or []:
        if requirement["key"] == INSTANCE_TYPE and requirement.get("values"):
            return str(requirement["values"][0])
    raise LaunchProblem(f"the claim has no requirement {INSTANCE_TYPE} with a value")


def zone_of(claim: Object) -> str:
    """The zone that karpenter is asked for (`sandbox-2`), "" for none; gpu-provisioner passes over it."""
    for requirement in claim["spec"].get("requirements") or []:
        if _in_node_pool(claim) and requirement["key"] == ZONE_LABEL and requirement.get("values"):
            return str(requirement["values"][0])
    return ""


def place(claim: Object) -> dict[str, str]:
    """The labels that say where the claim's machine is."""
    return {REGION_LABEL: REGION, ZONE_LABEL: zone_of(claim) or f"{REGION}-1"}


def _in_node_pool(claim: Object) -> bool:
    """Whether karpenter made the claim for a NodePool, rather than KAITO for gpu-provisioner."""
    return any(o.get("kind") == "NodePool" for o in claim["metadata"].get("ownerReferences") or [])


def capacity_type_of(claim: Object) -> str:
    """Spot where karpenter is asked for it; gpu-provisioner passes over that requirement."""
    if _in_node_pool(claim):
        for requirement in claim["spec"].get("requirements") or []:
            if requirement["key"] == CAPACITY_TYPE and SPOT in (requirement.get("values") or []):
                return SPOT
    return ON_DEMAND


def node_name(claim: Object) -> str:
    if _in_node_pool(claim):
        return f"aks-{claim['metadata']['name']}"
    number = zlib.crc32(claim["metadata"]["uid"].encode()) % 10**8
    return f"aks-{claim['metadata']['name']}-{number:08d}-vmss000000"


def provider_id(claim: Object) -> str:
    if _in_node_pool(claim):
        return (
            "azure:///subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/mc_sandbox/providers/"
            f"Microsoft.Compute/virtualMachines/{node_name(claim)}"
        )
    vmss = node_name(claim).removesuffix("000000")
    return (
        "azure:///subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/mc_sandbox/providers/"
        f"Microsoft.Compute/virtualMachineScaleSets/{vmss}/virtualMachines/0"
    )


def build_node(claim: Object, type_: MachineType) -> Object:
    """The claim's Node as the cloud registers it: labels and taints of the claim, finalizer, owner."""
    name = claim["metadata"]["name"]
    pool = {"agentpool": name, "kubernetes.azure.com/agentpool": name, "kaito.sh/machine-type": "gpu"}
    labels = {
        **(claim["metadata"].get("labels") or {}),
        INSTANCE_TYPE: type_.name,
        **({} if _in_node_pool(claim) else pool),
        **({"accelerator": "nvidia"} if type_.resource == "nvidia.com/gpu" else {}),
        "karpenter.sh/registered": "true",
        **place(claim),
        DISK_ZONE: zone_of(claim),
    }
    spec = claim["spec"]
    taints = [*(spec.get("taints") or []), *(spec.get("startupTaints") or [])]
    node = machine.build_node(node_name(claim), name, labels, taints=taints, provider_id=provider_id(claim))
    node["metadata"]["finalizers"] = [FINALIZER]
    owner = owner_reference(claim, "karpenter.sh/v1", "NodeClaim")
    node["metadata"]["ownerReferences"] = [{k: v for k, v in owner.items() if k != "controller"}]
    return node


def refusal(faults: Faults, claim: Object, instance_type: str) -> str | None:
    """What the cloud answers instead of a machine, in Azure's words, when such a fault is set."""
    name, spot = claim["metadata"]["name"], capacity_type_of(claim) == SPOT
    asked = f'creating instance failed, agentPool.BeginCreateOrUpdate for "{name}" failed: '
    if fault := capacity_fault(faults, FaultKind.QUOTA, instance_type, spot=spot):
        message = f"Insufficient regional vcpu quota left for location sandbox: {instance_type} needs more than is left"
        return f"{asked}ERROR CODE: ErrCode_InsufficientVCPUQuota. {fault.message or message}"
    if fault := capacity_fault(
        faults, FaultKind.NO_CAPACITY, instance_type, place(claim)[ZONE_LABEL].rpartition("-")[2], spot=spot
    ):
        message = (
            f"We do not have sufficient capacity for the requested VM size {instance_type} in this region"
        )
        return f"{asked}ERROR CODE: {NO_MACHINES}. {fault.message or message}"
    return None


class NodeClaimController(Controller):
    resource: ClassVar[str] = NODECLAIMS
    workers: ClassVar[int] = 4

    def __init__(self, cluster: Any, feeds: Feeds, faults: Faults, ledger: Ledger, timings: Timings) -> None:
        super().__init__(cluster, feeds)
        self._faults = faults
        self._ledger = ledger
        self._timings = timings
        self._seen: dict[str, float] = {}  # claim uid -> when its launch began, finer than a timestamp
        self._refused: dict[str, float] = {}  # claim uid -> pause before the next try
        self._life = NodeLife(
            cluster,
            feeds,
            faults,
            timings,
            owned=lambda node: bool(claims_of(node)),
            changed=lambda node: self._node_changed("SYNC", node),
            notice=DISRUPTED,
        )
        feeds.subscribe("nodes", self._node_changed)
        feeds.subscribe("pods", self._pod_changed)
        for kind in (FaultKind.QUOTA, FaultKind.NO_CAPACITY, FaultKind.SLOW_BOOT):
            faults.listen(kind, self._look_again)

    # --- what wakes it --------------------------------------------------------------------------------------------

    def _node_changed(self, _event: str, node: Object) -> None:
        for name in claims_of(node):
            self.enqueue(("", name))

    def _pod_changed(self, event: str, pod: Object) -> None:
        node = self.feeds.known_one("nodes", ("", pod["spec"].get("nodeName") or ""))
        if (
            node is not None
            and is_terminating_claim(self.feeds, node)
            and (event == "DELETED" or is_finished(pod))
        ):
            self._node_changed(event, node)

    def _look_again(self, _fault: Fault, _active: bool) -> None:
        self._refused.clear()
        for claim in self.feeds.known(NODECLAIMS):
            self.enqueue(("", claim["metadata"]["name"]))

    # --- one claim ------------------------------------------------------------------------------------------------

    async def reconcile(self, key: Key) -> float | None:
        claim = await read(self.cluster, NODECLAIMS, key)
        if claim is None:
            return None
        node = await read(self.cluster, "nodes", ("", node_name(claim)))
        if node is not None:
            node = await self._life.apply_faults(node)
        if is_terminating(claim):
            return await self._terminate(claim, node)
        if FINALIZER not in (claim["metadata"].get("finalizers") or []):
            claim["metadata"]["finalizers"] = [*(claim["metadata"].get("finalizers") or []), FINALIZER]
            claim = await self.cluster.update(NODECLAIMS, claim)
        if node is not None and is_terminating(node):
            await remove(self.cluster, NODECLAIMS, claim)
            return None
        if node is not None and machine.is_lost(node):
            return await self._collect_lost(claim, node)
        return await self._bring_up(claim, node)

    async def _bring_up(self, claim: Object, node: Object | None) -> float | None:
        uid = claim["metadata"]["uid"]
        try:
            type_ = find_machine_type(instance_type_of(claim))
            if not (claim.get("status") or {}).get("providerID"):
                answer = refusal(self._faults, claim, type_.name)
                if answer is not None:
                    raise LaunchProblem(answer)
        except (LaunchProblem, UnknownMachine) as problem:
            if _in_node_pool(claim) and NO_MACHINES in str(problem):
                return await self._give_up(claim, str(problem))
            return await self._refuse(claim, str(problem))
        self._refused.pop(uid, None)
        if node is None and (condition_of(claim, "Registered") or {}).get("status") == "True":
            await remove(
                self.cluster, NODECLAIMS, claim
            )  # its Node was removed by force: the machine goes too
            return None
        if not (claim.get("status") or {}).get("providerID"):
            self._seen[uid] = time.monotonic()
            sizes = {"capacity": type_.capacity, "allocatable": type_.capacity}
            launched = {"providerID": provider_id(claim), "imageID": "sandbox-image", **sizes}
            claim = await self._note(claim, {"Launched": ("True", "Launched", "")}, launched)
            claim = await self._label(claim, type_)
            metadata = claim["metadata"]
            self._ledger.start(node_name(claim), type_.name, metadata["name"], metadata.get("labels") or {})
        return await self._register(claim, node, type_)

    async def _label(self, claim: Object, type_: MachineType) -> Object:
        """What karpenter writes on a launched claim, and its printer columns show."""
        labels = {INSTANCE_TYPE: type_.name, CAPACITY_TYPE: capacity_type_of(claim), **place(claim)}
        return await self.cluster.patch(
            NODECLAIMS, claim["metadata"]["name"], {"metadata": {"labels": labels}}
        )

    async def _register(self, claim: Object, node: Object | None, type_: MachineType) -> float | None:
        """From a launched machine to a Ready claim; returns seconds until the next step."""
        age, boot = self._age(claim), self._life.boot_seconds(type_.name)
        if node is None:
            if age < boot * BOOTING_SHARE:
                missing = ("Unknown", "NodeNotFound", "Node not registered with cluster")
                await self._note(claim, {"Registered": missing, "Initialized": missing})
                return boot * BOOTING_SHARE - age
            node = await self._life.register(build_node(claim, type_), type_.capacity_without_gpus)
        registered = {"Registered": ("True", "Registered", "")}
        ready = (condition_of(node, "Ready") or {}).get("status") == "True"
        if not ready and age < boot:
            waits = {**registered, "Initialized": ("Unknown", "NodeNotReady", "Node status is NotReady")}
            await self._note(claim, waits, {"nodeName": node["metadata"]["name"]})
            return boot - age
        if not ready:
            node = await self._life.boot(node)
            labels = {"metadata": {"labels": {"karpenter.sh/initialized": "true"}}}
            node = await self.cluster.patch("nodes", node["metadata"]["name"], labels)
        await self._note(
            claim,
            {**registered, "Initialized": ("True", "Initialized", "")},
            {"nodeName": node["metadata"]["name"]},
        )
        return await self._life.offer_gpus(node, type_.capacity, age - boot)

    def _age(self, claim: Object) -> float:
        begun = self._seen.get(claim["metadata"]["uid"])
        if begun is not None:
            return time.monotonic() - begun
        return seconds_since(claim["metadata"]["creationTimestamp"])

    async def _refuse(self, claim: Object, message: str) -> float:
        """Launched=Unknown with the cloud's words, as gpu-provisioner leaves it; tried again for ever, ever slower."""
        uid = claim["metadata"]["uid"]
        pause = self._refused[uid] = min(self._refused.get(uid, FIRST_RETRY / 2) * 2, LONGEST_RETRY)
        claim = await self._note(claim, {"Launched": ("Unknown", "LaunchFailed", message[:800])})
        await self.cluster.event(claim, "Warning", "LaunchFailed", message, "gpu-provisioner")
        return pause

    async def _give_up(self, claim: Object, message: str) -> float | None:
        """Karpenter deletes a claim that its cloud has no machine for; the NodePool makes another, for ever."""
        uid = claim["metadata"]["uid"]
        if uid not in self._refused:
            self._refused[uid] = FIRST_RETRY
            claim = await self._note(claim, {"Launched": ("Unknown", "LaunchFailed", message[:800])})
            text = f"NodeClaim {claim['metadata']['name']} event: {message}"
            await self.cluster.event(claim, "Warning", "InsufficientCapacityError", text, "karpenter")
            return FIRST_RETRY
        await remove(self.cluster, NODECLAIMS, claim)
        return None

    # --- the end --------------------------------------------------------------------------------------------------

    async def _terminate(self, claim: Object, node: Object | None) -> float | None:
        """Drain, remove the Node, stop the machine, let the claim go."""
        if FINALIZER not in (claim["metadata"].get("finalizers") or []):
            return None
        if node is not None:
            if not await self._life.drained(node, DISRUPTED, "karpenter"):
                return 1.0
            await self._note(claim, {"InstanceTerminating": ("True", "InstanceTerminating", "")})
            claim = await self.cluster.get(NODECLAIMS, claim["metadata"]["name"])
            await self._life.remove(node)
        self._ledger.stop(node_name(claim))
        self._seen.pop(claim["metadata"]["uid"], None)
        self._refused.pop(claim["metadata"]["uid"], None)
        claim["metadata"]["finalizers"] = [f for f in claim["metadata"]["finalizers"] if f != FINALIZER]
        await self.cluster.update(NODECLAIMS, claim)
        return None

    async def _collect_lost(self, claim: Object, node: Object) -> float | None:
        """Once the Node is known to be silent, give up the claim of a machine that is gone (karpenter's collection)."""
        left = self._life.silence_left(node)
        if left is None or left > 0:
            return None if left is None else left + 0.05
        await remove(self.cluster, NODECLAIMS, claim)
        return None

    # --- status ---------------------------------------------------------------------------------------------------

    async def _note(
        self, claim: Object, states: dict[str, tuple[str, str, str]], fields: Object | None = None
    ) -> Object:
        """Write conditions and fields; Ready follows from the three others. Returns the claim as stored."""
        status = {**(claim.get("status") or {}), **(fields or {})}
        conditions = list(status.get("conditions") or [])
        for type_ in TYPES:
            if type_ not in states and not any(c["type"] == type_ for c in conditions):
                states[type_] = ("Unknown", "AwaitingReconciliation", "object is awaiting reconciliation")
        for type_, (state, reason, message) in states.items():
            conditions = set_condition(conditions, type_, state, reason, message)
        waiting = [c for c in conditions if c["type"] in TYPES and c["status"] != "True"]
        if waiting:
            text = ", ".join(f"{c['type']}={c['status']}" for c in waiting)
            conditions = set_condition(conditions, "Ready", "Unknown", "UnhealthyDependents", text)
        else:
            conditions = set_condition(conditions, "Ready", "True", "Ready", "")
        generation = claim["metadata"].get("generation", 1)
        status["conditions"] = [{"message": "", **c, "observedGeneration": generation} for c in conditions]
        if status == claim.get("status"):
            return claim
        return await self.cluster.update(NODECLAIMS, {**claim, "status": status}, subresource="status")


def claims_of(node: Object) -> list[str]:
    """The names of the NodeClaims that own a node."""
    return [o["name"] for o in node["metadata"].get("ownerReferences") or [] if o.get("kind") == "NodeClaim"]


def is_terminating_claim(feeds: Feeds, node: Object) -> bool:
    """Whether the claim behind a node is being deleted, as far as the feeds know."""
    claims = (feeds.known_one(NODECLAIMS, ("", name)) for name in claims_of(node))
    return any(claim is not None and is_terminating(claim) for claim in claims)
