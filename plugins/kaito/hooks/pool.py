"""GPU pools: the seam between what a Workspace needs and who provides the machines.

A provider creates, deletes and observes a pool; operators and triggers only know :class:`GpuPoolProvider`. Whether a
pool is ready, and why not, is decided by pure functions over the objects the cloud reports, so that the synchronous
and the asyncio side cannot disagree. A provider never touches a machine that its run did not ask for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from include.workspace import names
from kaito.hooks.api import NODE, NODE_CLAIM
from kaito.hooks.cluster import AsyncKaitoClusterHook, KaitoClusterHook

GPU_RESOURCE = "nvidia.com/gpu"
INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"
#: A claim that boots is written by its cloud now and then; its deletion, guarded by its version, has to fall between.
DELETE_ATTEMPTS = 5


class Purpose(StrEnum):
    """What a pool is for. A Workspace may own one pool of each."""

    TUNING = "tuning"
    SERVING = "serving"


class FailureClass(StrEnum):
    """Why machines do not come; the class decides whether waiting can help."""

    QUOTA = "quota"
    CAPACITY = "capacity"
    AUTH = "auth"
    CONFIG = "config"
    TRANSIENT = "transient"
    TIMEOUT = "timeout"


# The clouds' own words, as Karpenter's and AKS's providers pass them on in a NodeClaim condition.
_CLASSES: tuple[tuple[FailureClass, str], ...] = (
    (FailureClass.QUOTA, r"quota|LimitExceeded|exceeding approved"),
    (
        FailureClass.CAPACITY,
        r"SkuNotAvailable|NotAvailableForSubscription|Insufficient\w*Capacity|AllocationFail|Overconstrained"
        r"|no capacity|out of capacity|not enough capacity|currently not available",
    ),
    (
        FailureClass.AUTH,
        r"AuthorizationFailed|Unauthorized|Forbidden|InvalidAuthentication|does not have permission",
    ),
    (
        FailureClass.CONFIG,
        r"InvalidParameter|BadRequest|NotSupported|not supported|Invalid\w*Type|NodeClassNotFound",
    ),
)
#: Waiting does not help against these: the run stops and says so.
FINAL_CLASSES = frozenset(
    {FailureClass.QUOTA, FailureClass.CAPACITY, FailureClass.AUTH, FailureClass.CONFIG, FailureClass.TIMEOUT}
)


def classify(reason: str, message: str) -> FailureClass:
    """Sort a provider's failure; what is not recognised may pass by itself."""
    text = f"{reason} {message}"
    for failure, pattern in _CLASSES:
        if re.search(pattern, text, re.IGNORECASE):
            return failure
    return FailureClass.TRANSIENT


@dataclass(frozen=True)
class PoolKey:
    """Which pool: one Workspace's, for one purpose."""

    workspace: str
    namespace: str
    purpose: str

    @property
    def labels(self) -> dict[str, str]:
        return {
            names.WORKSPACE: self.workspace,
            names.WORKSPACE_NAMESPACE: self.namespace,
            names.POOL: self.purpose,
        }


@dataclass(frozen=True)
class GpuPool:
    """The machines that a run wants.

    :param claims: one manifest for each machine, with deterministic names.
    """

    key: PoolKey
    run_id: str
    instance_type: str
    claims: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class PoolStatus:
    """What is there of a pool. ``message`` is the provider's own sentence where it gave one."""

    nodes: tuple[str, ...]
    ready: bool
    reason: str
    message: str
    failure_class: FailureClass | None = None

    @property
    def failed(self) -> bool:
        return self.failure_class in FINAL_CLASSES


class GpuPoolProvider(Protocol):
    """What every way to get GPU machines must offer."""

    def create(self, pool: GpuPool) -> list[str]:
        """Make what is missing of the pool; returns the names that this call made."""

    def delete(self, key: PoolKey, run_id: str) -> list[str]:
        """Ask for the deletion of what the run made; returns the names of what is going."""

    def observe(self, key: PoolKey) -> PoolStatus:
        """Say what is there now."""


class PoolTaken(RuntimeError):
    """Another run holds this pool."""


def _condition(obj: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == type_), {})


def _deleting(obj: Mapping[str, Any]) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def _instance_types(claim: Mapping[str, Any]) -> list[str]:
    requirements = (claim.get("spec") or {}).get("requirements") or []
    return next((r.get("values") or [] for r in requirements if r.get("key") == INSTANCE_TYPE_LABEL), [])


def _claim_problem(claim: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (reason, message) of the first lifecycle step that is not done, None when the claim is ready."""
    name = claim["metadata"]["name"]
    if _condition(claim, "Ready").get("status") == "True":
        return None
    for step in ("Launched", "Registered", "Initialized", "Ready"):
        condition = _condition(claim, step)
        if condition.get("status") == "True":
            continue
        reason = condition.get("reason") or f"Not{step}"
        message = condition.get("message") or f"waiting until the machine is {step.lower()}"
        return reason, f"NodeClaim {name}: {message}"
    return None


def _node_problem(claim: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    """Return (reason, message) when the claim's Node is not ready for GPU work, None when it is.

    A Node is Ready minutes before its GPUs are allocatable (drivers, device plugin): both are asked for.
    """
    name = (claim.get("status") or {}).get("nodeName") or ""
    node = nodes.get(name)
    if node is None:
        return "NodeNotReady", f"NodeClaim {claim['metadata']['name']}: its node has not joined the cluster"
    ready = _condition(node, "Ready")
    if ready.get("status") != "True":
        return "NodeNotReady", f"Node {name} is not Ready: {ready.get('message') or 'no report yet'}"
    gpus = ((node.get("status") or {}).get("allocatable") or {}).get(GPU_RESOURCE, "0")
    if int(gpus) < 1:
        return "NodePluginsNotReady", f"Node {name} is Ready but offers no {GPU_RESOURCE} yet"
    return None


def pool_status(claims: Sequence[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]]) -> PoolStatus:
    """Judge a pool by its NodeClaims and the cluster's Nodes."""
    by_name = {node["metadata"]["name"]: node for node in nodes}
    live = [claim for claim in claims if not _deleting(claim)]
    if not live:
        return PoolStatus(
            (),
            False,
            "NodeClaimMissing",
            "The pool has no NodeClaims: they were deleted.",
            FailureClass.CONFIG,
        )
    members = tuple(sorted(n for c in live if (n := (c.get("status") or {}).get("nodeName"))))
    problems = [p for claim in live if (p := _claim_problem(claim) or _node_problem(claim, by_name))]
    if not problems:
        return PoolStatus(
            members, True, "NodesReady", f"{len(members)} GPU node(s) ready: {', '.join(members)}"
        )
    classed = [(classify(*problem), *problem) for problem in problems]
    # The worst cause speaks for the pool: a quota error is the news, not the sibling that still boots.
    failure, reason, message = next((c for c in classed if c[0] in FINAL_CLASSES), classed[0])
    if len(problems) > 1:
        message = f"{message} ({len(live) - len(problems)} of {len(live)} machines ready)"
    return PoolStatus(members, False, reason, message, failure)


def _node_names(claims: Iterable[Mapping[str, Any]]) -> list[str]:
    return [name for claim in claims if (name := (claim.get("status") or {}).get("nodeName"))]


class NodeClaimPool:
    """Karpenter-core's API: one NodeClaim for each machine (gpu-provisioner, or any controller that serves it)."""

    def __init__(self, hook: KaitoClusterHook) -> None:
        self.hook = hook

    def create(self, pool: GpuPool) -> list[str]:
        """Make the missing NodeClaims.

        Machines that the Workspace already has for this purpose are counted. A serving pool is simply used again; a
        tuning pool belongs to its run until that run lets it go.

        :raises PoolTaken: another run is tuning on this pool.
        """
        existing = self.hook.list(NODE_CLAIM, labels=pool.key.labels)
        for claim in [claim for claim in existing if _deleting(claim)]:
            self.hook.delete_and_wait(NODE_CLAIM, claim["metadata"]["name"], timeout=600)
        live = [c for c in existing if not _deleting(c) and pool.instance_type in _instance_types(c)]
        owners = {c["metadata"].get("labels", {}).get(names.RUN_ID) for c in live} - {pool.run_id, None}
        if owners and pool.key.purpose == Purpose.TUNING:
            raise PoolTaken(
                f"Run {', '.join(sorted(owners))} holds the tuning machines of Workspace {pool.key.workspace}: "
                "wait until it ends, or stop it."
            )
        have = {claim["metadata"]["name"] for claim in live}
        missing = [c for c in pool.claims if c["metadata"]["name"] not in have]
        made = []
        for manifest in missing[: max(0, len(pool.claims) - len(have))]:
            _, created = self.hook.get_or_create(NODE_CLAIM, manifest)
            if created:
                made.append(manifest["metadata"]["name"])
        return made

    def delete(self, key: PoolKey, run_id: str) -> list[str]:
        """Ask for the deletion of the run's NodeClaims; returns their names and those of their Nodes.

        A claim that was handed to another run since it was listed has another resourceVersion, and stays.
        """
        going, held = self._let_go(key, run_id)
        return [claim["metadata"]["name"] for claim in (*going, *held)] + _node_names(going)

    def _let_go(self, key: PoolKey, run_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the run's claims that are going, and those that changed at each attempt to delete them."""
        going: list[dict[str, Any]] = []
        held: list[dict[str, Any]] = []
        for _ in range(DELETE_ATTEMPTS):
            going, held = [], []
            for claim in self.hook.list(NODE_CLAIM, labels={**key.labels, names.RUN_ID: run_id}):
                metadata = claim["metadata"]
                gone = _deleting(claim) or self.hook.delete(
                    NODE_CLAIM,
                    metadata["name"],
                    uid=metadata["uid"],
                    version=metadata.get("resourceVersion"),
                )
                (going if gone else held).append(claim)
            if not held:
                break
        return going, held

    def delete_and_wait(self, key: PoolKey, run_id: str, *, timeout: float, poll: float = 0.3) -> None:
        """Delete the run's machines and return when claims and Nodes are gone.

        :raises TimeoutError: something is still there after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        nodes: set[str] = set()
        while True:
            going, held = self._let_go(key, run_id)
            nodes.update(_node_names(going))
            # A Node may outlive its claim where the cloud's controller is not the one that deletes it.
            left = [claim["metadata"]["name"] for claim in (*going, *held)]
            left = left or sorted(name for name in nodes if self.hook.find(NODE, name))
            if not left:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"Still there {timeout:.0f} s after their deletion: {', '.join(left)}.")
            time.sleep(poll)

    def observe(self, key: PoolKey) -> PoolStatus:
        return pool_status(self.hook.list(NODE_CLAIM, labels=key.labels), self.hook.list(NODE))


async def observe_node_claims(hook: AsyncKaitoClusterHook, key: PoolKey) -> PoolStatus:
    """As :meth:`NodeClaimPool.observe`, for triggers."""
    claims = await hook.list(NODE_CLAIM, labels=key.labels)
    return pool_status(claims, await hook.list(NODE))
