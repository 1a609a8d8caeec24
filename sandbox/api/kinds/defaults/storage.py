"""Defaults of volumes, claims, storage classes, namespaces, secrets and the like."""

from __future__ import annotations

import base64
from typing import Any

from sandbox.api.kinds.strategy import Site
from sandbox.api.meta import metadata

Json = dict[str, Any]


def claim(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("volumeMode", "Filesystem")


def admit_claim(obj: Json, site: Site) -> None:
    spec = obj["spec"]
    obj["status"] = {"phase": "Pending"}
    if "storageClassName" not in spec and "volume.beta.kubernetes.io/storage-class" not in (
        metadata(obj).get("annotations") or {}
    ):
        name = site.default_storage_class()
        if name is not None:
            spec["storageClassName"] = name


def volume(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("volumeMode", "Filesystem")
    spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
    if host := spec.get("hostPath"):
        host.setdefault("type", "")


def storage_class(obj: Json) -> None:
    obj.setdefault("reclaimPolicy", "Delete")
    obj.setdefault("volumeBindingMode", "Immediate")


def limit_range(obj: Json) -> None:
    """For containers, what is left open follows from what is given (SetDefaults_LimitRangeItem)."""
    for item in (obj.get("spec") or {}).get("limits") or ():
        if item.get("type") == "Container":
            limits = item["default"] = {**(item.get("max") or {}), **(item.get("default") or {})}
            requests = {**(item.get("min") or {}), **limits, **(item.get("defaultRequest") or {})}
            item["defaultRequest"] = requests
            for name in ("default", "defaultRequest"):
                if not item[name]:
                    del item[name]


def namespace(obj: Json) -> None:
    meta = metadata(obj)
    if meta.get("name"):
        labels = meta["labels"] = dict(meta.get("labels") or {})
        labels["kubernetes.io/metadata.name"] = meta["name"]


def admit_namespace(obj: Json) -> None:
    finalizers = obj.setdefault("spec", {}).setdefault("finalizers", [])
    if "kubernetes" not in finalizers:
        finalizers.append("kubernetes")
    obj["status"] = {"phase": "Active"}


def secret(obj: Json) -> None:
    obj.setdefault("type", "Opaque")
    plain = obj.pop("stringData", None)
    for key, value in (plain or {}).items():
        obj.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()
