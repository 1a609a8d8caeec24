"""The volume binder: a PersistentVolumeClaim of the sandbox's StorageClass gets a PersistentVolume, which is a folder.

It must never delete a folder before its claim is gone (the API server keeps a claim while a pod uses it), and never
one outside `volumes/`.
"""

from __future__ import annotations

import asyncio
import shutil
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

CLAIMS, VOLUMES, CLASSES = "persistentvolumeclaims", "persistentvolumes", "storageclasses.storage.k8s.io"
STORAGE_CLASS = "sandbox-local"
PROVISIONER = "sandbox.local/folder"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"


def storage_class() -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
        "allowVolumeExpansion": True,
    }


def build_volume(claim: Object, class_: Object, folder: Path) -> Object:
    namespace, name = key_of(claim)
    return {
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
        if (claim.get("status") or {}).get("phase") != "Bound":
            await self._bind(claim)
        return None

    async def _bind(self, claim: Object) -> None:
        volume = await self._chosen_volume(claim)
        if volume is None:
            return
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

    async def _chosen_volume(self, claim: Object) -> Object | None:
        """The volume that the claim names, or a new folder when its class is ours; None leaves it Pending."""
        named = claim["spec"].get("volumeName")
        if named:
            return await read(self.cluster, VOLUMES, ("", named))
        class_name = claim["spec"].get("storageClassName")
        class_ = None if not class_name else await read(self.cluster, CLASSES, ("", class_name))
        if class_ is None or class_.get("provisioner") != PROVISIONER:
            what = (
                f'storageclass.storage.k8s.io "{class_name}" not found'
                if class_name
                else "no storage class is set"
            )
            if class_ is not None:
                what = f"the sandbox provisions only {PROVISIONER}, not {class_.get('provisioner')}"
            await self.cluster.event(
                claim, "Warning", "ProvisioningFailed", what, "persistentvolume-controller"
            )
            return None
        folder = self._folder / f"pvc-{claim['metadata']['uid']}"
        await asyncio.to_thread(_make_folder, folder)
        volume = build_volume(claim, class_, folder)
        present = await read(self.cluster, VOLUMES, key_of(volume))
        if present is not None:
            return present
        created = await self.cluster.create(VOLUMES, volume)
        message = f"Successfully provisioned volume {volume['metadata']['name']}"
        await self.cluster.event(claim, "Normal", "ProvisioningSucceeded", message, PROVISIONER)
        return created

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
