"""GPU machines as NodeClaims of Karpenter's core API, one for each machine: gpu-provisioner, or whoever serves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from include.manifests import ManifestSettings, node_claims
from include.planning import Plan
from include.pools.status import PoolStatus, deleting, instance_types, pool_status
from include.workspace.api import names
from kaito.hooks.api import NODE, NODE_CLAIM
from kaito.hooks.kubernetes import AsyncKaitoClusterHook, KaitoClusterHook
from kaito.providers.base import ForeignPool, GpuPool, PoolKey, PoolTaken, Purpose, labelled, let_go_and_wait

#: A claim that boots is written by its cloud now and then; its deletion, guarded by its version, has to fall between.
DELETE_ATTEMPTS = 5


def _node_names(claims: Iterable[Mapping[str, Any]]) -> list[str]:
    return [name for claim in claims if (name := (claim.get("status") or {}).get("nodeName"))]


class NodeClaimPool:
    """Karpenter-core's API: one NodeClaim for each machine (gpu-provisioner, or any controller that serves it)."""

    def __init__(self, hook: KaitoClusterHook) -> None:
        self.hook = hook

    def request(
        self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings
    ) -> GpuPool:
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
            elif not labelled(found, pool.key.labels):
                raise ForeignPool(
                    f"The cluster has a NodeClaim {found['metadata']['name']} that this project did not make for "
                    f"Workspace {pool.key.workspace}; it is not touched. Delete it, or give the Workspace another name."
                )
        return made

    def delete(self, key: PoolKey, run_id: str) -> list[str]:
        """Ask for the deletion of the run's NodeClaims; returns their names and those of their Nodes.

        A claim that was handed to another run since it was listed has another resourceVersion, and stays.
        """
        going, held = self._request_deletion(key, run_id)
        return [claim["metadata"]["name"] for claim in (*going, *held)] + _node_names(going)

    def _request_deletion(
        self, key: PoolKey, run_id: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
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
            going, held = self._request_deletion(key, run_id)
            return [claim["metadata"]["name"] for claim in (*going, *held)], _node_names(going)

        let_go_and_wait(self.hook, left, timeout=timeout, poll=poll)

    def unregistered_capacity(self, key: PoolKey) -> None:
        """Every machine is a NodeClaim."""

    def observe(self, key: PoolKey) -> PoolStatus:
        return pool_status(self.hook.list(NODE_CLAIM, labels=key.labels), self.hook.list(NODE))


async def observe_node_claims(hook: AsyncKaitoClusterHook, key: PoolKey, wanted: int = 1) -> PoolStatus:
    """As :meth:`NodeClaimPool.observe`, for triggers.

    :param wanted: how many machines were asked for.
    """
    claims = await hook.list(NODE_CLAIM, labels=key.labels)
    return pool_status(claims, await hook.list(NODE), wanted)
