"""The machines of a Workspace as the ledger holds them: since when each costs, and when it worked.

Whoever makes them, a provider shows them as `include.pools.observed.PoolMachine`; BYO nodes (bring your own) cost
nothing here. It must never count one machine twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from include.pools.observed import PURPOSES, PoolMachine
from include.workspace.api import names
from include.workspace.status.conditions import moment

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """Work on a machine. `since` None: it began before this look; `until` None: it goes on."""

    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class HeldMachine:
    """A machine that costs. `uid` is of the object that shows it, `run` the label of the run that holds it."""

    uid: str
    name: str
    node: str
    run: str
    purpose: str
    kind: str
    since: datetime
    work: tuple[Span, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What its record is known by: the machine, the run that holds it, and what it is for."""
        return self.uid, self.run, self.purpose


def machines(held: Iterable[PoolMachine], pods: Iterable[Object]) -> list[HeldMachine]:
    """The machines of one Workspace with the work of its pods; what was never launched is not there."""
    work: dict[str, list[Object]] = {}
    for pod in pods:
        work.setdefault(str((pod.get("spec") or {}).get("nodeName") or ""), []).append(pod)
    found = {machine.uid: made for machine in held if (made := _held(machine, work))}
    return sorted(found.values(), key=lambda machine: machine.uid)


def _labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def _condition(obj: Object, kind: str) -> Mapping[str, Any]:
    listed = (obj.get("status") or {}).get("conditions") or ()
    return next((c for c in listed if c.get("type") == kind), {})


def _held(machine: PoolMachine, work: Mapping[str, list[Object]]) -> HeldMachine | None:
    if machine.since is None or machine.purpose not in PURPOSES:
        return None
    there = work.get(machine.node, ()) if machine.node else ()
    pods = [pod for pod in there if _labels(pod).get(names.COMPONENT) == machine.purpose]
    return HeldMachine(
        machine.uid,
        machine.name,
        machine.node,
        machine.run,
        machine.purpose,
        machine.instance_type,
        machine.since,
        tuple(span for pod in pods for span in _spans(pod)),
    )


def _spans(pod: Object) -> list[Span]:
    """When a pod worked: a tuning pod while its container ran, a serving pod while it was ready."""
    if _labels(pod).get(names.COMPONENT) == "serving":
        ready = _condition(pod, "Ready")
        turned = moment(ready.get("lastTransitionTime"))
        if ready.get("status") == "True":
            return [Span(turned, None)]
        return [Span(None, turned)] if turned else []
    result = []
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        state = container.get("state") or {}
        if (running := state.get("running")) is not None:
            result.append(Span(moment(running.get("startedAt")), None))
        elif ended := state.get("terminated"):
            result.append(Span(moment(ended.get("startedAt")), moment(ended.get("finishedAt"))))
    return result
