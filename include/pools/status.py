"""What every provider says of a pool of GPU machines: its state, the stage of its slowest machine, the failure's class.

Operators, triggers and the reconciler share it, so that they cannot disagree; the messages are the cloud's own. It
must never talk to a cluster, nor know who makes machines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from include.catalog.machines import without_gpu
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
    missing: bool = False  # the pool, or a machine of it that nobody else would make again, was deleted

    @property
    def failed(self) -> bool:
        return self.ended or self.failure_class in FINAL_CLASSES

    @property
    def unavailable(self) -> bool:
        """Whether the cloud has no such machines for us now, so that others may be asked for."""
        return self.failed and self.failure_class in UNAVAILABLE_CLASSES


def condition_of(obj: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    """A condition of an object by its type, empty where it has none."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == type_), {})


def deleting(obj: Mapping[str, Any]) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def offer_of(obj: Mapping[str, Any], types: Sequence[str]) -> str:
    """What an object that makes machines was asked for as: its own mark, else its machine type."""
    marks = obj["metadata"].get("annotations") or {}
    return str(marks.get(names.OFFER) or (types[0] if types else ""))


def node_stage(reason: str) -> Stage:
    """The stage of a machine whose Node has a problem of this reason."""
    return Stage.DRIVER if reason == "NodePluginsNotReady" else Stage.BOOT


def node_problem(node: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (reason, message) when a Node is not ready for its work, None when it is.

    A Node is Ready minutes before its GPUs are allocatable (drivers, device plugin): both are asked for, but of machine
    types that have none.
    """
    name = node["metadata"]["name"]
    ready = condition_of(node, "Ready")
    if ready.get("status") != "True":
        return "NodeNotReady", f"Node {name} is not Ready: {ready.get('message') or 'no report yet'}"
    gpus = ((node.get("status") or {}).get("allocatable") or {}).get(GPU_RESOURCE, "0")
    kind = str((node["metadata"].get("labels") or {}).get(INSTANCE_TYPE_LABEL) or "")
    if int(gpus) < 1 and not without_gpu(kind):
        return "NodePluginsNotReady", f"Node {name} is Ready but offers no {GPU_RESOURCE} yet"
    return None
