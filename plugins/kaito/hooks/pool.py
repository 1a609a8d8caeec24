"""GPU pools: the seam between what a Workspace needs and who provides the machines.

A provider creates, deletes and observes a pool; operators and triggers only know :class:`GpuPoolProvider`. Whether a
pool is ready, and why not, is decided by pure functions (`include.reconcile.pools`), so that the synchronous and the
asyncio side cannot disagree. A provider never touches a machine that its run did not ask for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from include.ledger.unjoined import Rented
from include.manifests import Settings, node_claims
from include.planning import Plan
from include.reconcile.pools import (
    FailureClass,
    PoolStatus,
    classify,
    deleting,
    instance_types,
    pool_status,
)
from include.workspace.api import names
from kaito.hooks.api import NODE, NODE_CLAIM
from kaito.hooks.cluster import AsyncKaitoClusterHook, KaitoClusterHook

#: A claim that boots is written by its cloud now and then; its deletion, guarded by its version, has to fall between.
DELETE_ATTEMPTS = 5


__all__ = [
    "FailureClass",
    "ForeignPool",
    "GpuPool",
    "GpuPoolProvider",
    "NodeClaimPool",
    "PoolKey",
    "PoolStatus",
    "PoolTaken",
    "Purpose",
    "classify",
    "observe_node_claims",
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

    def request(self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: Settings) -> GpuPool:
        """Say what this provider would make for a plan; asks nobody."""

    def create(self, pool: GpuPool) -> list[str]:
        """Make what is missing of the pool; returns the names that this call made."""

    def delete(self, key: PoolKey, run_id: str) -> list[str]:
        """Ask for the deletion of what the run made; returns the names of what is going."""

    def delete_and_wait(self, key: PoolKey, run_id: str, *, timeout: float, poll: float = 0.3) -> None:
        """Delete what the run made and return when it is gone. Raises TimeoutError, in seconds."""

    def observe(self, key: PoolKey) -> PoolStatus:
        """Say what is there now."""

    def rented(self, key: PoolKey) -> list[Rented] | None:
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
    hook: KaitoClusterHook, let_go: Callable[[], tuple[list[str], list[str]]], *, timeout: float, poll: float
) -> None:
    """Ask for a deletion until nothing is left of what it is for, nor of the Nodes that were seen with it.

    :param let_go: asks once; returns the names of what is still there, and those of its Nodes.
    :raises TimeoutError: something is still there after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    nodes: set[str] = set()
    while True:
        left, joined = let_go()
        nodes.update(joined)
        # A Node may outlive its claim where the cloud's controller is not the one that deletes it.
        left = left or sorted(name for name in nodes if hook.find(NODE, name))
        if not left:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"Still there {timeout:.0f} s after their deletion: {', '.join(left)}.")
        time.sleep(poll)


def _labelled(obj: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= (obj["metadata"].get("labels") or {}).items()


def _node_names(claims: Iterable[Mapping[str, Any]]) -> list[str]:
    return [name for claim in claims if (name := (claim.get("status") or {}).get("nodeName"))]


class NodeClaimPool:
    """Karpenter-core's API: one NodeClaim for each machine (gpu-provisioner, or any controller that serves it)."""

    def __init__(self, hook: KaitoClusterHook) -> None:
        self.hook = hook

    def request(self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: Settings) -> GpuPool:
        """Return the pool of a plan: one NodeClaim for each machine."""
        claims = node_claims(workspace, plan, run_id, settings)
        return GpuPool(PoolKey.of(workspace, plan.purpose), run_id, plan.instance_type, tuple(claims))

    def create(self, pool: GpuPool) -> list[str]:
        """Make the missing NodeClaims.

        Machines that the Workspace already has for this purpose are counted. A serving pool is simply used again; a
        tuning pool belongs to its run until that run lets it go.

        :raises PoolTaken: another run is tuning on this pool.
        :raises ForeignPool: a NodeClaim of that name is not ours.
        """
        existing = self.hook.list(NODE_CLAIM, labels=pool.key.labels)
        for claim in [claim for claim in existing if deleting(claim)]:
            self.hook.delete_and_wait(NODE_CLAIM, claim["metadata"]["name"], timeout=600)
        live = [c for c in existing if not deleting(c) and pool.instance_type in instance_types(c)]
        owners = {c["metadata"].get("labels", {}).get(names.RUN_ID) for c in live} - {pool.run_id, None}
        if owners and pool.key.purpose == Purpose.TUNING:
            raise PoolTaken(
                f"Run {', '.join(sorted(owners))} holds the tuning machines of Workspace {pool.key.workspace}: "
                "wait until it ends, or stop it.",
                owners,
            )
        have = {claim["metadata"]["name"] for claim in live}
        missing = [c for c in pool.claims if c["metadata"]["name"] not in have]
        made = []
        for manifest in missing[: max(0, len(pool.claims) - len(have))]:
            found, created = self.hook.get_or_create(NODE_CLAIM, manifest)
            if created:
                made.append(manifest["metadata"]["name"])
            elif not _labelled(found, pool.key.labels):
                raise ForeignPool(
                    f"The cluster has a NodeClaim {found['metadata']['name']} that this project did not make for "
                    f"Workspace {pool.key.workspace}; it is not touched. Delete it, or give the Workspace another name."
                )
        return made

    def delete(self, key: PoolKey, run_id: str) -> list[str]:
        """Ask for the deletion of the run's NodeClaims; returns their names and those of their Nodes.

        A claim that was handed to another run since it was listed has another resourceVersion, and stays.
        """
        going, held = self._let_go(key, run_id)
        return [claim["metadata"]["name"] for claim in (*going, *held)] + _node_names(going)

    def _let_go(self, key: PoolKey, run_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the run's claims that are going, and those that changed at each attempt to delete them."""
        going: list[dict[str, Any]] = []
        held: list[dict[str, Any]] = []
        for _ in range(DELETE_ATTEMPTS):
            going, held = [], []
            for claim in self.hook.list(NODE_CLAIM, labels={**key.labels, names.RUN_ID: run_id}):
                metadata = claim["metadata"]
                gone = deleting(claim) or self.hook.delete(
                    NODE_CLAIM,
                    metadata["name"],
                    uid=metadata["uid"],
                    version=metadata.get("resourceVersion"),
                )
                (going if gone else held).append(claim)
            if not held:
                break
        return going, held

    def delete_and_wait(self, key: PoolKey, run_id: str, *, timeout: float, poll: float = 0.3) -> None:
        """Delete the run's machines and return when claims and Nodes are gone.

        :raises TimeoutError: something is still there after ``timeout`` seconds.
        """

        def left() -> tuple[list[str], list[str]]:
            going, held = self._let_go(key, run_id)
            return [claim["metadata"]["name"] for claim in (*going, *held)], _node_names(going)

        let_go_and_wait(self.hook, left, timeout=timeout, poll=poll)

    def rented(self, key: PoolKey) -> None:
        """Every machine is a NodeClaim."""

    def observe(self, key: PoolKey) -> PoolStatus:
        return pool_status(self.hook.list(NODE_CLAIM, labels=key.labels), self.hook.list(NODE))


async def observe_node_claims(hook: AsyncKaitoClusterHook, key: PoolKey, wanted: int = 1) -> PoolStatus:
    """As :meth:`NodeClaimPool.observe`, for triggers.

    :param wanted: how many machines were asked for.
    """
    claims = await hook.list(NODE_CLAIM, labels=key.labels)
    return pool_status(claims, await hook.list(NODE), wanted)
