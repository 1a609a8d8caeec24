"""When a machine that does not report counts as lost although its Node is still there: a pure judgement.

Kubernetes taints such a Node, waits, and tells its pods to go; nobody on the Node confirms that, so that a pod may be
"Terminating" for ever. What is lost may still run: it must be let go, and be seen to be gone, before it is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from include.workspace.status.conditions import moment

Node = Mapping[str, Any]

#: Kubernetes' own patience: what a pod tolerates node.kubernetes.io/unreachable and not-ready for when it says nothing.
LOST_SECONDS = 300.0
#: A Node joins as not Ready: one that has never been Ready boots, and has a budget for that.
JOINING_SECONDS = 30.0


def seconds_left(node: Node, now: datetime, patience: float = LOST_SECONDS) -> float | None:
    """Seconds until a Node that is not Ready has used up that patience, 0 when it has, None while it is Ready."""
    ready = _ready(node)
    if ready.get("status") == "True":
        return None
    since = moment(ready.get("lastTransitionTime"))
    return patience if since is None else max(0.0, patience - (now - since).total_seconds())


def is_lost(node: Node, now: datetime, patience: float = LOST_SECONDS) -> bool:
    """Whether a Node that was there once has not been Ready for that long."""
    return bool(_ready(node)) and not _joins(node) and seconds_left(node, now, patience) == 0


def standing(nodes: Iterable[Node], now: datetime, patience: float = LOST_SECONDS) -> list[Node]:
    """The Nodes that are not lost."""
    return [node for node in nodes if not is_lost(node, now, patience)]


def sentence(node: Node) -> str:
    """What is wrong with a Node that is not Ready, and since when, without a full stop."""
    ready, name = _ready(node), node["metadata"]["name"]
    message = str(ready.get("message") or "no report").rstrip(".")
    since = ready.get("lastTransitionTime")
    return f"Node {name} has not been Ready{f' since {since}' if since else ''}: {message}"


def _ready(node: Node) -> Mapping[str, Any]:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == "Ready"), {})


def _joins(node: Node) -> bool:
    """Whether the Node's own kubelet has said nothing but "not Ready" since it joined."""
    ready, joined = _ready(node), moment(node["metadata"].get("creationTimestamp"))
    since = moment(ready.get("lastTransitionTime"))
    if ready.get("status") != "False" or joined is None or since is None:
        return False
    return (since - joined).total_seconds() < JOINING_SECONDS
