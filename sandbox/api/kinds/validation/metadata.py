"""Names, labels, annotations, finalizers and owner references."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import FORBIDDEN, INVALID, REQUIRED, TOO_LONG, FieldError

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource

Json = dict[str, Any]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_DNS1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_ANNOTATIONS_LIMIT = 256 * 1024

LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
DNS1035_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
    "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation "
    "is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_QUALIFIED_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    "validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


def label_faults(value: str) -> list[str]:
    """Why a text is no DNS-1123 label."""
    return _dns_faults(value, _LABEL, 63, LABEL_RULE)


def subdomain_faults(value: str) -> list[str]:
    return _dns_faults(value, _SUBDOMAIN, 253, SUBDOMAIN_RULE)


def dns1035_faults(value: str) -> list[str]:
    return _dns_faults(value, _DNS1035, 63, DNS1035_RULE)


def _dns_faults(value: str, pattern: re.Pattern[str], limit: int, rule: str) -> list[str]:
    result = []
    if len(value) > limit:
        result.append(f"must be no more than {limit} characters")
    if not pattern.fullmatch(value):
        result.append(rule)
    return result


def _path_faults(value: str) -> list[str]:
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{char}'" for char in "/%" if char in value]


_NAME_RULES = {
    "subdomain": subdomain_faults,
    "label": label_faults,
    "path": _path_faults,
    "dns1035": dns1035_faults,
}


def qualified_name_faults(key: str) -> list[str]:
    """Why a text is no label or annotation key (`prefix/name`)."""
    prefix, slash, name = key.rpartition("/")
    result = []
    if slash and not prefix:
        result.append("prefix part must be non-empty")
    elif prefix:
        result += [f"prefix part {why}" for why in subdomain_faults(prefix)]
    if not name:
        result.append("name part must be non-empty")
    elif len(name) > 63:
        result.append("name part must be no more than 63 characters")
    if not _QUALIFIED.fullmatch(name):
        result.append(_QUALIFIED_RULE)
    return result


def label_value_faults(value: str) -> list[str]:
    result = []
    if len(value) > 63:
        result.append("must be no more than 63 bytes")
    if value and not _QUALIFIED.fullmatch(value):
        result.append(_VALUE_RULE)
    return result


def labels_faults(labels: object, path: str) -> list[FieldError]:
    if not isinstance(labels, dict):
        return []
    faults = []
    for key, value in labels.items():
        faults += [FieldError(path, INVALID, key, why) for why in qualified_name_faults(key)]
        faults += [FieldError(path, INVALID, value, why) for why in label_value_faults(value or "")]
    return faults


def metadata_faults(obj: Json, info: Resource, name_rule: str) -> list[FieldError]:
    """Everything wrong with a new object's metadata."""
    meta = obj["metadata"]
    name = meta.get("name") or ""
    faults = []
    if not name:
        faults.append(FieldError("metadata.name", REQUIRED, "", "name or generateName is required"))
    else:
        faults += [FieldError("metadata.name", INVALID, name, why) for why in _NAME_RULES[name_rule](name)]
    if info.namespaced:
        faults += [
            FieldError("metadata.namespace", INVALID, meta["namespace"], why)
            for why in label_faults(meta["namespace"])
        ]
    return faults + _common_faults(meta)


def metadata_update_faults(new: Json, old: Json, info: Resource) -> list[FieldError]:
    meta, before = new["metadata"], old["metadata"]
    faults = _common_faults(meta)
    if before.get("deletionTimestamp"):
        added = sorted(set(meta.get("finalizers") or ()) - set(before.get("finalizers") or ()))
        if added:
            listed = ", ".join(f'"{name}"' for name in added)
            why = (
                "no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}"
            )
            faults.append(FieldError("metadata.finalizers", FORBIDDEN, None, why))
    return faults


def _common_faults(meta: Json) -> list[FieldError]:
    faults = labels_faults(meta.get("labels"), "metadata.labels")
    annotations = meta.get("annotations") or {}
    for key in annotations:
        faults += [
            FieldError("metadata.annotations", INVALID, key, why)
            for why in qualified_name_faults(key.lower())
        ]
    if sum(len(k.encode()) + len((v or "").encode()) for k, v in annotations.items()) > _ANNOTATIONS_LIMIT:
        detail = f"may not be more than {_ANNOTATIONS_LIMIT} bytes"
        faults.append(FieldError("metadata.annotations", TOO_LONG, "", detail))
    for finalizer in meta.get("finalizers") or ():
        faults += [
            FieldError("metadata.finalizers", INVALID, finalizer, w) for w in qualified_name_faults(finalizer)
        ]
    return faults + _owner_faults(meta.get("ownerReferences") or ())


def _owner_faults(owners: Any) -> list[FieldError]:
    faults, controllers = [], []
    for index, owner in enumerate(owners):
        path = f"metadata.ownerReferences[{index}]"
        for part in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(part):
                detail = "version must not be empty" if part == "apiVersion" else "must not be empty"
                faults.append(FieldError(f"{path}.{part}", INVALID, owner.get(part) or "", detail))
        if owner.get("controller"):
            controllers.append(f"{owner.get('apiVersion')}/{owner.get('kind')}".rsplit("/", 1)[-1])
    if len(controllers) > 1:
        why = (
            f'Only one reference can have Controller set to true. Found "true" in references for {controllers[0]} '
            f"and {controllers[1]}"
        )
        faults.append(FieldError("metadata.ownerReferences", INVALID, list(owners), why))
    return faults
