"""How a written object becomes a stored one: the order of checks and preparations of k8s.io/apiserver's registry.

Pure of I/O but for what it asks the cluster; it never stores anything itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.api.crd import custom_resources
from sandbox.api.errors import (
    INVALID,
    ApiError,
    FieldError,
    bad_request,
    conflict,
    forbidden,
    invalid,
    not_found,
)
from sandbox.api.kinds.strategy import Strategy
from sandbox.api.kinds.validation.metadata import metadata_faults, metadata_update_faults
from sandbox.api.meta import copied, copied_object, dig, generated_name, metadata, new_uid, timestamp
from sandbox.api.writes import admission, decoding, managed_fields
from sandbox.api.writes.managed_fields import Shares
from sandbox.api.writes.strategies import strategy_of

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource
    from sandbox.api.writes.options import WriteOptions
    from sandbox.api.writes.store import Store

Json = dict[str, Any]

_SET_BY_SERVER = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "generation",
)
_STATUS_KEEPS_LABELS = {"pods", "nodes"}  # their status may be written together with labels and annotations


def check_kind(info: Resource, obj: Json) -> None:
    """The body must be of the kind and version that the address names; absent ones are filled in."""
    if not isinstance(obj, dict):
        raise bad_request("the body of the request is not an object")
    obj.setdefault("apiVersion", info.api_version)
    obj.setdefault("kind", info.kind)
    if obj["apiVersion"] != info.api_version:
        raise bad_request(
            f"the API version in the data ({obj['apiVersion']}) does not match the expected API version "
            f"({info.api_version})"
        )
    kind = obj["kind"]
    if kind != info.kind and info.custom is not None:
        fault = FieldError("kind", INVALID, kind, f"must be {info.kind}")
        raise invalid(str(kind), info.group, dig(obj, "metadata", "name") or "", [fault])
    if kind != info.kind:
        raise bad_request(
            f'{kind} in version "{info.version}" cannot be handled as a {info.kind}: '
            f'no kind "{kind}" is registered for version "{info.api_version}" in scheme '
            '"pkg/api/legacyscheme/scheme.go:30"'
        )


def place(info: Resource, obj: Json, namespace: str | None) -> str:
    """Settle the object's namespace; returns it ("" for cluster scope)."""
    meta = metadata(obj)
    if not info.namespaced:
        meta.pop("namespace", None)
        return ""
    wanted = namespace or meta.get("namespace") or "default"
    if meta.get("namespace") not in (None, "", wanted):
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    meta["namespace"] = wanted
    return str(wanted)


def check_namespace(store: Store, info: Resource, namespace: str, name: str) -> None:
    """New objects need a namespace that exists and is not on its way out."""
    if not namespace:
        return
    result = store.storage.get("namespaces", ("", namespace))
    if result is None:
        raise not_found("namespaces", "", namespace)
    if dig(result.obj, "metadata", "deletionTimestamp"):
        why = f"unable to create new content in namespace {namespace} because it is being terminated"
        cause = {
            "reason": "NamespaceTerminating",
            "message": f"namespace {namespace} is being terminated",
            "field": "metadata.namespace",
        }
        raise forbidden(info.plural, info.group, name, why, [cause])


def new_object(
    store: Store,
    info: Resource,
    body: Json,
    namespace: str | None,
    options: WriteOptions,
    shares: Shares | None = None,
) -> Json:
    """A body as it will be stored, or an ApiError. `shares` come from an apply, which knows who owns what."""
    obj = copied_object(body)
    check_kind(info, obj)
    decoding.decode(info, obj, options)
    scope = place(info, obj, namespace)
    meta = metadata(obj)
    if meta.get("resourceVersion"):
        raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
    if not meta.get("name") and meta.get("generateName"):
        meta["name"] = generated_name(meta["generateName"])
    check_namespace(store, info, scope, meta.get("name", ""))
    strategy = strategy_of(info.key)
    meta.pop("managedFields", None)
    for name in (*_SET_BY_SERVER, "resourceVersion"):
        meta.pop(name, None)
    meta["uid"] = new_uid()
    meta["creationTimestamp"] = timestamp()
    _prepare_new(store, info, obj, strategy)
    faults = [*metadata_faults(obj, info, strategy.name_rule), *strategy.validate(obj)]
    if info.custom is not None:
        faults += custom_resources.faults(info, obj, None)
    if faults:
        raise invalid(info.kind, info.group, meta.get("name", ""), faults)
    admission.validate(store, info, obj, options)
    if shares is None:
        managed_fields.record(info, None, obj, options.manager, None)
    else:
        managed_fields.write(obj, shares)
    return to_storage(info, obj)


def _prepare_new(store: Store, info: Resource, obj: Json, strategy: Strategy) -> None:
    meta = metadata(obj)
    if info.has_status:
        obj.pop("status", None)
    if info.custom is not None:
        custom_resources.default(info, obj)
    if info.tracks_generation:
        meta["generation"] = 1
    strategy.default(obj)
    if strategy.initial_status is not None:
        obj["status"] = copied(strategy.initial_status)
    admission.mutate(store, info, obj)
    strategy.prepare_create(obj, store.site)
    for finalizer in strategy.finalizers:
        if finalizer not in meta.setdefault("finalizers", []):
            meta["finalizers"].append(finalizer)


def changed_object(
    info: Resource,
    current: Json,
    body: Json,
    subresource: str | None,
    options: WriteOptions,
    shares: Shares | None = None,
) -> Json:
    """The object after an update, in `info`'s version; `current` itself when nothing changes."""
    obj = copied_object(body)
    check_kind(info, obj)
    decoding.decode(info, obj, options)
    _check_identity(info, current, obj, options)
    old = current
    new = _merged_with_current(info, old, obj, subresource)
    strategy = strategy_of(info.key)
    if info.custom is not None:
        custom_resources.default(info, new)
    strategy.default(new)
    whole = subresource in (None, "scale")
    if whole:
        strategy.prepare_update(new, old)
    faults = metadata_update_faults(new, old, info)
    if whole:
        faults += [*strategy.validate(new), *strategy.validate_update(new, old)]
    if info.custom is not None:
        faults += custom_resources.faults(info, new, old, subresource)
    if faults:
        raise invalid(info.kind, info.group, metadata(new).get("name", ""), faults)
    if info.tracks_generation and subresource != "status":
        _bump_generation(info, new, old, strategy)
    if shares is not None:
        managed_fields.write(new, shares)
    else:
        _keep_owners(old, new, metadata(obj).get("managedFields"))
        if not _same(new, old):
            managed_fields.record(info, old, new, options.manager, subresource)
    if _same(new, old) and metadata(new).get("managedFields") == metadata(old).get("managedFields"):
        return current
    return new


def _keep_owners(old: Json, new: Json, given: object) -> None:
    """A write may hand in managedFields (an empty list clears them); one that leaves them out changes nothing."""
    wanted = metadata(old).get("managedFields") if given is None else given
    _set_or_drop(metadata(new), "managedFields", copied(wanted) or None)


def _check_identity(info: Resource, current: Json, obj: Json, options: WriteOptions) -> None:
    old, new = metadata(current), metadata(obj)
    name = old["name"]
    if new.setdefault("name", name) != name:
        raise bad_request(
            f"the name of the object ({new['name']}) does not match the name on the URL ({name})"
        )
    if info.namespaced and new.setdefault("namespace", old.get("namespace")) != old.get("namespace"):
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if new.get("uid") and new["uid"] != old["uid"]:
        why = f"Precondition failed: UID in precondition: {new['uid']}, UID in object meta: {old['uid']}"
        raise conflict(info.plural, info.group, name, why)
    wanted = new.get("resourceVersion")
    if not wanted and options.needs_version and not _unconditional(info):
        fault = FieldError("metadata.resourceVersion", INVALID, 0, "must be specified for an update")
        raise invalid(info.kind, info.group, name, [fault])
    if wanted and wanted != old["resourceVersion"]:
        raise conflict(info.plural, info.group, name)


def _unconditional(info: Resource) -> bool:
    return info.custom is None and strategy_of(info.key).unconditional_update


def _merged_with_current(info: Resource, old: Json, obj: Json, subresource: str | None) -> Json:
    """Only what this address may write is taken from the body; the rest stays as stored."""
    if subresource == "status":
        new = copied_object(old)
        if "status" in obj:
            new["status"] = obj["status"]
        else:
            new.pop("status", None)
        if info.key in _STATUS_KEEPS_LABELS:
            for part in ("labels", "annotations"):
                _set_or_drop(metadata(new), part, dig(obj, "metadata", part))
        return new
    new = obj
    if info.has_status:
        _set_or_drop(new, "status", copied(old.get("status")))
    for name in (*_SET_BY_SERVER, "resourceVersion", "managedFields"):
        _set_or_drop(metadata(new), name, copied(metadata(old).get(name)))
    return new


def _set_or_drop(target: Json, name: str, value: object) -> None:
    if value is None:
        target.pop(name, None)
    else:
        target[name] = value


def _same(new: Json, old: Json) -> bool:
    """Equal but for bookkeeping: such a write changes nothing and bumps no version."""
    mine, theirs = dict(metadata(new)), dict(metadata(old))
    for meta in (mine, theirs):
        meta.pop("managedFields", None)
        for part in ("labels", "annotations", "finalizers", "ownerReferences"):
            if not meta.get(part):
                meta.pop(part, None)
    return mine == theirs and {**new, "metadata": None} == {**old, "metadata": None}


def _bump_generation(info: Resource, new: Json, old: Json, strategy: Strategy) -> None:
    ignored = {"metadata", "apiVersion", "kind"} | ({"status"} if info.has_status else set())

    def desired(obj: Json) -> Json:
        return {k: v for k, v in obj.items() if k not in ignored}

    annotations_differ = (dig(new, "metadata", "annotations") or {}) != (
        dig(old, "metadata", "annotations") or {}
    )
    if desired(new) != desired(old) or (strategy.generation_annotations and annotations_differ):
        metadata(new)["generation"] = (metadata(old).get("generation") or 0) + 1


def to_storage(info: Resource, obj: Json) -> Json:
    return info.conversion.to_storage(obj) if info.conversion else obj


def from_storage(info: Resource, obj: Json) -> Json:
    """The stored object in a served version. Never changes the stored one."""
    return info.conversion.from_storage(obj) if info.conversion else obj
