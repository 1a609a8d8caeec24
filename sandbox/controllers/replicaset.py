"""The ReplicaSet controller: as many pods of one template as asked, none of them special."""

from __future__ import annotations

from typing import Any, ClassVar

from sandbox.api.cluster import ApiError
from sandbox.controllers.ownership import (
    controlled_by,
    is_active,
    is_ready,
    is_terminating,
    owner_reference,
    pod_from_template,
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

REPLICASETS = "replicasets.apps"


def surplus_first(pod: Object) -> tuple[bool, bool, str]:
    """The order in which surplus pods go: unscheduled, then not ready, then the youngest."""
    age = str(pod["metadata"].get("creationTimestamp") or "")
    return bool(pod["spec"].get("nodeName")), is_ready(pod), "".join(chr(0x10FFFF - ord(c)) for c in age)


class ReplicaSetController(Controller):
    resource: ClassVar[str] = REPLICASETS

    def __init__(self, cluster: Any, feeds: Feeds) -> None:
        super().__init__(cluster, feeds)
        self.follow_owned("pods", "ReplicaSet")

    async def reconcile(self, key: Key) -> float | None:
        replica_set = await read(self.cluster, REPLICASETS, key)
        if replica_set is None or is_terminating(replica_set):
            return None
        active = await self._active(replica_set)
        wanted = int(replica_set["spec"].get("replicas", 1))
        for _ in range(wanted - len(active)):
            await self._create(replica_set)
        for pod in sorted(active, key=surplus_first)[: max(0, len(active) - wanted)]:
            await remove(self.cluster, "pods", pod)
            await self._record_event(
                replica_set, "Normal", "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}"
            )
        active = await self._active(replica_set)
        ready = sum(map(is_ready, active))
        status: Object = {
            "observedGeneration": replica_set["metadata"].get("generation", 1),
            "replicas": len(active),
            "fullyLabeledReplicas": len(active),
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        await write_status(self.cluster, REPLICASETS, replica_set, status)
        return None

    async def _active(self, replica_set: Object) -> list[Object]:
        pods, _ = await self.cluster.list("pods", key_of(replica_set)[0])
        return [pod for pod in controlled_by(replica_set, pods) if is_active(pod)]

    async def _create(self, replica_set: Object) -> None:
        namespace, name = key_of(replica_set)
        owner = owner_reference(replica_set, "apps/v1", "ReplicaSet")
        pod = pod_from_template(replica_set["spec"]["template"], namespace, owner)
        pod["metadata"]["generateName"] = f"{name}-"
        try:
            created = await self.cluster.create("pods", pod, namespace)
        except ApiError as error:
            await self._record_event(
                replica_set, "Warning", "FailedCreate", f"Error creating: {error.message}"
            )
            raise
        await self._record_event(
            replica_set, "Normal", "SuccessfulCreate", f"Created pod: {created['metadata']['name']}"
        )

    async def _record_event(self, replica_set: Object, type_: str, reason: str, message: str) -> None:
        await self.cluster.event(replica_set, type_, reason, message, "replicaset-controller")
