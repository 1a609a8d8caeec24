"""CustomResourceDefinitions: what makes one valid, its status, and the resources that it serves."""

from __future__ import annotations

import re
from typing import Any

from sandbox.api.crd.custom_resources import Version, converted
from sandbox.api.errors import INVALID, REQUIRED, FieldError
from sandbox.api.kinds.resources import Conversion, Resource
from sandbox.api.kinds.types import structural
from sandbox.api.meta import CRD_CLEANUP, dig, metadata, timestamp

Json = dict[str, Any]

KEY = "customresourcedefinitions.apiextensions.k8s.io"
_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Sort key that puts v2 before v1 before v1beta1 before v1alpha1 before everything else."""
    result = _VERSION.fullmatch(version)
    if not result:
        return (1, 0, 0, version)
    rank = {None: 0, "beta": 1, "alpha": 2}[result[2]]
    return (0, rank, -int(result[1]) * 1000 - int(result[3] or 0), version)


def default(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    names = spec.setdefault("names", {})
    kind = names.get("kind", "")
    names.setdefault("singular", kind.lower())
    names.setdefault("listKind", f"{kind}List")
    spec.setdefault("conversion", {"strategy": "None"})


def faults(obj: Json) -> list[FieldError]:
    spec, names = obj.get("spec") or {}, dig(obj, "spec", "names") or {}
    result = [
        FieldError(f"spec.{path}", REQUIRED, "")
        for path in ("group", "scope", "names.plural", "names.kind")
        if not dig(spec, *path.split("."))
    ]
    expected = f"{names.get('plural')}.{spec.get('group')}"
    if not result and metadata(obj).get("name") != expected:
        detail = 'must be spec.names.plural+"."+spec.group'
        result.append(FieldError("metadata.name", INVALID, metadata(obj).get("name"), detail))
    if spec.get("scope") not in ("Namespaced", "Cluster", None):
        supported = 'supported values: "Cluster", "Namespaced"'
        result.append(FieldError("spec.scope", "FieldValueNotSupported", spec["scope"], supported))
    versions = spec.get("versions") or []
    if sum(bool(version.get("storage")) for version in versions) != 1:
        detail = "must have exactly one version marked as storage version"
        result.append(FieldError("spec.versions", INVALID, [v.get("name") for v in versions], detail))
    for index, version in enumerate(versions):
        path = f"spec.versions[{index}].schema.openAPIV3Schema"
        root = dig(version, "schema", "openAPIV3Schema")
        if not root:
            result.append(FieldError(path, REQUIRED, "", "schemas are required"))
        else:
            if root.get("type") != "object":
                result.append(
                    FieldError(f"{path}.type", INVALID, root.get("type", ""), "must be object at the root")
                )
            result += _structure_faults(root, path)
    return result


def _structure_faults(schema: Json, path: str) -> list[FieldError]:
    """What a structural schema must have: a type everywhere, and never both properties and additionalProperties."""
    result = []
    exempt = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if not schema.get("type") and not exempt:
        result.append(
            FieldError(f"{path}.type", REQUIRED, "", "must not be empty for specified object fields")
        )
    if schema.get("properties") and schema.get("additionalProperties"):
        detail = "additionalProperties and properties are mutual exclusive"
        result.append(FieldError(f"{path}.additionalProperties", "FieldValueForbidden", None, detail))
    if schema.get("type") == "array" and "items" not in schema:
        result.append(FieldError(f"{path}.items", REQUIRED, "", "must be specified"))
    for name, inner in (schema.get("properties") or {}).items():
        result += _structure_faults(inner, f"{path}.properties[{name}]")
    if isinstance(schema.get("items"), dict):
        result += _structure_faults(schema["items"], f"{path}.items")
    if isinstance(schema.get("additionalProperties"), dict):
        result += _structure_faults(schema["additionalProperties"], f"{path}.additionalProperties")
    return result


def complete(obj: Json) -> None:
    """Set the status that a real server's controllers would set within a second, in place."""
    meta, spec = metadata(obj), obj["spec"]
    if not meta.get("deletionTimestamp") and CRD_CLEANUP not in meta.setdefault("finalizers", []):
        meta["finalizers"].append(CRD_CLEANUP)
    storage = next(version["name"] for version in spec["versions"] if version.get("storage"))
    status = obj.setdefault("status", {})
    status["acceptedNames"] = spec["names"]
    stored = status.setdefault("storedVersions", [])
    if storage not in stored:
        stored.append(storage)
    wanted = [
        ("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
        ("Established", "True", "InitialNamesAccepted", "the initial names have been accepted"),
    ]
    if meta.get("deletionTimestamp"):
        wanted.append(
            ("Terminating", "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress")
        )
    have = {condition["type"]: condition for condition in status.get("conditions") or ()}
    for type_, value, reason, message in wanted:
        before = have.get(type_, {})
        changed = timestamp() if before.get("status") != value else before["lastTransitionTime"]
        have[type_] = {
            "type": type_,
            "status": value,
            "reason": reason,
            "message": message,
            "lastTransitionTime": changed,
        }
    status["conditions"] = list(have.values())


def served(obj: Json) -> list[Resource]:
    """The resources that a definition adds, the storage version first."""
    spec = obj["spec"]
    versions = sorted(spec["versions"], key=lambda version: not version.get("storage"))
    storage = versions[0]["name"]
    return [_resource(spec, version, storage) for version in versions if version.get("served")]


def _resource(spec: Json, version: Json, storage: str) -> Resource:
    names, subresources = spec["names"], version.get("subresources") or {}
    schema = dig(version, "schema", "openAPIV3Schema") or {"type": "object"}
    type_ = structural(schema)
    api_version = f"{spec['group']}/{version['name']}"
    stored_as = f"{spec['group']}/{storage}"
    return Resource(
        group=spec["group"],
        version=version["name"],
        plural=names["plural"],
        kind=names["kind"],
        namespaced=spec["scope"] == "Namespaced",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=tuple(name for name in ("status", "scale") if name in subresources),
        singular=names["singular"],
        list_kind=names["listKind"],
        tracks_generation=True,
        selectable=tuple(field["jsonPath"].lstrip(".") for field in version.get("selectableFields") or ()),
        custom=Version(
            schema=schema,
            type=type_,
            columns=tuple(version.get("additionalPrinterColumns") or ()),
            scale=subresources.get("scale"),
            deprecation=_deprecation(api_version, names["kind"], version),
        ),
        conversion=None
        if api_version == stored_as
        else Conversion(
            to_storage=lambda one: {**one, "apiVersion": stored_as},
            from_storage=lambda one: converted(one, api_version, type_),
        ),
    )


def _deprecation(api_version: str, kind: str, version: Json) -> str:
    if not version.get("deprecated"):
        return ""
    return str(version.get("deprecationWarning") or f"{api_version} {kind} is deprecated")
