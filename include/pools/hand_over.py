"""Whether the machines that tuned a Workspace can serve it next, instead of being let go and asked for again.

Pure, and careful: machines are handed over only where they are what the serving plan would ask for now, so that nobody
gets a dearer, smaller or shorter-lived machine for having tuned on it. In every other case they are let go as usual.
It must never talk to a cluster, nor decide by a provider's name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from include.contracts.plural import plural
from include.contracts.purpose import Purpose
from include.planning import Plan
from include.pools.nodeclaim import storage_gib
from include.pools.observed import ObservedPool, live


@dataclass(frozen=True, slots=True)
class HandOverPlan:
    """What is to be done with the machines of a tuning that has succeeded.

    :ivar pools: what goes over to serving; empty where the machines are let go and others are asked for.
    :ivar why_not: why they are let go, as a sentence without its full stop; "" where they are handed over.
    """

    pools: tuple[ObservedPool, ...] = ()
    why_not: str = ""

    def __str__(self) -> str:
        """The sentence for conditions, events and logs."""
        if not self.pools:
            return f"The tuning machines are let go: {self.why_not}."
        names = ", ".join(f"{pool.kind} {pool.name}" for pool in self.pools)
        return f"{plural(len(self.pools), 'machine')} handed over to serving: {names}."


def plan_hand_over(
    tuned: Plan, serving: Plan | None, pools: Iterable[ObservedPool], run_label: str, provider: str
) -> HandOverPlan:
    """Decide what becomes of the machines of a run whose tuning has succeeded.

    :param tuned: the plan that the machines were asked for by: of the run's choices, the one that was granted.
    :param serving: the plan that the rollout would ask for now, None where there is no rollout.
    :param pools: all pools of the Workspace, as they were seen just now.
    :param run_label: the label of the run that tuned.
    :param provider: who makes the Workspace's machines now.
    """
    if serving is None:
        return HandOverPlan(why_not="the Workspace asks for no rollout")
    if tuned.own_nodes or serving.own_nodes:
        return HandOverPlan(why_not="the nodes are BYO (bring your own), so they stay where they are")
    there = list(pools)
    mine = [pool for pool in live(there, Purpose.TUNING) if pool.run == run_label]
    why_not = _differs(tuned, serving) or _not_ours(there, mine) or _cannot(tuned, serving, mine, provider)
    return HandOverPlan(why_not=why_not) if why_not else HandOverPlan(tuple(mine))


def given_before(pools: Iterable[ObservedPool], run_label: str) -> list[ObservedPool]:
    """The serving machines that a run holds already: an earlier try of its hand-over gave them, or some of them.

    :param pools: all pools of the Workspace, as they were seen just now.
    :param run_label: the label of the run that tuned.
    """
    return [pool for pool in live(pools, Purpose.SERVING) if pool.run == run_label]


def _differs(tuned: Plan, serving: Plan) -> str:
    """Why machines of one plan are not machines of the other, "" where they are."""
    if serving.instance_type != tuned.instance_type:
        return f"serving asks for {serving.instance_type} and not for {tuned.instance_type}"
    if (serving.gpu, serving.gpus_per_node) != (tuned.gpu, tuned.gpus_per_node):
        return (
            f"serving uses {serving.gpus_per_node} x {serving.gpu} of each machine, "
            f"and it was made with {tuned.gpus_per_node} x {tuned.gpu}"
        )
    if serving.node_count != tuned.node_count:
        return f"serving needs {plural(serving.node_count, 'machine')}, and {tuned.node_count} tuned"
    if serving.zone and serving.zone != tuned.zone:
        return (
            f"serving asks for zone {serving.zone}, and the machines were asked for in {tuned.zone or 'any'}"
        )
    if serving.capacity_type != tuned.capacity_type:
        return (
            f"serving asks for {serving.capacity_type or 'the usual'} terms, "
            f"and the machines came at {tuned.capacity_type or 'the usual'} terms"
        )
    if storage_gib(serving) > storage_gib(tuned):
        return f"serving needs a disk of {storage_gib(serving)} GiB, and theirs has {storage_gib(tuned)} GiB"
    return ""


def _not_ours(there: list[ObservedPool], mine: list[ObservedPool]) -> str:
    """Why what is there cannot be taken for the run's machines alone."""
    if not mine:
        return "none of them is there any more"
    if held := live(there, Purpose.SERVING):
        return f"there are serving machines already ({held[0].kind} {held[0].name})"
    return ""


def _cannot(tuned: Plan, serving: Plan, mine: list[ObservedPool], provider: str) -> str:
    """Why the machines, as they were seen, cannot go over."""
    for pool in mine:
        which = f"{pool.kind} {pool.name}"
        if pool.provider != provider:
            return f"{which} is of the provider {pool.provider}, and serving machines come from {provider}"
        if not pool.single:
            return f"a {pool.kind} cannot change its purpose, only a single machine can"
        if pool.status.offer != tuned.offer:
            return f"{which} was asked for as {pool.status.offer or 'nothing known'} and not as {tuned.offer}"
        if not pool.status.ready or not pool.nodes:
            return f"{which} is not ready"
    if len(mine) != serving.node_count:
        return f"serving needs {plural(serving.node_count, 'machine')}, and {len(mine)} are there"
    return ""
