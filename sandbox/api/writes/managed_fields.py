"""metadata.managedFields: who set which field, on every write.

Without this record, server-side apply could not tell a conflict from a takeover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox.api.kinds.types import type_of
from sandbox.api.meta import metadata, timestamp
from sandbox.api.writes.fieldsets import (
    Path,
    compared,
    decoded,
    encoded,
)

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource

Json = dict[str, Any]

# Fields that nobody owns (fieldmanager/stripmeta.go).
_UNOWNED_META = (
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
)
_UNOWNED = {("f:apiVersion",), ("f:kind",), ("f:metadata",)} | {
    ("f:metadata", f"f:{name}") for name in _UNOWNED_META
}

# Structs that an empty object of the Go types already has, so that no creator owns them as such.
_ALWAYS_THERE = {"f:spec", "f:status", "f:template", "f:containers", "f:strategy", "f:updateStrategy"}


@dataclass(frozen=True)
class Manager:
    """One entry's identity. `version` is the apiVersion that its paths are of."""

    name: str
    operation: str  # Apply or Update
    version: str
    subresource: str = ""


@dataclass
class Share:
    fields: set[Path]
    time: str


Shares = dict[Manager, Share]


def owned(paths: set[Path]) -> set[Path]:
    return {
        path
        for path in paths
        if path not in _UNOWNED and path[:2] != ("f:metadata", "f:managedFields") and path
    }


def shares_of(obj: Json) -> Shares:
    """The entries of managedFields; what cannot be read is left out."""
    result: Shares = {}
    for entry in metadata(obj).get("managedFields") or ():
        manager = Manager(
            entry.get("manager", ""),
            entry.get("operation", "Update"),
            entry.get("apiVersion", ""),
            entry.get("subresource", ""),
        )
        result[manager] = Share(decoded(entry.get("fieldsV1") or {}), entry.get("time") or timestamp())
    return result


def write(obj: Json, shares: Shares) -> None:
    """Set managedFields, Apply entries first, older ones before newer."""
    kept = [(manager, share) for manager, share in shares.items() if share.fields]
    kept.sort(key=lambda item: (item[0].operation, item[1].time, item[0].name))
    entries = []
    for manager, share in kept:
        entry: Json = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": manager.version,
            "time": share.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": encoded(share.fields),
        }
        if manager.subresource:
            entry["subresource"] = manager.subresource
        entries.append(entry)
    if entries:
        metadata(obj)["managedFields"] = entries
    else:
        metadata(obj).pop("managedFields", None)


def record(info: Resource, old: Json | None, new: Json, manager: str, subresource: str | None) -> None:
    """Note in `new` that `manager` wrote what differs from `old`; others lose what was changed or removed."""
    change = compared(type_of(info), old if old is not None else {}, new)
    changed, removed = owned(change.changed()), owned(change.removed)
    if old is None:
        changed = {path for path in changed if path[-1] not in _ALWAYS_THERE}
    shares = shares_of(new)
    me = Manager(manager, "Update", info.api_version, subresource or "")
    for other, share in shares.items():
        if other != me:
            share.fields -= changed | removed
    mine = shares.get(me)
    fields = ((mine.fields if mine else set()) - removed) | changed
    if mine is None or fields != mine.fields:
        shares[me] = Share(fields, timestamp())
    write(new, shares)
