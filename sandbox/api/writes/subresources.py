"""Subresources that are more than a view of their object: binding, scale and service account tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import INVALID, FieldError, conflict, invalid, no_such_path
from sandbox.api.meta import copied_object, dig, metadata, now, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.api.kinds.resources import Resource
    from sandbox.api.storage.database import Key
    from sandbox.api.writes.options import WriteOptions
    from sandbox.api.writes.store import Store

Json = dict[str, Any]

SUCCESS: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def bind(store: Store, key: Key, binding: Json) -> Json:
    """Put a pod on a node, once; raises ApiError (409) when it has one."""
    info, node = store.kinds.named("pods"), dig(binding, "target", "name")
    if not node:
        fault = FieldError("target.name", "FieldValueRequired", "")
        raise invalid("Binding", "", key[1], [fault])
    pod = copied_object(store.stored(info, key))
    if dig(pod, "metadata", "deletionTimestamp"):
        raise conflict(
            "pods/binding", "", key[1], f"pod {key[1]} is being deleted, cannot be assigned to a host"
        )
    if taken := dig(pod, "spec", "nodeName"):
        raise conflict("pods/binding", "", key[1], f'pod {key[1]} is already assigned to node "{taken}"')
    pod["spec"]["nodeName"] = node
    for name in ("labels", "annotations"):
        if extra := dig(binding, "metadata", name):
            metadata(pod).setdefault(name, {}).update(extra)
    conditions = [c for c in dig(pod, "status", "conditions") or () if c["type"] != "PodScheduled"]
    scheduled = {
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": timestamp(),
        "observedGeneration": metadata(pod).get("generation", 1),
    }
    pod["status"]["conditions"] = [*conditions, scheduled]
    store.put(info, key, pod)
    return SUCCESS


def token(store: Store, key: Key, request: Json, issue: Callable[[str, str, str], str]) -> Json:
    """A TokenRequest answered; the account must exist."""
    account = store.stored(store.kinds.named("serviceaccounts"), key)
    seconds = dig(request, "spec", "expirationSeconds") or 3600
    text = issue(key[0], key[1], account["metadata"]["uid"])
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": key[1], "namespace": key[0], "creationTimestamp": timestamp()},
        "spec": {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": seconds},
        "status": {"token": text, "expirationTimestamp": timestamp(now() + timedelta(seconds=seconds))},
    }


# scale


def _paths(info: Resource) -> tuple[list[str], list[str], list[str]]:
    """Where the wanted replicas, the present ones and the selector are."""
    if info.custom is None:
        return ["spec", "replicas"], ["status", "replicas"], ["spec", "selector"]
    scale = info.custom.scale or {}

    def split(name: str) -> list[str]:
        return [part for part in scale.get(name, "").split(".") if part]

    return split("specReplicasPath"), split("statusReplicasPath"), split("labelSelectorPath")


def _selector_text(selector: object) -> str:
    if isinstance(selector, str):
        return selector
    if not isinstance(selector, dict):
        return ""
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for term in selector.get("matchExpressions") or ():
        name = {"In": "in", "NotIn": "notin"}.get(term["operator"])
        if name:
            terms.append(f"{term['key']} {name} ({','.join(term.get('values') or ())})")
        else:
            terms.append(("!" if term["operator"] == "DoesNotExist" else "") + term["key"])
    return ",".join(terms)


def scale_of(info: Resource, obj: Json) -> Json:
    """The autoscaling/v1 Scale of an object."""
    if "scale" not in info.subresources:
        raise no_such_path()
    meta = obj["metadata"]
    wanted, present, selector = _paths(info)
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    scale: Json = {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: meta[name] for name in kept if name in meta},
        "spec": {"replicas": dig(obj, *wanted) or 0},
        "status": {"replicas": dig(obj, *present) or 0},
    }
    if text := _selector_text(dig(obj, *selector) if selector else None):
        scale["status"]["selector"] = text
    return scale


def set_scale(
    store: Store, info: Resource, key: Key, change: Callable[[Json], Json], options: WriteOptions
) -> Json:
    """Store the replicas of the Scale that `change` makes of the present one; returns the new Scale."""

    def rescaled(obj: Json) -> Json:
        scale = change(scale_of(info, obj))
        replicas = dig(scale, "spec", "replicas") or 0
        if not isinstance(replicas, int) or replicas < 0:
            fault = FieldError("spec.replicas", INVALID, replicas, "must be greater than or equal to 0")
            raise invalid("Scale", "autoscaling", key[1], [fault])
        version = dig(scale, "metadata", "resourceVersion")
        if version and version != obj["metadata"]["resourceVersion"]:
            raise conflict(info.plural, info.group, key[1])
        *path, last = _paths(info)[0]
        target = obj
        for part in path:
            target = target.setdefault(part, {})
        target[last] = replicas
        return obj

    return scale_of(info, store.change_now(info, key, rescaled, "scale", options))
