"""GPU pools: the seam between what a Workspace needs and who provides the machines.

A provider makes, observes and deletes pools; everybody else only knows :class:`PoolProvider`. What its objects say is
decided by pure functions (`include.pools`), so that tasks, triggers and the reconciler cannot disagree. A provider
never touches a machine that its run did not ask for. How to add one: docs/extending.md.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from include.contracts.purpose import Purpose
from include.manifests import ManifestSettings
from include.planning import Plan
from include.pools.observed import ObservedPool, UnregisteredCapacity, group_status
from include.pools.status import FailureClass, PoolStatus, classify
from include.workspace.api import names
from kaito.hooks.api import NODE, ClusterError, Kind
from kaito.hooks.cluster_calls import ClusterCalls
from kaito.providers.settings import PoolSettings, pool_settings

__all__ = [
    "FailureClass",
    "ForeignPool",
    "GpuPool",
    "ObservedPool",
    "PoolKey",
    "PoolProvider",
    "PoolStatus",
    "PoolTaken",
    "ProviderContext",
    "Purpose",
    "classify",
]

T = TypeVar("T")

#: A pool may be written now and then between reading and deleting it; its deletion has to fall between.
DELETE_ATTEMPTS = 5


@dataclass(frozen=True)
class PoolKey:
    """Which pool: one Workspace's, for one purpose."""

    workspace: str
    namespace: str
    purpose: Purpose

    @classmethod
    def of(cls, workspace: Mapping[str, Any], purpose: Purpose) -> PoolKey:
        """The pool of a Workspace as the cluster returned it."""
        return cls(str(workspace["metadata"]["name"]), names.namespace(workspace), purpose)

    @property
    def labels(self) -> dict[str, str]:
        return {
            names.WORKSPACE: self.workspace,
            names.WORKSPACE_NAMESPACE: self.namespace,
            names.POOL: self.purpose,
        }


def labels_of(workspace: Mapping[str, Any]) -> dict[str, str]:
    """The labels of all pools of a Workspace, whatever they are for."""
    return {
        names.WORKSPACE: str(workspace["metadata"]["name"]),
        names.WORKSPACE_NAMESPACE: names.namespace(workspace),
    }


@dataclass(frozen=True)
class GpuPool:
    """The machines that a run wants.

    :param claims: what the provider is to make, with deterministic names: one manifest for each machine, or the body
        of one pool (see :meth:`PoolProvider.request`).
    """

    key: PoolKey
    run_id: str
    instance_type: str
    claims: tuple[Mapping[str, Any], ...]

    @property
    def names(self) -> list[str]:
        """The names of what is made."""
        return [str(claim.get("name") or claim["metadata"]["name"]) for claim in self.claims]


@dataclass(frozen=True)
class ProviderContext:
    """What a provider is made with.

    :param cluster: the cluster, for tasks or for an event loop.
    :param workspace: whose machines, None for who looks through those of all.
    :param settings: what the installation says; a provider that needs more reads its own settings.
    """

    cluster: ClusterCalls
    workspace: Mapping[str, Any] | None = None
    settings: PoolSettings = field(default_factory=pool_settings)

    @property
    def choice(self) -> str:
        """Who was chosen to make machines: by the Workspace, else by the installation; may be `auto`."""
        notes = ((self.workspace or {}).get("metadata") or {}).get("annotations") or {}
        return str(notes.get(names.POOL_PROVIDER) or self.settings.provider)


class PoolProvider(ABC):
    """A way to get GPU machines. Asks the cluster by `context.cluster` only, so that it works in tasks and triggers.

    :cvar name: what the setting and the annotation call it.
    :cvar kind: what it makes, as users know it, such as NodeClaim.
    :cvar objects: the kind of the cluster that its pools are, None where they are no objects of the cluster.
    :cvar watched: kinds of the cluster that it makes and that are read at every look, so that one that is missing is
        news at once. `read` turns them into pools.
    :cvar remote: its pools are no objects of the cluster: whoever looks asks its cloud, and therefore seldom.
    :cvar keeps_zones: off where a machine may come outside the zone that was asked for.
    :cvar makes_machines: off where the nodes are there anyhow: nothing is made, nothing is deleted, nothing costs.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    objects: ClassVar[Kind | None] = None
    watched: ClassVar[tuple[Kind, ...]] = ()
    remote: ClassVar[bool] = False
    makes_machines: ClassVar[bool] = True
    keeps_zones: ClassVar[bool] = True

    def __init__(self, context: ProviderContext) -> None:
        self.context = context
        self.cluster = context.cluster

    # --- for a run ------------------------------------------------------------------------------------------------

    @abstractmethod
    def request(
        self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings
    ) -> GpuPool:
        """Say what this provider would make for a plan; asks nobody. Raises ValueError for what cannot be made."""

    @abstractmethod
    async def create(self, pool: GpuPool) -> list[str]:
        """Make what is missing of the pool and return the names that this call made; waits for no machine.

        :raises PoolTaken: another run is tuning on this pool.
        :raises ForeignPool: something of that name is not ours.
        """

    @abstractmethod
    async def request_deletion(
        self, key: PoolKey, run_id: str, timeout: float | None = None
    ) -> tuple[list[str], list[str]]:
        """Ask once for the deletion of what the run made; returns the names of what is still there, and of its Nodes.

        :param timeout: seconds to wait for a cloud that is busy, None for as long as it usually takes.
        """

    @abstractmethod
    async def list_owned(self, labels: Mapping[str, str] | None = None) -> list[ObservedPool]:
        """Return the pools that this project made: those with these labels, or for whichever Workspace."""

    @abstractmethod
    async def delete_observed(self, pool: ObservedPool, *, unchanged: bool = False) -> bool:
        """Ask for the deletion of one pool; returns False when it is gone or another one, and is left alone.

        :param unchanged: leave it alone too when anything about it has changed since it was read.
        """

    # --- for a run, the same for most -----------------------------------------------------------------------------

    async def delete(self, key: PoolKey, run_id: str, *, timeout: float | None = None) -> list[str]:
        """Ask for the deletion of what the run made; returns the names of what is going, Nodes included."""
        there, nodes = await self.request_deletion(key, run_id, timeout)
        return [*there, *nodes]

    async def delete_and_wait(self, key: PoolKey, run_id: str, *, timeout: float, poll: float = 0.3) -> None:
        """Delete what the run made and return when nothing is left of it, nor of the Nodes that were seen with it.

        :raises TimeoutError: something is still there after ``timeout`` seconds.
        """
        deadline, nodes = time.monotonic() + timeout, set[str]()
        while True:
            left, joined = await self.request_deletion(key, run_id, max(0.0, deadline - time.monotonic()))
            nodes.update(joined)
            # A Node may outlive its object where the cloud's controller is not the one that deletes it.
            left = left or [name for name in sorted(nodes) if await self.cluster.find(NODE, name)]
            if not left:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"Still there {timeout:.0f} s after their deletion: {', '.join(left)}.")
            await self.cluster.sleep(poll)

    async def observe(self, key: PoolKey, wanted: int = 1) -> PoolStatus:
        """Say what is there now.

        :param wanted: how many machines were asked for.
        """
        return group_status(await self.list_owned(key.labels), self.kind, wanted)

    # --- what a provider may add ----------------------------------------------------------------------------------

    async def may_own(self) -> bool:
        """Whether pools of this provider may be there: of the context's Workspace, or of anybody's without one."""
        return self.context.choice == self.name

    async def check_availability(self, plans: Sequence[Plan]) -> dict[str, str]:
        """Say which of these plans the cloud would refuse now, and why, by their offers; makes nothing.

        :raises ValueError: no machines can be made at all: a right, a kind or a connection is missing.
        """
        return {}

    async def hand_over(self, pool: ObservedPool, run_label: str, purpose: str = "") -> bool:
        """Give a pool and its Nodes to another run, and to another purpose where one is named.

        :returns: False where the pool has changed, or where this provider's pools cannot change hands.
        """
        return False

    async def unregistered_capacity(self, labels: Mapping[str, str]) -> list[UnregisteredCapacity] | None:
        """Say which pools may cost more than the cluster shows; None where the cluster shows all."""
        if not self.remote:
            return None
        return [pool.unregistered for pool in await self.list_owned(labels) if pool.unregistered]

    @classmethod
    def read(
        cls, objects: Mapping[str, Sequence[Mapping[str, Any]]], nodes: Sequence[Mapping[str, Any]]
    ) -> list[ObservedPool]:
        """Turn what was read of the `watched` kinds, by their plurals, into pools; asks nobody."""
        return []

    async def close(self) -> None:  # noqa: B027 - most open nothing
        """Close what was opened, such as a client."""

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call something that blocks, such as a cloud's own SDK, without stopping an event loop."""
        if self.cluster.blocking:
            return function(*args, **kwargs)
        return await asyncio.to_thread(function, *args, **kwargs)

    # --- help -----------------------------------------------------------------------------------------------------

    async def list_kind(self, kind: Kind, labels: Mapping[str, str] | None) -> list[dict[str, Any]]:
        """Objects with our labels; a cluster that does not know the kind has none."""
        try:
            return await self.cluster.list(kind, labels=labels or {names.WORKSPACE: None})
        except ClusterError as error:
            if error.status != 404:
                raise
            return []


class PoolTaken(RuntimeError):
    """Another run holds this pool.

    :param runs: the labels of the runs that hold it, where they are known.
    """

    def __init__(self, message: str, runs: Iterable[str | None] = ()) -> None:
        super().__init__(message)
        self.runs = tuple(sorted(run for run in runs if run))


class ForeignPool(PoolTaken):
    """Something of that name exists that is not ours: it is not touched."""


def taken(key: PoolKey, runs: Iterable[str | None]) -> PoolTaken:
    """The error of a tuning pool that other runs hold."""
    held = sorted(run for run in runs if run)
    return PoolTaken(
        f"Run {', '.join(held)} holds the tuning machines of Workspace {key.workspace}: "
        "wait until it ends, or stop it.",
        held,
    )


def foreign(kind: str, name: str, key: PoolKey) -> ForeignPool:
    """The error of an object of our name that somebody else made."""
    return ForeignPool(
        f"The cluster has a {kind} {name} that this project did not make for Workspace {key.workspace}; it is not "
        "touched. Delete it, or give the Workspace another name."
    )


def labelled(obj: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= (obj["metadata"].get("labels") or {}).items()
