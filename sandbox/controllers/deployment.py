"""The Deployment controller: one ReplicaSet per pod template.

Replicas move from old to new within maxSurge and maxUnavailable; it must never touch a pod itself.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any, ClassVar

from sandbox.controllers.ownership import (
    condition_of,
    controlled_by,
    is_terminating,
    owner_reference,
    set_condition,
    template_hash,
)
from sandbox.controllers.reconciler import (
    Controller,
    Feeds,
    Key,
    Object,
    key_of,
    read,
    remove,
    write_status,
)
from sandbox.controllers.replicaset import REPLICASETS

DEPLOYMENTS = "deployments.apps"
HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"


def share(value: int | str | None, total: int, *, up: bool) -> int:
    """`maxSurge`/`maxUnavailable` in pods: a number, or a percentage rounded up or down."""
    if isinstance(value, str) and value.endswith("%"):
        part = total * int(value[:-1]) / 100
        return math.ceil(part) if up else math.floor(part)
    return int(value or 0)


def build_replica_set(deployment: Object, revision: int) -> Object:
    namespace, name = key_of(deployment)
    spec = deployment["spec"]
    hashed = template_hash(spec["template"])
    template, selector = deepcopy(spec["template"]), deepcopy(spec["selector"])
    template["metadata"]["labels"] = {**(template["metadata"].get("labels") or {}), HASH_LABEL: hashed}
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: hashed}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{name}-{hashed}",
            "namespace": namespace,
            "labels": dict(template["metadata"]["labels"]),
            "annotations": {REVISION: str(revision)},
            "ownerReferences": [owner_reference(deployment, "apps/v1", "Deployment")],
        },
        "spec": {"replicas": 0, "selector": selector, "template": template},
    }


def revision_of(replica_set: Object) -> int:
    return int((replica_set["metadata"].get("annotations") or {}).get(REVISION, "0"))


def next_sizes(deployment: Object, new: Object, old: list[Object]) -> dict[str, int]:
    """How many replicas each ReplicaSet should have now, by name. Pure: one step of the rollout."""
    spec = deployment["spec"]
    wanted = int(spec.get("replicas", 1))
    strategy = spec.get("strategy") or {}
    sizes = {rs["metadata"]["name"]: int(rs["spec"].get("replicas", 0)) for rs in [new, *old]}
    name = new["metadata"]["name"]
    old_total = sum(sizes[rs["metadata"]["name"]] for rs in old)
    if strategy.get("type") == "Recreate":
        alive = sum(int((rs.get("status") or {}).get("replicas", 0)) for rs in old)
        return dict.fromkeys(sizes, 0) | {name: wanted if alive == 0 and old_total == 0 else sizes[name]}
    rolling = strategy.get("rollingUpdate") or {}
    surge = share(rolling.get("maxSurge", "25%"), wanted, up=True)
    unavailable = share(rolling.get("maxUnavailable", "25%"), wanted, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    room = max(0, wanted + surge - old_total - sizes[name])
    sizes[name] = wanted if sizes[name] > wanted else min(wanted, sizes[name] + room)
    available = sum(int((rs.get("status") or {}).get("availableReplicas", 0)) for rs in [new, *old])
    removable = max(0, available - (wanted - unavailable))
    for rs in sorted(old, key=revision_of):
        ready = int((rs.get("status") or {}).get("availableReplicas", 0))
        unhealthy = max(0, sizes[rs["metadata"]["name"]] - ready)
        drop = min(sizes[rs["metadata"]["name"]], unhealthy + removable)
        removable -= max(0, drop - unhealthy)
        sizes[rs["metadata"]["name"]] -= drop
    return sizes


class DeploymentController(Controller):
    resource: ClassVar[str] = DEPLOYMENTS

    def __init__(self, cluster: Any, feeds: Feeds) -> None:
        super().__init__(cluster, feeds)
        self.follow_owned(REPLICASETS, "Deployment")

    async def reconcile(self, key: Key) -> float | None:
        deployment = await read(self.cluster, DEPLOYMENTS, key)
        if deployment is None or is_terminating(deployment):
            return None
        new, old = await self._replica_sets(deployment)
        if not deployment["spec"].get("paused"):
            for replica_set in [new, *old]:
                size = next_sizes(deployment, new, old)[replica_set["metadata"]["name"]]
                await self._scale(deployment, replica_set, size)
        await self._prune(deployment, old)
        new, old = await self._replica_sets(deployment)
        await self._write_status(deployment, new, old)
        return None

    async def _replica_sets(self, deployment: Object) -> tuple[Object, list[Object]]:
        namespace, name = key_of(deployment)
        listed, _ = await self.cluster.list(REPLICASETS, namespace)
        own = controlled_by(deployment, listed)
        newest = f"{name}-{template_hash(deployment['spec']['template'])}"
        old = [rs for rs in own if rs["metadata"]["name"] != newest]
        new = next((rs for rs in own if rs["metadata"]["name"] == newest), None)
        revision = 1 + max(map(revision_of, old), default=0)
        if new is None:
            new = await self.cluster.create(REPLICASETS, build_replica_set(deployment, revision), namespace)
        elif revision_of(new) < revision:
            new["metadata"].setdefault("annotations", {})[REVISION] = str(revision)
            new = await self.cluster.update(REPLICASETS, new)
        if (deployment["metadata"].get("annotations") or {}).get(REVISION) != str(revision_of(new)):
            patch = {"metadata": {"annotations": {REVISION: str(revision_of(new))}}}
            deployment |= await self.cluster.patch(DEPLOYMENTS, name, patch, namespace)
        return new, old

    async def _scale(self, deployment: Object, replica_set: Object, size: int) -> None:
        present = int(replica_set["spec"].get("replicas", 0))
        if present == size:
            return
        namespace, name = key_of(replica_set)
        await self.cluster.patch(REPLICASETS, name, {"spec": {"replicas": size}}, namespace)
        word = "up" if size > present else "down"
        message = f"Scaled {word} replica set {name} from {present} to {size}"
        await self.cluster.event(deployment, "Normal", "ScalingReplicaSet", message, "deployment-controller")

    async def _prune(self, deployment: Object, old: list[Object]) -> None:
        limit = int(deployment["spec"].get("revisionHistoryLimit", 10))
        empty = [
            rs
            for rs in old
            if not rs["spec"].get("replicas") and not (rs.get("status") or {}).get("replicas")
        ]
        for replica_set in sorted(empty, key=revision_of)[: max(0, len(empty) - limit)]:
            await remove(self.cluster, REPLICASETS, replica_set)

    async def _write_status(self, deployment: Object, new: Object, old: list[Object]) -> None:
        wanted = int(deployment["spec"].get("replicas", 1))
        every = [rs.get("status") or {} for rs in [new, *old]]
        total = sum(s.get("replicas", 0) for s in every)
        available = sum(s.get("availableReplicas", 0) for s in every)
        updated = (new.get("status") or {}).get("replicas", 0)
        rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
        least = wanted - share(rolling.get("maxUnavailable", "25%"), wanted, up=False)
        conditions = list((deployment.get("status") or {}).get("conditions") or [])
        if available >= least:
            message = "Deployment has minimum availability."
            conditions = set_condition(conditions, "Available", "True", "MinimumReplicasAvailable", message)
        else:
            message = "Deployment does not have minimum availability."
            conditions = set_condition(
                conditions, "Available", "False", "MinimumReplicasUnavailable", message
            )
        name = new["metadata"]["name"]
        if updated == wanted and total == wanted and available >= wanted:
            message = f'ReplicaSet "{name}" has successfully progressed.'
            conditions = set_condition(conditions, "Progressing", "True", "NewReplicaSetAvailable", message)
        elif (condition_of(deployment, "Progressing") or {}).get("reason") != "ReplicaSetUpdated":
            message = f'ReplicaSet "{name}" is progressing.'
            conditions = set_condition(conditions, "Progressing", "True", "ReplicaSetUpdated", message)
        status: Object = {
            "observedGeneration": deployment["metadata"].get("generation", 1),
            "replicas": total,
            "updatedReplicas": updated,
            "readyReplicas": sum(s.get("readyReplicas", 0) for s in every),
            "availableReplicas": available,
            "unavailableReplicas": max(0, max(total, wanted) - available),
            "conditions": conditions,
        }
        await write_status(
            self.cluster,
            DEPLOYMENTS,
            deployment,
            {k: v for k, v in status.items() if v != 0 or k == "replicas"},
        )
