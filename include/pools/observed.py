"""Pools of GPU machines as values that everybody works on without knowing who makes them.

A provider turns what it keeps (an object of the cluster, or of a cloud) into an `ObservedPool`; costs, releases,
repairs and the janitor read nothing else of it. Nothing here may branch on a provider's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from include.contracts.plural import plural
from include.contracts.purpose import Purpose
from include.pools.status import FINAL_CLASSES, INSTANCE_TYPE_LABEL, FailureClass, PoolStatus, Stage
from include.workspace.api import names
from include.workspace.status.conditions import moment

Object = Mapping[str, Any]
#: A Node that joins later than that after its pool was asked for was added to the pool afterwards.
LONGEST_BOOT_SECONDS = 3600.0
PURPOSES = frozenset(Purpose)


@dataclass(frozen=True, slots=True)
class PoolMachine:
    """One machine. `uid` and `name` are of the object that shows it, `node` is "" until it has joined.

    `since` is when it began to cost, None before it was launched and where it costs nothing here. `registered` is when
    its Node joined, where that is told.
    """

    uid: str
    name: str
    node: str
    run: str
    purpose: str
    instance_type: str
    since: datetime | None
    registered: datetime | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """Who controls a pool's object. `makes_pools`: it made the object and is judged in its place."""

    kind: str
    name: str
    uid: str
    makes_pools: bool = False


@dataclass(frozen=True, slots=True)
class UnregisteredCapacity:
    """A pool whose machines a cloud charges for and that may not all be Nodes yet.

    `count` is how many its cloud has started by all signs, 0 where none can be concluded: then only what is on the
    books goes on. `since` is when the pool was asked for.
    """

    pool: str
    run: str
    purpose: str
    instance_type: str
    since: datetime
    count: int


@dataclass(frozen=True, slots=True)
class ObservedPool:
    """One object that a provider makes machines as.

    :ivar provider: the name of who makes it, as it is registered.
    :ivar kind: what it is, as users know it, such as NodeClaim.
    :ivar uid: its uid, "" where its provider gives none. `version` changes with each change of it.
    :ivar workspace: (namespace, name) of the Workspace that it was made for.
    :ivar run: the label of the run that holds it.
    :ivar single: it is one machine, which is replaced and handed over by itself.
    :ivar size: how many machines it has or is to get by itself; what is lost and not replaced does not count.
    :ivar details: what holds or describes it, in words: its finalizers, its state.
    :ivar deleting: why it counts as going, "" while it does not.
    :ivar keep: its own mark asks the janitor to leave it.
    :ivar unregistered: what it may cost beyond the machines that the cluster shows.
    :ivar mark: what shows that we made it, where labels alone do not; "" where it is there or not needed.
    """

    provider: str
    kind: str
    name: str
    workspace: tuple[str, str]
    purpose: str
    run: str
    status: PoolStatus
    machines: tuple[PoolMachine, ...] = ()
    uid: str = ""
    version: str = ""
    instance_type: str = ""
    single: bool = False
    size: int = 1
    details: str = ""
    deleting: str = ""
    keep: bool = False
    created: datetime | None = None
    owner: Owner | None = None
    component: str = ""
    mark: str = ""
    unregistered: UnregisteredCapacity | None = None

    @property
    def nodes(self) -> frozenset[str]:
        """The names of its Nodes."""
        return frozenset(machine.node for machine in self.machines if machine.node)

    @property
    def made_by_a_pool(self) -> bool:
        """Whether another pool made it, and goes with it."""
        return self.owner is not None and self.owner.makes_pools

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" ({self.details})" if self.details else "")


@dataclass(frozen=True, slots=True)
class WorkspacePools:
    """The machines of one Workspace, as they were seen at one moment.

    :ivar provider: who makes its machines now, "" where nobody could say.
    :ivar kind: what that provider makes, as users know it.
    :ivar watched: its pools show at every look, so that one that is missing is news.
    :ivar complete: everything of that provider was looked at: what is not in `pools` is not there.
    :ivar makes_machines: off where the nodes are there anyhow (bring your own), so that none of ours can be missing.
    :ivar pools: the pools of every provider, those that are going included.
    :ivar machines: all machines that the cluster shows, whoever makes them and whether their pools were looked at.
    :ivar unregistered: pools whose machines may not all be Nodes, None where their cloud was not asked.
    """

    provider: str = ""
    kind: str = "pool"
    watched: bool = False
    complete: bool = False
    makes_machines: bool = True
    pools: tuple[ObservedPool, ...] = ()
    machines: tuple[PoolMachine, ...] = ()
    unregistered: tuple[UnregisteredCapacity, ...] | None = None


def live(pools: Iterable[ObservedPool], purpose: Purpose | None = None) -> list[ObservedPool]:
    """The pools that are not going and that no other pool stands for."""
    return [p for p in pools if not p.deleting and not p.made_by_a_pool and purpose in (None, p.purpose)]


def machines_of(pools: Iterable[ObservedPool], nodes: Iterable[Object]) -> tuple[PoolMachine, ...]:
    """Every machine once: those of the pools, and those of Nodes that tell themselves when they were asked for."""
    result: dict[str, PoolMachine] = {m.uid: m for pool in pools for m in pool.machines if m.since}
    taken = {machine.node for machine in result.values()}
    for node in nodes:
        machine = node_machine(node)
        if machine.since and machine.node not in taken:
            result.setdefault(machine.uid, machine)
    return tuple(sorted(result.values(), key=lambda machine: machine.uid))


def node_machine(node: Object) -> PoolMachine:
    """A machine by its Node alone; it costs where the Node tells when its pool was asked for."""
    meta = node["metadata"]
    labels = meta.get("labels") or {}
    asked, joined = str(labels.get(names.ASKED_AT) or ""), moment(meta.get("creationTimestamp"))
    since = None
    if labels.get(names.POOL) in PURPOSES and asked.isdecimal():
        since = datetime.fromtimestamp(int(asked), UTC)
        if joined and (joined - since).total_seconds() > LONGEST_BOOT_SECONDS:
            since = joined
    return PoolMachine(
        uid=str(meta.get("uid") or meta["name"]),
        name=str(meta["name"]),
        node=str(meta["name"]),
        run=str(labels.get(names.RUN_ID) or ""),
        purpose=str(labels.get(names.POOL) or ""),
        instance_type=str(labels.get(INSTANCE_TYPE_LABEL) or ""),
        since=since,
        registered=joined,
    )


def shortfall(pools: Iterable[ObservedPool], wanted: int, kind: str) -> str:
    """What is missing of the machines that are needed, as a sentence without its full stop; "" if nothing."""
    have = sum(pool.size for pool in live(pools))
    return f"{wanted - have} of {plural(wanted, 'machine')} gone ({kind})" if have < wanted else ""


def group_status(pools: Iterable[ObservedPool], kind: str, wanted: int = 1) -> PoolStatus:
    """The state of all pools of one Workspace and purpose together.

    `wanted` is how many machines they were made with. Nobody but us replaces a single machine whose object is deleted,
    so one that is missing is as final as all of them.
    """
    there = live(pools)
    if not there:
        message = f"There is no {kind}: it was deleted."
        return PoolStatus((), False, f"{kind}Missing", message, FailureClass.CONFIG, missing=True)
    if all(pool.single for pool in there) and len(there) < wanted:
        message = f"{wanted - len(there)} of {wanted} {kind}s are gone: they were deleted."
        nodes = tuple(sorted(node for pool in there for node in pool.nodes))
        return PoolStatus(
            nodes,
            False,
            f"{kind}Missing",
            message,
            FailureClass.CONFIG,
            offer=there[0].status.offer,
            missing=True,
        )
    return together([pool.status for pool in there])


def together(statuses: Sequence[PoolStatus]) -> PoolStatus:
    """One status for several pools: ready when all are, else the worst cause speaks.

    A quota error is the news, not the sibling that still boots.
    """
    nodes = tuple(sorted({node for status in statuses for node in status.nodes}))
    troubled = [status for status in statuses if not status.ready]
    if not troubled:
        sentence = f"{plural(len(nodes), 'GPU node')} ready: {', '.join(nodes)}"
        return PoolStatus(nodes, True, "NodesReady", sentence, offer=statuses[0].offer)
    worst = min(troubled, key=lambda s: (not s.ended, s.failure_class not in FINAL_CLASSES))
    message = worst.message
    if len(statuses) > 1:
        message = f"{message} ({len(statuses) - len(troubled)} of {len(statuses)} machines ready)"
    stages = [status.stage for status in troubled if status.stage is not None]
    slowest = min(stages, key=list(Stage).index) if stages else None
    return replace(worst, nodes=nodes, message=message, stage=slowest)
