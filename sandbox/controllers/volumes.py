"""The volume binder: a PersistentVolumeClaim of a class of ours gets a PersistentVolume, which is a folder.

Folders could be mounted anywhere; they belong to a zone or a node all the same, because real disks do.

It must never delete a folder before its claim is gone (the API server keeps a claim while a pod uses it), and never
one outside `volumes/`.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from sandbox.controllers.ownership import is_terminating
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
from sandbox.controllers.volume_binding import (
    CLAIMS,
    DISK_ZONE,
    SELECTED_NODE,
    VOLUMES,
    class_of,
    is_allowed,
    is_bound,
    selected_node,
    waits_for_consumer,
)

PROVISIONER = "sandbox.local/folder"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
BINDER = "persistentvolume-controller"
NO_NODE_YET = 1.0  # seconds until a volume that some node must be able to mount is tried again

#: The parameter of our classes that says what a volume belongs to, and the node label that tells it.
TOPOLOGY = "topology"
_TOPOLOGY_KEYS = {"zone": DISK_ZONE, "node": "kubernetes.io/hostname"}


def storage_classes() -> list[Object]:
    """The classes of the sandbox: what AKS, kind and a file share offer. The first one is the default."""
    return [
        _class("sandbox-disk", "zone", "WaitForFirstConsumer", default=True),  # as AKS' managed-csi
        _class("sandbox-disk-immediate", "zone", "Immediate"),
        _class("sandbox-node", "node", "WaitForFirstConsumer"),  # as local-path of kind and k3d
        _class("sandbox-file", "any", "Immediate"),  # as a file share, which every node can mount
    ]


def _class(name: str, topology: str, mode: str, *, default: bool = False) -> Object:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": annotations},
        "provisioner": PROVISIONER,
        "parameters": {TOPOLOGY: topology},
        "reclaimPolicy": "Delete",
        "volumeBindingMode": mode,
        "allowVolumeExpansion": True,
    }


def topology_key(class_: Object) -> str:
    """The node label by which volumes of a class are placed; "" when every node can mount them."""
    return _TOPOLOGY_KEYS.get((class_.get("parameters") or {}).get(TOPOLOGY, ""), "")


def build_volume(claim: Object, class_: Object, folder: Path, place: Mapping[str, str]) -> Object:
    """:param place: the node labels that a node must have to mount it; none for all nodes."""
    namespace, name = key_of(claim)
    volume: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": f"pvc-{claim['metadata']['uid']}",
            "annotations": {PROVISIONED_BY: PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": class_.get("reclaimPolicy", "Delete"),
            "storageClassName": class_["metadata"]["name"],
            "volumeMode": "Filesystem",
            "hostPath": {"path": str(folder), "type": "DirectoryOrCreate"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": namespace,
                "name": name,
                "uid": claim["metadata"]["uid"],
            },
        },
    }
    if place:
        terms = [{"key": key, "operator": "In", "values": [value]} for key, value in place.items()]
        volume["spec"]["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": terms}]}}
    return volume


class VolumeBinder(Controller):
    resource: ClassVar[str] = CLAIMS

    def __init__(self, cluster: Any, feeds: Feeds, folder: Path) -> None:
        super().__init__(cluster, feeds)
        self._folder = folder
        feeds.subscribe(VOLUMES, self._volume_changed)

    def _volume_changed(self, event: str, volume: Object) -> None:
        reference = volume["spec"].get("claimRef") or {}
        if reference and event != "DELETED":
            self.enqueue((reference["namespace"], reference["name"]))

    async def reconcile(self, key: Key) -> float | None:
        claim = await read(self.cluster, CLAIMS, key)
        if claim is None:
            await self._release(key, keep_uid=None)
            return None
        await self._release(key, keep_uid=claim["metadata"]["uid"])
        if is_terminating(claim):
            return None
        if not is_bound(claim):
            return await self._bind(claim)
        return None

    async def _bind(self, claim: Object) -> float | None:
        named = claim["spec"].get("volumeName")
        if named:
            volume = await read(self.cluster, VOLUMES, ("", named))
            if volume is not None:
                await self._bind_to(claim, volume)
            return None
        class_ = await class_of(self.cluster, claim)
        if class_ is None or class_.get("provisioner") != PROVISIONER:
            await self._record_event(claim, *_unprovisioned(claim, class_))
            return None
        if waits_for_consumer(class_) and not selected_node(claim):
            waiting = "waiting for first consumer to be created before binding"
            await self._record_event(claim, "Normal", "WaitForFirstConsumer", waiting)
            return None
        place = await self._place(claim, class_)
        if place is None:
            return NO_NODE_YET
        await self._bind_to(claim, await self._provisioned(claim, class_, place))
        return None

    async def _bind_to(self, claim: Object, volume: Object) -> None:
        if claim["spec"].get("volumeName") != volume["metadata"]["name"]:
            claim["spec"]["volumeName"] = volume["metadata"]["name"]
            annotations = {
                "pv.kubernetes.io/bind-completed": "yes",
                "pv.kubernetes.io/bound-by-controller": "yes",
            }
            claim["metadata"].setdefault("annotations", {}).update(annotations)
            claim = await self.cluster.update(CLAIMS, claim)
        await write_status(self.cluster, VOLUMES, volume, {"phase": "Bound"})
        spec = volume["spec"]
        status = {"phase": "Bound", "accessModes": spec["accessModes"], "capacity": spec["capacity"]}
        await write_status(self.cluster, CLAIMS, claim, status)

    async def _place(self, claim: Object, class_: Object) -> dict[str, str] | None:
        """Where a claim's volume will be: of the node chosen for its consumer, else of any node. None: nowhere yet."""
        key = topology_key(class_)
        if not key:
            return {}
        nodes, _ = await self.cluster.list("nodes")
        if chosen := selected_node(claim):
            nodes = [node for node in nodes if node["metadata"]["name"] == chosen]
            if not nodes:  # the scheduler has to choose again
                why = f'failed to get target node: nodes "{chosen}" not found'
                await self._record_event(claim, "Warning", "ProvisioningFailed", why)
                forgotten = {"metadata": {"annotations": {SELECTED_NODE: None}}}
                await self.cluster.patch(CLAIMS, claim["metadata"]["name"], forgotten, key_of(claim)[0])
                return None
        labels = [n["metadata"].get("labels") or {} for n in nodes if is_allowed(class_, n)]
        places = sorted({result[key] for result in labels if key in result})
        if not places:
            why = (
                f'failed to provision volume with StorageClass "{class_["metadata"]["name"]}": error generating '
                "accessibility requirements: no available topology found"
            )
            await self._record_event(claim, "Warning", "ProvisioningFailed", why)
            return None
        return {key: places[0]}

    async def _provisioned(self, claim: Object, class_: Object, place: dict[str, str]) -> Object:
        """The claim's folder as a volume, made if it is not there yet."""
        folder = self._folder / f"pvc-{claim['metadata']['uid']}"
        await asyncio.to_thread(_make_folder, folder)
        volume = build_volume(claim, class_, folder, place)
        present = await read(self.cluster, VOLUMES, key_of(volume))
        if present is not None:
            return present
        created: Object = await self.cluster.create(VOLUMES, volume)
        message = f"Successfully provisioned volume {volume['metadata']['name']}"
        await self.cluster.event(claim, "Normal", "ProvisioningSucceeded", message, PROVISIONER)
        return created

    async def _record_event(self, claim: Object, type_: str, reason: str, message: str) -> None:
        await self.cluster.event(claim, type_, reason, message, BINDER)

    async def _release(self, key: Key, keep_uid: str | None) -> None:
        """Volumes of a claim of this name that is gone: Delete removes object and folder, Retain marks it Released."""
        volumes, _ = await self.cluster.list(VOLUMES)
        for volume in volumes:
            reference = volume["spec"].get("claimRef") or {}
            if (reference.get("namespace"), reference.get("name")) != key or reference.get("uid") == keep_uid:
                continue
            await write_status(self.cluster, VOLUMES, volume, {"phase": "Released"})
            if volume["spec"].get("persistentVolumeReclaimPolicy") != "Delete":
                continue
            if (volume["metadata"].get("annotations") or {}).get(PROVISIONED_BY) == PROVISIONER:
                folder = self._folder / volume["metadata"]["name"]
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            await remove(self.cluster, VOLUMES, volume)


def _make_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)  # any runAsUser may write, as on a volume with fsGroup


def _unprovisioned(claim: Object, class_: Object | None) -> tuple[str, str, str]:
    """The event about a claim that nobody here makes a volume for."""
    name = claim["spec"].get("storageClassName")
    if not name:
        missing = "no persistent volumes available for this claim and no storage class is set"
        return "Normal", "FailedBinding", missing
    if class_ is None:
        return "Warning", "ProvisioningFailed", f'storageclass.storage.k8s.io "{name}" not found'
    waiting = (
        f"Waiting for a volume to be created either by the external provisioner '{class_.get('provisioner')}' or "
        "manually by the system administrator. If volume creation is delayed, please verify that the provisioner is "
        "running and correctly registered."
    )
    return "Normal", "ExternalProvisioning", waiting
