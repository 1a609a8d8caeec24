"""The machines of a Workspace as the cluster shows them: since when each costs, and when it worked.

Whoever makes the machines, they show as NodeClaims, or (agent pools) as Nodes that say when their pool was asked for.
Nodes that are BYO (bring your own) are in neither and cost nothing here. It must never count one machine twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from include.workspace.api import names
from include.workspace.status.conditions import moment

Object = Mapping[str, Any]
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
PURPOSES = frozenset({"tuning", "serving"})
#: A Node that joins later than that after its pool was asked for was added to the pool afterwards.
LONGEST_BOOT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Span:
    """Work on a machine. `since` None: it began before this look; `until` None: it goes on."""

    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class HeldMachine:
    """A machine that costs. `uid` is of its NodeClaim or Node, `run` the label of the run that holds it."""

    uid: str
    name: str
    node: str
    run: str
    purpose: str
    kind: str
    since: datetime
    work: tuple[Span, ...] = ()


def machines(claims: Iterable[Object], nodes: Iterable[Object], pods: Iterable[Object]) -> list[HeldMachine]:
    """The machines of one Workspace, from its NodeClaims, Nodes and pods; what was never launched is not there."""
    work: dict[str, list[Object]] = {}
    for pod in pods:
        work.setdefault(str((pod.get("spec") or {}).get("nodeName") or ""), []).append(pod)
    found = [machine for claim in claims if (machine := _of_claim(claim, work))]
    taken = {machine.node for machine in found}
    found += [m for node in nodes if node["metadata"]["name"] not in taken and (m := _of_node(node, work))]
    return sorted(found, key=lambda machine: machine.uid)


def instance_type(claim: Object) -> str:
    """The machine type that a NodeClaim asks for, "" when it names none."""
    requirements = (claim.get("spec") or {}).get("requirements") or ()
    values = next((r.get("values") for r in requirements if r.get("key") == INSTANCE_TYPE), None)
    return str(values[0]) if values else ""


def _labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def _condition(obj: Object, kind: str) -> Mapping[str, Any]:
    listed = (obj.get("status") or {}).get("conditions") or ()
    return next((c for c in listed if c.get("type") == kind), {})


def _of_claim(claim: Object, work: Mapping[str, list[Object]]) -> HeldMachine | None:
    meta, labels = claim["metadata"], _labels(claim)
    launched = _condition(claim, "Launched")
    if labels.get(names.POOL) not in PURPOSES or launched.get("status") != "True":
        return None
    since = moment(launched.get("lastTransitionTime")) or moment(meta.get("creationTimestamp"))
    if since is None:
        return None
    node = str((claim.get("status") or {}).get("nodeName") or "")
    return _machine(claim, node, instance_type(claim), since, work)


def _of_node(node: Object, work: Mapping[str, list[Object]]) -> HeldMachine | None:
    """A machine of an agent pool: only those carry the moment at which their pool was asked for."""
    meta, labels = node["metadata"], _labels(node)
    asked = labels.get(names.ASKED_AT) or ""
    if labels.get(names.POOL) not in PURPOSES or not asked.isdecimal():
        return None
    since, joined = datetime.fromtimestamp(int(asked), UTC), moment(meta.get("creationTimestamp"))
    if joined and (joined - since).total_seconds() > LONGEST_BOOT_SECONDS:
        since = joined
    return _machine(node, str(meta["name"]), labels.get(INSTANCE_TYPE, ""), since, work)


def _machine(
    obj: Object, node: str, kind: str, since: datetime, work: Mapping[str, list[Object]]
) -> HeldMachine:
    meta, labels = obj["metadata"], _labels(obj)
    pods = [p for p in work.get(node, ()) if node and _labels(p).get(names.COMPONENT) == labels[names.POOL]]
    spans = tuple(span for pod in pods for span in _spans(pod))
    uid, name, run = str(meta["uid"]), str(meta["name"]), labels.get(names.RUN_ID, "")
    return HeldMachine(uid, name, node, run, labels[names.POOL], kind, since, spans)


def _spans(pod: Object) -> list[Span]:
    """When a pod worked: a tuning pod while its container ran, a serving pod while it was ready."""
    if _labels(pod).get(names.COMPONENT) == "serving":
        ready = _condition(pod, "Ready")
        turned = moment(ready.get("lastTransitionTime"))
        if ready.get("status") == "True":
            return [Span(turned, None)]
        return [Span(None, turned)] if turned else []
    found = []
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        state = container.get("state") or {}
        if (running := state.get("running")) is not None:
            found.append(Span(moment(running.get("startedAt")), None))
        elif ended := state.get("terminated"):
            found.append(Span(moment(ended.get("startedAt")), moment(ended.get("finishedAt"))))
    return found
