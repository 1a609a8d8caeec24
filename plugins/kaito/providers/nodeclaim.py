"""GPU machines as NodeClaims of Karpenter's core API, one for each machine: gpu-provisioner, or whoever serves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from include.contracts.purpose import Purpose
from include.manifests import ManifestSettings
from include.planning import Plan
from include.pools import nodeclaim
from include.pools.nodeclaim import KIND, instance_types, node_claims, node_of
from include.pools.observed import ObservedPool, group_status
from include.pools.status import PoolStatus, deleting
from include.workspace.api import names
from kaito.hooks import api
from kaito.hooks.api import NODE, ClusterError, Kind
from kaito.providers.base import (
    DELETE_ATTEMPTS,
    GpuPool,
    PoolKey,
    foreign,
    labelled,
    taken,
)
from kaito.providers.karpenter import KarpenterProvider

NODE_CLAIM = Kind("karpenter.sh", "v1", "nodeclaims", KIND, namespaced=False)
GONE_SECONDS = 600.0


class NodeClaims(KarpenterProvider):
    """Karpenter-core's API: one NodeClaim for each machine."""

    name = names.ProviderName.NODE_CLAIM
    kind = KIND
    keeps_zones = False  # KAITO's gpu-provisioner passes over them
    objects = NODE_CLAIM
    watched = (NODE_CLAIM,)

    def request(
        self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings
    ) -> GpuPool:
        """Return the pool of a plan: one NodeClaim for each machine."""
        claims = node_claims(workspace, plan, run_id, settings)
        return GpuPool(PoolKey.of(workspace, plan.purpose), run_id, plan.instance_type, tuple(claims))

    async def create(self, pool: GpuPool) -> list[str]:
        """Make the missing NodeClaims.

        Machines that the Workspace already has for this purpose are counted. A serving pool is simply used again; a
        tuning pool belongs to its run until that run deletes it.

        :raises PoolTaken: another run is tuning on this pool.
        :raises ForeignPool: a NodeClaim of that name is not ours.
        """
        existing = await self.cluster.list(NODE_CLAIM, labels=pool.key.labels)
        for claim in [claim for claim in existing if deleting(claim)]:
            await self.cluster.delete_and_wait(NODE_CLAIM, claim["metadata"]["name"], timeout=GONE_SECONDS)
        live = [c for c in existing if not deleting(c) and pool.instance_type in instance_types(c)]
        owners = {c["metadata"].get("labels", {}).get(names.RUN_ID) for c in live} - {pool.run_id, None}
        if owners and pool.key.purpose == Purpose.TUNING:
            raise taken(pool.key, owners)
        have = {claim["metadata"]["name"] for claim in live}
        missing = [c for c in pool.claims if c["metadata"]["name"] not in have]
        made = []
        for manifest in missing[: max(0, len(pool.claims) - len(have))]:
            found, created = await self.cluster.get_or_create(NODE_CLAIM, manifest)
            if created:
                made.append(manifest["metadata"]["name"])
            elif not labelled(found, pool.key.labels):
                raise foreign(KIND, found["metadata"]["name"], pool.key)
        return made

    async def request_deletion(
        self, key: PoolKey, run_id: str, timeout: float | None = None
    ) -> tuple[list[str], list[str]]:
        """A claim that was handed to another run since it was listed has another resourceVersion, and stays."""
        going: list[dict[str, Any]] = []
        held: list[dict[str, Any]] = []
        for _ in range(DELETE_ATTEMPTS):
            going, held = [], []
            for claim in await self.cluster.list(NODE_CLAIM, labels={**key.labels, names.RUN_ID: run_id}):
                metadata = claim["metadata"]
                gone = deleting(claim) or await self.cluster.delete(
                    NODE_CLAIM,
                    metadata["name"],
                    uid=metadata["uid"],
                    version=metadata.get("resourceVersion"),
                )
                (going if gone else held).append(claim)
            if not held:
                break
        nodes = [name for claim in going if (name := node_of(claim))]
        return [claim["metadata"]["name"] for claim in (*going, *held)], nodes

    async def observe(self, key: PoolKey, wanted: int = 1) -> PoolStatus:
        """Say what is there now. A cluster that knows no NodeClaims is an error here."""
        claims = await self.cluster.list(NODE_CLAIM, labels=key.labels)
        return group_status(
            self.read({NODE_CLAIM.plural: claims}, await self.cluster.list(NODE)), KIND, wanted
        )

    async def list_owned(self, labels: Mapping[str, str] | None = None) -> list[ObservedPool]:
        claims = await self.list_kind(NODE_CLAIM, labels)
        nodes = await self.cluster.list(NODE) if claims else []
        return self.read({NODE_CLAIM.plural: claims}, nodes)

    async def hand_over(self, pool: ObservedPool, run_label: str, purpose: str = "") -> bool:
        """Label the claim and its Node; a change of purpose only where the claim is as it was read.

        The Node changes its purpose first: where that is refused, or its worker dies there, the claim is still what
        the old purpose's teardown lets go. A claim that says serving has a Node on which serving pods run.
        """
        labels = {names.RUN_ID: run_label, **({names.POOL: purpose} if purpose else {})}
        guards = {"uid": pool.uid, **({"resourceVersion": pool.version} if purpose else {})}
        if purpose:
            for node in sorted(pool.nodes):
                if not await self._label(NODE, node, {"labels": labels}):
                    return False
        claim = await self._label(NODE_CLAIM, pool.name, {**guards, "labels": labels})
        if claim is None or deleting(claim):
            return False
        if not purpose and (node := node_of(claim)):
            try:
                await self._label(NODE, node, {"labels": labels})
            except ClusterError as error:
                if error.status != 403:  # the claim says the same, and it decides
                    raise
        return True

    async def _label(self, kind: Kind, name: str, metadata: Mapping[str, Any]) -> dict[str, Any] | None:
        """Change an object's metadata; None where it is gone, or another one than is meant."""
        try:
            found: dict[str, Any] = await self.cluster.send(
                api.merge_patch(kind, name, None, {"metadata": dict(metadata)})
            )
        except ClusterError as error:
            if error.status in (404, 409, 422):  # another uid is an invalid change to the API server
                return None
            raise
        return found

    @classmethod
    def read(
        cls, objects: Mapping[str, Sequence[Mapping[str, Any]]], nodes: Sequence[Mapping[str, Any]]
    ) -> list[ObservedPool]:
        by_name = {str(node["metadata"]["name"]): node for node in nodes}
        return [nodeclaim.observed(claim, by_name) for claim in objects.get(NODE_CLAIM.plural, ())]
