"""A pod's volumes as folders of this machine.

Everything is written below the pod's own folder. Nothing outside it is ever deleted, and a path from a manifest
(`items[].path`, `subPath`) must never lead out of its volume.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sandbox.api.cluster import Cluster
from sandbox.controllers.reconciler import read
from sandbox.node.environment import data_of, expand, field_value, resource_value
from sandbox.node.image_volumes import ImageStore, PullProblem

Object = dict[str, Any]
DEFAULT_MODE = 0o644


class VolumeProblem(Exception):
    """A volume cannot be set up yet; the kubelet tells it as FailedMount and tries again."""


@dataclass(frozen=True)
class Mount:
    """One `--bind`: a file or folder of this machine at a path of the container."""

    source: Path
    target: str
    read_only: bool


def inside(folder: Path, relative: str) -> Path:
    """`folder/relative`, refusing absolute paths and `..`."""
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts:
        raise VolumeProblem(f"{relative!r} must be a relative path inside its volume, without '..'")
    return folder / parts


def _write(folder: Path, relative: str, content: bytes, mode: int) -> None:
    path = inside(folder, relative)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_bytes(content)
    fresh.chmod(mode)
    fresh.replace(path)


def _host_path(source: Object) -> Path:
    """A hostPath volume, checked or made as its type says."""
    path, kind = Path(source["path"]), source.get("type") or ""
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch(exist_ok=True)
    checks = {"Directory": path.is_dir, "File": path.is_file, "Socket": path.is_socket, "": path.exists}
    if not checks.get(kind, path.exists)():
        raise VolumeProblem(f"hostPath type check failed: {path} is not a {kind or 'path of this machine'}")
    return path


class VolumeSet:
    """Sets up the volumes of one pod and turns volumeMounts into mounts."""

    def __init__(
        self, cluster: Cluster, pod: Object, folder: Path, memory_folder: Path, images: ImageStore
    ) -> None:
        """
        :param folder: the pod's own folder, for everything that lives as long as the pod.
        :param memory_folder: the same for emptyDirs of medium Memory.
        :param images: those of the node, which outlive the pod.
        """
        self._images = images
        self._cluster = cluster
        self._pod = pod
        self._folder = folder / "volumes"
        self._memory = memory_folder
        self._namespace = pod["metadata"]["namespace"]
        self._paths: dict[str, tuple[Path, bool]] = {}

    async def set_up(self) -> None:
        """Make every volume; raises VolumeProblem when one cannot be had now."""
        for volume in self._pod["spec"].get("volumes") or []:
            try:
                self._paths[volume["name"]] = await self._make(volume)
            except VolumeProblem as problem:
                raise VolumeProblem(
                    f'MountVolume.SetUp failed for volume "{volume["name"]}" : {problem}'
                ) from None
            except OSError as error:
                raise VolumeProblem(
                    f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}'
                ) from error

    async def refresh(self) -> None:
        """Bring changed ConfigMaps into the volumes that are made of one, as a kubelet does when their pod changes."""
        for volume in self._pod["spec"].get("volumes") or []:
            if "configMap" in volume and volume["name"] in self._paths:
                with suppress(VolumeProblem, OSError):
                    await self._make(volume)

    def tear_down(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self._memory, ignore_errors=True)

    def mounts(self, container: Object, env: dict[str, str]) -> list[Mount]:
        result = []
        for mount in container.get("volumeMounts") or []:
            path, read_only = self._paths[mount["name"]]
            relative = expand(mount["subPathExpr"], env) if mount.get("subPathExpr") else mount.get("subPath")
            if relative:
                path = inside(path, relative)
                if not path.exists():
                    path.mkdir(parents=True, exist_ok=True)
                    path.chmod(0o777)
            result.append(Mount(path, mount["mountPath"], read_only or bool(mount.get("readOnly"))))
        return result

    async def _make(self, volume: Object) -> tuple[Path, bool]:
        """(path, always read-only) of one volume."""
        folder = self._folder / volume["name"]
        if "emptyDir" in volume:
            return self._empty_dir(volume), False
        if "hostPath" in volume:
            return _host_path(volume["hostPath"]), False
        if "persistentVolumeClaim" in volume:
            source = volume["persistentVolumeClaim"]
            return await self._claimed(source["claimName"]), bool(source.get("readOnly"))
        if "image" in volume:
            return await self._image(volume["image"]), True
        folder.mkdir(parents=True, exist_ok=True)
        if "projected" in volume:
            mode = volume["projected"].get("defaultMode", DEFAULT_MODE)
            for source in volume["projected"].get("sources") or []:
                await self._write_source(folder, source, mode)
            return folder, True
        mode = next(
            (v.get("defaultMode", DEFAULT_MODE) for k, v in volume.items() if k != "name"), DEFAULT_MODE
        )
        await self._write_source(folder, volume, mode)
        return folder, True

    async def _image(self, source: Object) -> Path:
        secrets = []
        for reference in self._pod["spec"].get("imagePullSecrets") or []:
            found = await read(self._cluster, "secrets", (self._namespace, reference["name"]))
            text = data_of({**found, "kind": "Secret"}).get(".dockerconfigjson") if found else None
            with suppress(ValueError):
                secrets.append(json.loads(text or b"{}"))
        try:
            return await asyncio.to_thread(self._images.get, source["reference"], secrets)
        except PullProblem as problem:
            raise VolumeProblem(str(problem)) from None

    def _empty_dir(self, volume: Object) -> Path:
        in_memory = (volume["emptyDir"] or {}).get(
            "medium"
        ) == "Memory" and self._memory.parent.parent.is_dir()
        folder: Path = (self._memory if in_memory else self._folder) / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        return folder

    async def _claimed(self, name: str) -> Path:
        claim = await read(self._cluster, "persistentvolumeclaims", (self._namespace, name))
        if claim is None:
            raise VolumeProblem(f'persistentvolumeclaim "{name}" not found')
        volume = await read(self._cluster, "persistentvolumes", ("", claim["spec"].get("volumeName") or ""))
        if volume is None or (claim.get("status") or {}).get("phase") != "Bound":
            raise VolumeProblem(f'persistentvolumeclaim "{name}" is not bound')
        if "hostPath" not in volume["spec"]:
            raise VolumeProblem("the sandbox can mount only PersistentVolumes with hostPath")
        return _host_path({**volume["spec"]["hostPath"], "type": "DirectoryOrCreate"})

    async def _write_source(self, folder: Path, source: Object, mode: int) -> None:
        """The files of a configMap, secret or downwardAPI, alone or as part of a projected volume."""
        if "configMap" in source:
            reference = source["configMap"]
            await self._write_entries(folder, "ConfigMap", reference["name"], reference, mode)
        elif "secret" in source:
            reference = source["secret"]
            name = reference.get("secretName") or reference.get("name")
            await self._write_entries(folder, "Secret", name, reference, mode)
        elif "downwardAPI" in source:
            await self._write_fields(folder, source["downwardAPI"], mode)
        elif "serviceAccountToken" in source:
            raise VolumeProblem("the sandbox gives pods no service account tokens")
        else:
            kinds = ", ".join(key for key in source if key != "name")
            raise VolumeProblem(f"the sandbox does not know volumes of type {kinds}")

    async def _write_entries(self, folder: Path, kind: str, name: str, reference: Object, mode: int) -> None:
        result = await read(self._cluster, f"{kind.lower()}s", (self._namespace, name))
        if result is None:
            if reference.get("optional"):
                return
            raise VolumeProblem(f'{kind.lower()} "{name}" not found')
        entries = data_of({**result, "kind": kind})
        items = reference.get("items") or [{"key": key, "path": key} for key in entries]
        for item in items:
            if item["key"] in entries:
                _write(folder, item["path"], entries[item["key"]], item.get("mode", mode))
            elif not reference.get("optional"):
                raise VolumeProblem(f"references non-existent {kind.lower()} key: {item['key']}")

    async def _write_fields(self, folder: Path, reference: Object, mode: int) -> None:
        for item in reference.get("items") or []:
            if "fieldRef" in item:
                text = field_value(self._pod, item["fieldRef"]["fieldPath"])
            else:
                node = await read(self._cluster, "nodes", ("", self._pod["spec"]["nodeName"]))
                text = resource_value(
                    self._pod, self._pod["spec"]["containers"][0], item["resourceFieldRef"], node
                )
            _write(folder, item["path"], text.encode(), item.get("mode", mode))
