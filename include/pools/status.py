"""Whether a pool of GPU machines is ready, and if not, why not: a pure judgement of NodeClaims and Nodes.

Operators, triggers and the reconciler share it, so that they cannot disagree; the messages are the cloud's own. It
must never talk to a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from include.workspace.api import names

GPU_RESOURCE = "nvidia.com/gpu"
INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"


class FailureClass(StrEnum):
    """Why machines do not come; the class decides whether waiting can help."""

    QUOTA = "quota"
    CAPACITY = "capacity"
    AUTH = "auth"
    CONFIG = "config"
    TRANSIENT = "transient"
    TIMEOUT = "timeout"


class Stage(StrEnum):
    """How far a machine is that is not ready yet; each stage has a budget of its own."""

    LAUNCH = "launch"
    BOOT = "boot"
    DRIVER = "driver"


#: What Karpenter waits for before it says so, as our stages.
_STEPS = {
    "Launched": Stage.LAUNCH,
    "Registered": Stage.BOOT,
    "Initialized": Stage.DRIVER,
    "Ready": Stage.DRIVER,
}

# The clouds' own words, as Karpenter's and AKS's providers pass them on in a NodeClaim condition.
_CLASSES: tuple[tuple[FailureClass, str], ...] = (
    # Before the quota, because Azure ends this sentence with a link to its quota page.
    (FailureClass.CAPACITY, r"is not allowed in your subscription"),
    (FailureClass.QUOTA, r"quota|LimitExceeded|CountLimit|LimitReached|exceeding approved"),
    (
        FailureClass.CAPACITY,
        r"SkuNotAvailable|NotAvailableForSubscription|Insufficient\w*Capacity|AllocationFail|Overconstrained"
        r"|no capacity|out of capacity|(not enough|not have sufficient) capacity|currently not available",
    ),
    (
        FailureClass.AUTH,
        r"AuthorizationFailed|AuthenticationFailed|Unauthorized|Forbidden|InvalidAuthentication"
        r"|ExpiredAuthenticationToken|does not have (permission|authorization)",
    ),
    (
        FailureClass.CONFIG,
        r"InvalidParameter|BadRequest|NotSupported|not supported|Invalid\w*Type|NodeClassNotFound"
        r"|PropertyChangeNotAllowed|(Resource|ResourceGroup|Subscription)NotFound|InvalidSubscription|UnmarshalError"
        r"|InvalidRequest|Invalid\w*ApiVersion|InvalidTagName|RequestDisallowedByPolicy|ScopeLocked",
    ),
)
#: Waiting does not help against these: the run stops and says so.
FINAL_CLASSES = frozenset(
    {FailureClass.QUOTA, FailureClass.CAPACITY, FailureClass.AUTH, FailureClass.CONFIG, FailureClass.TIMEOUT}
)
#: The cloud does not have or does not give these machines now; others may be there.
UNAVAILABLE_CLASSES = frozenset({FailureClass.QUOTA, FailureClass.CAPACITY})
MISSING_CLAIM = "NodeClaimMissing"
MISSING_REASONS = frozenset({MISSING_CLAIM, "NodePoolMissing", "AgentPoolMissing"})


def classify(reason: str, message: str) -> FailureClass:
    """Sort a provider's failure; what is not recognised may pass by itself."""
    text = f"{reason} {message}"
    for failure, pattern in _CLASSES:
        if re.search(pattern, text, re.IGNORECASE):
            return failure
    return FailureClass.TRANSIENT


@dataclass(frozen=True)
class PoolStatus:
    """What is there of a pool. ``message`` is the provider's own sentence where it gave one."""

    nodes: tuple[str, ...]
    ready: bool
    reason: str
    message: str
    failure_class: FailureClass | None = None
    ended: bool = False  # the provider has given up: waiting cannot help, whatever the class
    stage: Stage | None = None  # what the slowest machine is in while the pool is not ready
    offer: str = ""  # what the cloud was asked for (include.workspace.api.offers), "" where nothing is there

    @property
    def failed(self) -> bool:
        return self.ended or self.failure_class in FINAL_CLASSES

    @property
    def missing(self) -> bool:
        """Whether the pool, or a machine of it that nobody else would make again, was deleted."""
        return self.reason in MISSING_REASONS

    @property
    def unavailable(self) -> bool:
        """Whether the cloud has no such machines for us now, so that others may be asked for."""
        return self.failed and self.failure_class in UNAVAILABLE_CLASSES


def _condition(obj: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == type_), {})


def deleting(obj: Mapping[str, Any]) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def instance_types(claim: Mapping[str, Any]) -> list[str]:
    requirements = (claim.get("spec") or {}).get("requirements") or []
    return next((r.get("values") or [] for r in requirements if r.get("key") == INSTANCE_TYPE_LABEL), [])


def offer_of(obj: Mapping[str, Any], types: Sequence[str]) -> str:
    """What a NodeClaim or NodePool was asked for as: its own mark, else its machine type."""
    marks = obj["metadata"].get("annotations") or {}
    return str(marks.get(names.OFFER) or (types[0] if types else ""))


def _claim_problem(claim: Mapping[str, Any]) -> tuple[Stage, str, str] | None:
    """Return (stage, reason, message) of the first lifecycle step that is not done, None when the claim is ready."""
    name = claim["metadata"]["name"]
    if _condition(claim, "Ready").get("status") == "True":
        return None
    for step, stage in _STEPS.items():
        condition = _condition(claim, step)
        if condition.get("status") == "True":
            continue
        reason = condition.get("reason") or f"Not{step}"
        message = condition.get("message") or f"waiting until the machine is {step.lower()}"
        return stage, reason, f"NodeClaim {name}: {message}"
    return None


def _node_problem(
    claim: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]
) -> tuple[Stage, str, str] | None:
    node = nodes.get((claim.get("status") or {}).get("nodeName") or "")
    if node is None:
        told = f"NodeClaim {claim['metadata']['name']}: its node has not joined the cluster"
        return Stage.BOOT, "NodeNotReady", told
    problem = node_problem(node)
    return (node_stage(problem[0]), *problem) if problem else None


def node_stage(reason: str) -> Stage:
    """The stage of a machine whose Node has a problem of this reason."""
    return Stage.DRIVER if reason == "NodePluginsNotReady" else Stage.BOOT


def node_problem(node: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (reason, message) when a Node is not ready for GPU work, None when it is.

    A Node is Ready minutes before its GPUs are allocatable (drivers, device plugin): both are asked for.
    """
    name = node["metadata"]["name"]
    ready = _condition(node, "Ready")
    if ready.get("status") != "True":
        return "NodeNotReady", f"Node {name} is not Ready: {ready.get('message') or 'no report yet'}"
    gpus = ((node.get("status") or {}).get("allocatable") or {}).get(GPU_RESOURCE, "0")
    if int(gpus) < 1:
        return "NodePluginsNotReady", f"Node {name} is Ready but offers no {GPU_RESOURCE} yet"
    return None


def pool_status(
    claims: Sequence[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]], wanted: int = 1
) -> PoolStatus:
    """Judge a pool by its NodeClaims and the cluster's Nodes.

    `wanted` is how many machines the pool was made with. Nobody replaces a NodeClaim that is deleted, so one that is
    missing is as final as all of them.
    """
    by_name = {node["metadata"]["name"]: node for node in nodes}
    live = [claim for claim in claims if not deleting(claim)]
    if not live:
        return PoolStatus(
            (),
            False,
            MISSING_CLAIM,
            "The pool has no NodeClaims: they were deleted.",
            FailureClass.CONFIG,
        )
    offer = offer_of(live[0], instance_types(live[0]))
    members = tuple(sorted(n for c in live if (n := (c.get("status") or {}).get("nodeName"))))
    if len(live) < wanted:
        told = f"{wanted - len(live)} of the pool's {wanted} NodeClaims are gone: they were deleted."
        return PoolStatus(members, False, MISSING_CLAIM, told, FailureClass.CONFIG, offer=offer)
    problems = [p for claim in live if (p := _claim_problem(claim) or _node_problem(claim, by_name))]
    if not problems:
        told = f"{len(members)} GPU node(s) ready: {', '.join(members)}"
        return PoolStatus(members, True, "NodesReady", told, offer=offer)
    classed = [(classify(*problem[1:]), *problem[1:]) for problem in problems]
    # The worst cause speaks for the pool: a quota error is the news, not the sibling that still boots.
    failure, reason, message = next((c for c in classed if c[0] in FINAL_CLASSES), classed[0])
    if len(live) > 1:
        message = f"{message} ({len(live) - len(problems)} of {len(live)} machines ready)"
    slowest = min((problem[0] for problem in problems), key=list(Stage).index)
    return PoolStatus(members, False, reason, message, failure, stage=slowest, offer=offer)
