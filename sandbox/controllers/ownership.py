"""Who owns what, which expressions hold, and the hash that names a pod template. Pure functions of objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]

#: The alphabet of Kubernetes' safe-encoded hashes: no vowels, so that no word is spelt.
_SAFE = "bcdfghjklmnpqrstvwxz2456789"


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def seconds_since(text: str) -> float:
    return (datetime.now(UTC) - parse_time(text)).total_seconds()


def owner_reference(owner: Object, api_version: str, kind: str) -> Object:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controller_uid(obj: Object) -> str | None:
    owners = obj["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def controlled_by(owner: Object, objects: Iterable[Object]) -> list[Object]:
    return [obj for obj in objects if controller_uid(obj) == owner["metadata"]["uid"]]


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    match operator:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case "Gt" | "Lt":
            try:
                difference = int(labels[key]) - int(values[0])
            except (KeyError, ValueError, IndexError):
                return False
            return difference > 0 if operator == "Gt" else difference < 0
    return False


def expressions_hold(expressions: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> bool:
    """Whether all requirements (In, NotIn, Exists, DoesNotExist, Gt, Lt) hold for these labels."""
    return all(_holds(expression, labels) for expression in expressions)


def template_hash(template: Object, length: int = 10) -> str:
    """A short stable name for a pod template; equal templates have equal names."""
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    return "".join(_SAFE[byte % len(_SAFE)] for byte in digest[:length])


def pod_from_template(template: Object, namespace: str, owner: Object) -> Object:
    """A pod of this template, controlled by `owner` (an owner reference); the caller names it."""
    metadata = deepcopy(template.get("metadata") or {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "labels": dict(metadata.get("labels") or {}),
            "annotations": dict(metadata.get("annotations") or {}),
            "finalizers": list(metadata.get("finalizers") or []),
            "ownerReferences": [owner],
        },
        "spec": deepcopy(template["spec"]),
    }


def condition_of(obj: Object, type_: str) -> Object | None:
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == type_), None)


def is_ready(pod: Object) -> bool:
    condition = condition_of(pod, "Ready")
    return condition is not None and condition.get("status") == "True"


def is_terminating(obj: Object) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def is_finished(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    return not is_finished(pod) and not is_terminating(pod)


def set_condition(
    conditions: list[Object], type_: str, status: str, reason: str = "", message: str = ""
) -> list[Object]:
    """The conditions with this one set; lastTransitionTime moves only when the status does."""
    old = next((c for c in conditions if c.get("type") == type_), None)
    moved = (
        now_text()
        if old is None or old.get("status") != status
        else old.get("lastTransitionTime", now_text())
    )
    new: Object = {**(old or {}), "type": type_, "status": status, "lastTransitionTime": moved}
    for field, value in (("reason", reason), ("message", message)):
        if value:
            new[field] = value
        else:
            new.pop(field, None)
    if old is None:
        return [*conditions, new]
    return [new if c is old else c for c in conditions]
