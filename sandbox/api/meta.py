"""Small operations on Kubernetes objects as JSON values.

Objects in the store are shared between watchers and must never be changed in place: `copied` gives a private one.
"""

from __future__ import annotations

import json
import random
import uuid
from datetime import UTC, datetime
from typing import Any, cast

Json = dict[str, Any]

# The finalizers that the API server itself sets and works off.
ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
CRD_CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
PVC_PROTECTION = "kubernetes.io/pvc-protection"
PV_PROTECTION = "kubernetes.io/pv-protection"

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: generated names spell nothing
_MAX_GENERATED_BASE = 58  # 63 less the suffix, as k8s.io/apiserver/pkg/storage/names
_rng = random.SystemRandom()


def copied(value: object) -> Any:
    """A deep copy of a JSON value. Through JSON text, because that runs in C: ten times faster than a walk."""
    return json.loads(json.dumps(value)) if isinstance(value, (dict, list)) else value


def copied_object(value: Json) -> Json:
    return cast("Json", copied(value))


def now() -> datetime:
    return datetime.now(UTC)


def timestamp(moment: datetime | None = None) -> str:
    """metav1.Time: UTC, whole seconds."""
    return (moment or now()).strftime("%Y-%m-%dT%H:%M:%SZ")


def parsed_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def generated_name(base: str) -> str:
    return base[:_MAX_GENERATED_BASE] + "".join(_rng.choice(_SUFFIX_LETTERS) for _ in range(5))


def new_uid() -> str:
    return str(uuid.uuid4())


def metadata(obj: Json) -> Json:
    """The object's metadata, made if absent."""
    result = obj.get("metadata")
    if not isinstance(result, dict):
        result = obj["metadata"] = {}
    return cast("Json", result)


def dig(obj: object, *path: str) -> Any:
    """The value under a path of keys, or None."""
    for key in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(key)
    return obj


def reference(obj: Json) -> Json:
    """An ObjectReference to an object, for events and bindings."""
    meta = obj.get("metadata") or {}
    full = {
        "apiVersion": obj.get("apiVersion"),
        "kind": obj.get("kind"),
        "namespace": meta.get("namespace"),
        "name": meta.get("name"),
        "uid": meta.get("uid"),
        "resourceVersion": meta.get("resourceVersion"),
    }
    return {k: v for k, v in full.items() if v}
