"""PersistentVolumes, claims and storage classes."""

from __future__ import annotations

from typing import Any

from sandbox.api.errors import FORBIDDEN, INVALID, REQUIRED, FieldError
from sandbox.api.kinds.validation.pods import supported
from sandbox.api.meta import copied, dig
from sandbox.quantities import parse_quantity

Json = dict[str, Any]
Faults = list[FieldError]

_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
_RULE = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"


def _modes(spec: Json) -> Faults:
    modes = spec.get("accessModes") or []
    if not modes:
        return [FieldError("spec.accessModes", REQUIRED, "", "at least 1 access mode is required")]
    return [fault for mode in modes for fault in supported("spec.accessModes", mode, _MODES)]


def claim_faults(obj: Json) -> Faults:
    spec = obj.get("spec") or {}
    faults = _modes(spec)
    size = dig(spec, "resources", "requests", "storage")
    if size is None:
        faults.append(FieldError("spec.resources[storage]", REQUIRED, ""))
    elif parse_quantity(size) <= 0:
        faults.append(FieldError("spec.resources[storage]", INVALID, size, "must be greater than zero"))
    return faults + supported("spec.volumeMode", spec.get("volumeMode"), ("Block", "Filesystem"))


def claim_update_faults(new: Json, old: Json) -> Faults:
    spec, before = copied(new.get("spec") or {}), copied(old.get("spec") or {})
    asked, had = (
        dig(spec, "resources", "requests", "storage"),
        dig(before, "resources", "requests", "storage"),
    )
    if dig(old, "status", "phase") == "Bound" and asked and had and asked != had:
        if parse_quantity(asked) < parse_quantity(had):
            why = "field can not be less than status.capacity"
            return [FieldError("spec.resources.requests.storage", FORBIDDEN, None, why)]
        spec["resources"]["requests"]["storage"] = had
    if not before.get("volumeName"):  # the binder sets it once
        before.pop("volumeName", None)
        spec.pop("volumeName", None)
    if before.get("storageClassName") is None:
        spec.pop("storageClassName", None)
    return [] if spec == before else [FieldError("spec", FORBIDDEN, None, _RULE)]


def volume_faults(obj: Json) -> Faults:
    spec = obj.get("spec") or {}
    faults = _modes(spec)
    if not dig(spec, "capacity", "storage"):
        faults.append(FieldError("spec.capacity", REQUIRED, ""))
    policies = ("Delete", "Recycle", "Retain")
    return faults + supported(
        "spec.persistentVolumeReclaimPolicy", spec.get("persistentVolumeReclaimPolicy"), policies
    )


def class_faults(obj: Json) -> Faults:
    faults: Faults = []
    if not obj.get("provisioner"):
        faults.append(FieldError("provisioner", REQUIRED, ""))
    faults += supported("reclaimPolicy", obj.get("reclaimPolicy"), ("Delete", "Retain"))
    return faults + supported(
        "volumeBindingMode", obj.get("volumeBindingMode"), ("Immediate", "WaitForFirstConsumer")
    )


def class_update_faults(new: Json, old: Json) -> Faults:
    faults: Faults = []
    for name in ("parameters", "provisioner", "reclaimPolicy"):
        if new.get(name) != old.get(name):
            why = f"updates to {name} are forbidden."
            faults.append(FieldError(name, FORBIDDEN, None, why))
    return faults
