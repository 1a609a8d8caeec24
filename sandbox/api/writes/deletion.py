"""Deletion: at once, or marked and finished later by whoever holds a finalizer or a grace period."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import ApiError, FieldError, conflict, forbidden, invalid, not_found, success
from sandbox.api.meta import FOREGROUND, ORPHAN, copied_object, dig, metadata, now, parsed_time, timestamp
from sandbox.api.writes.strategies import strategy_of

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource
    from sandbox.api.storage.database import Key
    from sandbox.api.writes.store import Store

Json = dict[str, Any]

_POLICIES = {"Orphan", "Foreground", "Background"}
_KEPT_NAMESPACES = {"default", "kube-system", "kube-public"}
_FINISHED = {"Succeeded", "Failed"}


def delete(store: Store, info: Resource, key: Key, options: Json, dry_run: bool = False) -> Json:
    """Delete one object as far as it can be now; returns the Status or the object that the client is answered."""
    result = store.storage.get(info.key, key)
    if result is None:
        raise not_found(info.plural, info.group, key[1])
    _check_preconditions(info, result.obj, options.get("preconditions") or {})
    if info.key == "namespaces" and key[1] in _KEPT_NAMESPACES:
        raise forbidden(info.plural, info.group, key[1], "this namespace may not be deleted")
    new = copied_object(result.obj)
    grace = _grace_seconds(info, new, options)
    _set_propagation(info, new, options)
    waits = _has_finalizers(info, new) or grace > 0
    if waits:
        if _mark(info, new, result.obj, grace) and not dry_run:
            new = store.put(info, key, new)
        return new
    if not dry_run:
        new = store.drop(info, key)
    if strategy_of(info.key).returns_deleted:
        return new
    return success(info.plural, info.group, key[1], result.obj["metadata"]["uid"])


def _check_preconditions(info: Resource, obj: Json, wanted: Json) -> None:
    meta = obj["metadata"]
    for name, title in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        if wanted.get(name) and wanted[name] != meta[name]:
            why = f"Precondition failed: {title} in precondition: {wanted[name]}, {title} in object meta: {meta[name]}"
            raise conflict(info.plural, info.group, meta["name"], why)


def _grace_seconds(info: Resource, obj: Json, options: Json) -> int:
    """Only pods end gracefully, and only those that a node may be running."""
    if info.key != "pods":
        return 0
    if not dig(obj, "spec", "nodeName") or dig(obj, "status", "phase") in _FINISHED:
        return 0
    asked = options.get("gracePeriodSeconds")
    if asked is None:
        asked = dig(obj, "spec", "terminationGracePeriodSeconds")
    grace = 30 if asked is None else int(asked)
    return 1 if grace < 0 else grace


def _set_propagation(info: Resource, obj: Json, options: Json) -> None:
    """Turn the propagation policy into the finalizer that the collector works on."""
    policy = options.get("propagationPolicy")
    if policy is not None and policy not in _POLICIES:
        fault = FieldError(
            "propagationPolicy",
            "FieldValueNotSupported",
            policy,
            'supported values: "Foreground", "Background", "Orphan"',
        )
        raise invalid("DeleteOptions", "meta.k8s.io", "", [fault])
    if policy is None and options.get("orphanDependents") is not None:
        policy = "Orphan" if options["orphanDependents"] else "Background"
    meta = metadata(obj)
    finalizers = list(meta.get("finalizers") or ())
    if policy is None:
        if {ORPHAN, FOREGROUND} & set(finalizers):
            return
        policy = strategy_of(info.key).default_propagation
    kept = [name for name in finalizers if name not in (ORPHAN, FOREGROUND)]
    kept += {"Orphan": [ORPHAN], "Foreground": [FOREGROUND]}.get(policy, [])
    if kept:
        meta["finalizers"] = kept
    else:
        meta.pop("finalizers", None)


def _has_finalizers(info: Resource, obj: Json) -> bool:
    if info.key == "namespaces" and dig(obj, "spec", "finalizers"):
        return True
    return bool(metadata(obj).get("finalizers"))


def _mark(info: Resource, obj: Json, old: Json, grace: int) -> bool:
    """Set the marks of a deletion under way; False when they are there already."""
    meta = metadata(obj)
    before = meta.get("deletionTimestamp")
    if not before:
        meta["deletionTimestamp"] = timestamp(now() + timedelta(seconds=grace))
        meta["deletionGracePeriodSeconds"] = grace
        if meta.get("generation"):
            meta["generation"] += 1
    elif grace < (meta.get("deletionGracePeriodSeconds") or 0):
        shorter = (meta["deletionGracePeriodSeconds"] or 0) - grace
        meta["deletionTimestamp"] = timestamp(parsed_time(before) - timedelta(seconds=shorter))
        meta["deletionGracePeriodSeconds"] = grace
    if info.key == "namespaces":
        obj.setdefault("status", {})["phase"] = "Terminating"
    return obj != old


def is_finished(info: Resource, obj: Json) -> bool:
    """Marked for deletion with nothing left to wait for: the write that brought it here must drop it."""
    meta = metadata(obj)
    if not meta.get("deletionTimestamp") or (meta.get("deletionGracePeriodSeconds") or 0) > 0:
        return False
    return not _has_finalizers(info, obj)


def check_options(options: object) -> Json:
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise ApiError(400, "BadRequest", "DeleteOptions must be an object")
    return options
