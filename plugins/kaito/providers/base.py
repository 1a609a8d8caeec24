"""GPU pools: the seam between what a Workspace needs and who provides the machines.

A provider creates, deletes and observes a pool; operators and triggers only know :class:`GpuPoolProvider`. Whether a
pool is ready, and why not, is decided by pure functions (`include.pools.status`), so that the synchronous and the
asyncio side cannot disagree. A provider never touches a machine that its run did not ask for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from include.ledger.unregistered import UnregisteredCapacity
from include.manifests import ManifestSettings
from include.planning import Plan
from include.pools.status import (
    FailureClass,
    PoolStatus,
    classify,
    pool_status,
)
from include.workspace.api import names
from kaito.hooks.api import NODE
from kaito.hooks.kubernetes import KaitoClusterHook

__all__ = [
    "FailureClass",
    "ForeignPool",
    "GpuPool",
    "GpuPoolProvider",
    "PoolKey",
    "PoolStatus",
    "PoolTaken",
    "Purpose",
    "classify",
    "pool_status",
]


class Purpose(StrEnum):
    """What a pool is for. A Workspace may own one pool of each."""

    TUNING = "tuning"
    SERVING = "serving"


@dataclass(frozen=True)
class PoolKey:
    """Which pool: one Workspace's, for one purpose."""

    workspace: str
    namespace: str
    purpose: str

    @classmethod
    def of(cls, workspace: Mapping[str, Any], purpose: str) -> PoolKey:
        """The pool of a Workspace as the cluster returned it."""
        return cls(str(workspace["metadata"]["name"]), names.namespace(workspace), purpose)

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

    :param claims: what the provider is to make, with deterministic names: one manifest for each machine, or the body
        of one pool (see :meth:`GpuPoolProvider.request`).
    """

    key: PoolKey
    run_id: str
    instance_type: str
    claims: tuple[Mapping[str, Any], ...]

    @property
    def names(self) -> list[str]:
        """The names of what is made: NodeClaims or agent pools."""
        return [str(claim.get("name") or claim["metadata"]["name"]) for claim in self.claims]


class GpuPoolProvider(Protocol):
    """What every way to get GPU machines must offer."""

    def request(
        self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings
    ) -> GpuPool:
        """Say what this provider would make for a plan; asks nobody."""

    def create(self, pool: GpuPool) -> list[str]:
        """Make what is missing of the pool; returns the names that this call made."""

    def delete(self, key: PoolKey, run_id: str) -> list[str]:
        """Ask for the deletion of what the run made; returns the names of what is going."""

    def delete_and_wait(self, key: PoolKey, run_id: str, *, timeout: float, poll: float = 0.3) -> None:
        """Delete what the run made and return when it is gone. Raises TimeoutError, in seconds."""

    def observe(self, key: PoolKey) -> PoolStatus:
        """Say what is there now."""

    def unregistered_capacity(self, key: PoolKey) -> list[UnregisteredCapacity] | None:
        """Say which pools may cost more than the cluster shows; None where the cluster shows all."""


class PoolTaken(RuntimeError):
    """Another run holds this pool.

    :param runs: the labels of the runs that hold it, where they are known.
    """

    def __init__(self, message: str, runs: Iterable[str | None] = ()) -> None:
        super().__init__(message)
        self.runs = tuple(sorted(run for run in runs if run))


class ForeignPool(PoolTaken):
    """Something of that name exists that is not ours: it is not touched."""


def let_go_and_wait(
    hook: KaitoClusterHook,
    request_deletion: Callable[[], tuple[list[str], list[str]]],
    *,
    timeout: float,
    poll: float,
) -> None:
    """Ask for a deletion until nothing is left of what it is for, nor of the Nodes that were seen with it.

    :param request_deletion: asks once; returns the names of what is still there, and those of its Nodes.
    :raises TimeoutError: something is still there after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    nodes: set[str] = set()
    while True:
        left, joined = request_deletion()
        nodes.update(joined)
        # A Node may outlive its claim where the cloud's controller is not the one that deletes it.
        left = left or sorted(name for name in nodes if hook.find(NODE, name))
        if not left:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"Still there {timeout:.0f} s after their deletion: {', '.join(left)}.")
        time.sleep(poll)


def labelled(obj: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= (obj["metadata"].get("labels") or {}).items()
