"""The plans of a Workspace's machines in the order in which a cloud is asked for them, each proven to fit.

The first is the plan of the Workspace's own machine type; the others follow from its annotations
(include.workspace.api.offers). A machine that an exact plan shows to be too small is left out, and said so. It must
never ask a cloud.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from include.catalog import Catalog, Machine, sizing
from include.contracts.purpose import Purpose
from include.planning.explain import sentences
from include.planning.plan import plan, plan_serving
from include.planning.pool_plan import Plan
from include.planning.runtimes import RUNTIMES
from include.workspace.api.models import Workspace
from include.workspace.api.offers import (
    SPOT,
    Offer,
    capacity_types,
    entries,
    entry,
    in_order,
)


@dataclass(frozen=True)
class Candidates:
    """Plans in the order of asking, at least one; `left_out` says in sentences what does not fit."""

    plans: tuple[Plan, ...]
    left_out: tuple[str, ...] = ()

    @property
    def first(self) -> Plan:
        return self.plans[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON: the first plan, with `alternatives` in short where there are any."""
        result = self.first.to_dict()
        if len(self.plans) > 1:
            result["alternatives"] = [_short(one) for one in self.plans[1:]]
        return result

    def sentences(self) -> list[str]:
        """The first plan in words, then each alternative with its price."""
        found = sentences(self.first)
        warnings = [text for text in found if text.startswith("Warning: ")]
        told = [text for text in found if text not in warnings]
        others = [self._sentence(number, one) for number, one in enumerate(self.plans) if number]
        if self.first.capacity_type:
            told.append(f"What is asked for first is {_offered(self.first)}.")
        return [*told, *others, *warnings, *(f"Warning: {text}" for text in self.left_out)]

    def _sentence(self, number: int, one: Plan) -> str:
        return (
            f"Alternative {number}, if the cloud has none of those: {one.node_count} x {_offered(one)} "
            f"({one.gpus_per_node} {one.gpu or 'GPU'} each) in {one.dtype}, {_price(one)}."
        )


def candidates(
    ws: Workspace,
    catalog: Catalog,
    config: Mapping[str, Any] | None = None,
    machine: Machine | None = None,
    *,
    serving: bool = False,
    runtimes: Sequence[str] = RUNTIMES,
) -> Candidates:
    """All plans of the Workspace's first pool, or with `serving` of the pool that its service runs on.

    `config`, `machine` and `runtimes` are as for `plan`; BYO nodes have no alternative. Raises as
    `plan` for the Workspace's own machine type.
    """

    def on(one: Machine | None) -> Plan:
        if serving:
            return plan_serving(ws, catalog, machine=one, runtimes=runtimes)
        return plan(ws, catalog, config, one, runtimes)

    first = on(machine)
    if machine is not None:
        return Candidates((first,))
    return _ordered(ws, catalog, first, lambda one: replace(on(one), own_nodes=False))


def _ordered(ws: Workspace, catalog: Catalog, first: Plan, on: Callable[[Machine], Plan]) -> Candidates:
    plans: dict[str, Plan] = {first.instance_type: first}
    left_out: list[str] = []
    others: list[Offer] = []
    for text in entries(ws):
        one = entry(text)
        machine = catalog.machine(one.instance_type)
        if machine.name not in plans:
            try:
                made = on(machine)
            except sizing.DoesNotFit as error:
                left_out.append(f"{machine.name} is no alternative: {error}.")
                continue
            if too_small := _too_small(made):
                left_out.append(f"{machine.name} is no alternative: {too_small}.")
                continue
            plans[machine.name] = made
        others.append(Offer(machine.name, one.zone))
    offers = dict.fromkeys(in_order(first.instance_type, others, capacity_types(ws)))
    found = [replace(plans[o.instance_type], zone=o.zone, capacity_type=o.capacity_type) for o in offers]
    return Candidates(tuple(found), tuple(dict.fromkeys(left_out)))


def _too_small(made: Plan) -> str:
    if made.purpose != Purpose.TUNING or made.memory_bytes <= made.gpu_memory_bytes:
        return ""
    return f"it needs {sizing.gib(made.memory_bytes)} on a GPU that has {sizing.gib(made.gpu_memory_bytes)}"


def _offered(one: Plan) -> str:
    zone = f" in zone {one.zone}" if one.zone else ""
    terms = {"": "", SPOT: " as spot"}.get(one.capacity_type, " on demand")
    return f"{one.instance_type}{zone}{terms}"


def _price(one: Plan) -> str:
    if one.estimate_usd_per_hour is None:
        return "at a price that is not known"
    most = "at most " if one.capacity_type == SPOT else "about "
    return f"{most}{one.estimate_usd_per_hour:.2f} USD an hour"


def _short(one: Plan) -> dict[str, Any]:
    return {
        "instance_type": one.instance_type,
        "zone": one.zone,
        "capacity_type": one.capacity_type,
        "node_count": one.node_count,
        "gpus_per_node": one.gpus_per_node,
        "gpu": one.gpu,
        "dtype": one.dtype,
        "estimate_usd_per_hour": one.estimate_usd_per_hour,
    }
