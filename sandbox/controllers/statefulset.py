"""The StatefulSet controller: pods with stable names and volumes, made and replaced in order (or in parallel).

It must never delete a volume that the set's retention policy keeps, and never touch a pod of another owner.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

from sandbox.api.cluster import ApiError
from sandbox.controllers.ownership import (
    controlled_by,
    is_finished,
    is_ready,
    is_terminating,
    owner_reference,
    pod_from_template,
    template_hash,
)
from sandbox.controllers.reconciler import (
    CONFLICT,
    Controller,
    Feeds,
    Key,
    Object,
    key_of,
    read,
    remove,
    write_status,
)

STATEFULSETS = "statefulsets.apps"
REVISION_LABEL = "controller-revision-hash"


def ordinal(pod: Object) -> int:
    """The number at the end of a StatefulSet pod's name; -1 when it has none."""
    tail = str(pod["metadata"]["name"]).rpartition("-")[2]
    return int(tail) if tail.isdigit() else -1


def build_pod(stateful_set: Object, number: int, revision: str) -> Object:
    """Pod `<set>-<number>` with its stable identity and its own claims."""
    metadata, spec = stateful_set["metadata"], stateful_set["spec"]
    name = f"{metadata['name']}-{number}"
    owner = owner_reference(stateful_set, "apps/v1", "StatefulSet")
    pod = pod_from_template(spec["template"], metadata["namespace"], owner)
    pod["metadata"]["name"] = name
    pod["metadata"]["labels"] |= {
        "statefulset.kubernetes.io/pod-name": name,
        "apps.kubernetes.io/pod-index": str(number),
        REVISION_LABEL: revision,
    }
    pod["spec"]["hostname"] = name
    if spec.get("serviceName"):
        pod["spec"]["subdomain"] = spec["serviceName"]
    claims = {
        template["metadata"]["name"]: f"{template['metadata']['name']}-{name}"
        for template in spec.get("volumeClaimTemplates") or []
    }
    kept = [volume for volume in pod["spec"].get("volumes") or [] if volume["name"] not in claims]
    own = [
        {"name": volume, "persistentVolumeClaim": {"claimName": claim}} for volume, claim in claims.items()
    ]
    if kept or own:
        pod["spec"]["volumes"] = [*kept, *own]
    return pod


class StatefulSetController(Controller):
    resource: ClassVar[str] = STATEFULSETS

    def __init__(self, cluster: Any, feeds: Feeds) -> None:
        super().__init__(cluster, feeds)
        self.follow_owned("pods", "StatefulSet")

    async def reconcile(self, key: Key) -> float | None:
        stateful_set = await read(self.cluster, STATEFULSETS, key)
        if stateful_set is None or is_terminating(stateful_set):
            return None
        update = await self._revision(stateful_set)
        pods, _ = await self.cluster.list("pods", key[0])
        pods = sorted(controlled_by(stateful_set, pods), key=ordinal)
        current = self._current_revision(stateful_set, pods, update)
        await self._converge(stateful_set, pods, current, update)
        pods, _ = await self.cluster.list("pods", key[0])
        await self._write_status(stateful_set, controlled_by(stateful_set, pods), current, update)
        return None

    def _current_revision(self, stateful_set: Object, pods: list[Object], update: str) -> str:
        current = (stateful_set.get("status") or {}).get("currentRevision") or update
        wanted = stateful_set["spec"].get("replicas", 1)
        updated = [
            pod for pod in pods if pod["metadata"]["labels"].get(REVISION_LABEL) == update and is_ready(pod)
        ]
        return update if len(updated) >= wanted else current

    async def _revision(self, stateful_set: Object) -> str:
        """The ControllerRevision of the present template, made when it is new."""
        metadata = stateful_set["metadata"]
        template = stateful_set["spec"]["template"]
        name = f"{metadata['name']}-{template_hash(template)}"
        key = (metadata["namespace"], name)
        if await read(self.cluster, "controllerrevisions.apps", key) is None:
            existing, _ = await self.cluster.list("controllerrevisions.apps", key[0])
            own = controlled_by(stateful_set, existing)
            revision = {
                "apiVersion": "apps/v1",
                "kind": "ControllerRevision",
                "metadata": {
                    "name": name,
                    "namespace": key[0],
                    "labels": {
                        **(template["metadata"].get("labels") or {}),
                        "controller.kubernetes.io/hash": name,
                    },
                    "ownerReferences": [owner_reference(stateful_set, "apps/v1", "StatefulSet")],
                },
                "data": {"spec": {"template": {**deepcopy(template), "$patch": "replace"}}},
                "revision": 1 + max((r.get("revision", 0) for r in own), default=0),
            }
            await self.cluster.create("controllerrevisions.apps", revision, key[0])
        return name

    async def _converge(self, stateful_set: Object, pods: list[Object], current: str, update: str) -> None:
        spec = stateful_set["spec"]
        parallel = spec.get("podManagementPolicy") == "Parallel"
        wanted = spec.get("replicas", 1)
        by_number = {ordinal(pod): pod for pod in pods}
        partition = ((spec.get("updateStrategy") or {}).get("rollingUpdate") or {}).get("partition", 0)
        for number in range(wanted):
            pod = by_number.get(number)
            if pod is not None and is_finished(pod) and not is_terminating(pod):
                await remove(self.cluster, "pods", pod)
                await self._record_event(
                    stateful_set, "Normal", "SuccessfulDelete", f"delete Pod {key_name(pod)}: it has ended"
                )
                pod = await read(self.cluster, "pods", (stateful_set["metadata"]["namespace"], key_name(pod)))
            if pod is None:
                await self._create(stateful_set, number, current if number < partition else update)
            if not parallel and (pod is None or not is_ready(pod) or is_terminating(pod)):
                return
        if await self._scale_down(stateful_set, [pod for pod in reversed(pods) if ordinal(pod) >= wanted]):
            await self._roll(stateful_set, by_number, update, partition)

    async def _scale_down(self, stateful_set: Object, surplus: list[Object]) -> bool:
        """Remove pods beyond the wanted number, the highest first; False while in-order removal must wait."""
        for pod in surplus:
            if not is_terminating(pod):
                await self._hand_over_claims(stateful_set, pod)
                await remove(self.cluster, "pods", pod)
                message = (
                    f"delete Pod {key_name(pod)} in StatefulSet {stateful_set['metadata']['name']} successful"
                )
                await self._record_event(stateful_set, "Normal", "SuccessfulDelete", message)
            if stateful_set["spec"].get("podManagementPolicy") != "Parallel":
                return False
        return True

    async def _roll(self, stateful_set: Object, pods: dict[int, Object], update: str, partition: int) -> None:
        """Replace one pod of an older template, the highest first; wait for each to be there and ready again."""
        spec = stateful_set["spec"]
        if (spec.get("updateStrategy") or {}).get("type") == "OnDelete":
            return
        for number in reversed(range(partition, spec.get("replicas", 1))):
            pod = pods.get(number)
            if pod is None or is_terminating(pod):
                return
            if pod["metadata"]["labels"].get(REVISION_LABEL) != update:
                await remove(self.cluster, "pods", pod)
                await self._record_event(
                    stateful_set, "Normal", "SuccessfulDelete", f"delete Pod {key_name(pod)} for update"
                )
                return
            if not is_ready(pod):
                return

    async def _create(self, stateful_set: Object, number: int, revision: str) -> None:
        pod = build_pod(stateful_set, number, revision)
        if revision != await self._revision(stateful_set):
            pod = await self._pod_of_revision(stateful_set, number, revision) or pod
        await self._make_claims(stateful_set, number)
        try:
            await self.cluster.create("pods", pod, pod["metadata"]["namespace"])
        except ApiError as error:
            if error.code != CONFLICT:
                name = stateful_set["metadata"]["name"]
                message = f"create Pod {key_name(pod)} in StatefulSet {name} failed error: {error.message}"
                await self._record_event(stateful_set, "Warning", "FailedCreate", message)
                raise
        else:
            message = (
                f"create Pod {key_name(pod)} in StatefulSet {stateful_set['metadata']['name']} successful"
            )
            await self._record_event(stateful_set, "Normal", "SuccessfulCreate", message)

    async def _pod_of_revision(self, stateful_set: Object, number: int, revision: str) -> Object | None:
        stored = await read(
            self.cluster, "controllerrevisions.apps", (stateful_set["metadata"]["namespace"], revision)
        )
        if stored is None:
            return None
        template = {k: v for k, v in stored["data"]["spec"]["template"].items() if k != "$patch"}
        older = {**stateful_set, "spec": {**stateful_set["spec"], "template": template}}
        return build_pod(older, number, revision)

    async def _make_claims(self, stateful_set: Object, number: int) -> None:
        """The claims of pod `number`; owned by the set only where the retention policy deletes them with it."""
        metadata, spec = stateful_set["metadata"], stateful_set["spec"]
        policy = spec.get("persistentVolumeClaimRetentionPolicy") or {}
        owners = []
        if policy.get("whenDeleted") == "Delete":
            owners.append({**owner_reference(stateful_set, "apps/v1", "StatefulSet"), "controller": False})
        for template in spec.get("volumeClaimTemplates") or []:
            claim = deepcopy(template)
            claim.pop("status", None)
            claim |= {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
            labels = {
                **(claim["metadata"].get("labels") or {}),
                **(spec["selector"].get("matchLabels") or {}),
            }
            claim["metadata"] = {
                "name": f"{template['metadata']['name']}-{metadata['name']}-{number}",
                "namespace": metadata["namespace"],
                "labels": labels,
                "annotations": dict(template["metadata"].get("annotations") or {}),
                "ownerReferences": owners,
            }
            try:
                await self.cluster.create("persistentvolumeclaims", claim, metadata["namespace"])
            except ApiError as error:
                if error.code != CONFLICT:
                    raise

    async def _hand_over_claims(self, stateful_set: Object, pod: Object) -> None:
        """With `whenScaled: Delete`, let the claims of a pod that is scaled away go with it."""
        spec = stateful_set["spec"]
        if (spec.get("persistentVolumeClaimRetentionPolicy") or {}).get("whenScaled") != "Delete":
            return
        namespace, name = key_of(pod)
        owner = {**owner_reference(pod, "v1", "Pod"), "controller": False}
        for template in spec.get("volumeClaimTemplates") or []:
            claim = await read(
                self.cluster, "persistentvolumeclaims", (namespace, f"{template['metadata']['name']}-{name}")
            )
            if claim is not None:
                claim["metadata"]["ownerReferences"] = [owner]
                await self.cluster.update("persistentvolumeclaims", claim)

    async def _write_status(
        self, stateful_set: Object, pods: list[Object], current: str, update: str
    ) -> None:
        revisions = [pod["metadata"]["labels"].get(REVISION_LABEL) for pod in pods if not is_terminating(pod)]
        ready = sum(is_ready(pod) and not is_terminating(pod) for pod in pods)
        status: Object = {
            "observedGeneration": stateful_set["metadata"].get("generation", 1),
            "replicas": len(pods),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "currentReplicas": revisions.count(current),
            "updatedReplicas": revisions.count(update),
            "currentRevision": current,
            "updateRevision": update,
            "collisionCount": 0,
        }
        await write_status(self.cluster, STATEFULSETS, stateful_set, status)

    async def _record_event(self, stateful_set: Object, type_: str, reason: str, message: str) -> None:
        await self.cluster.event(stateful_set, type_, reason, message, "statefulset-controller")


def key_name(pod: Object) -> str:
    return str(pod["metadata"]["name"])
