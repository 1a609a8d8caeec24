"""ResourceQuotas: what a namespace uses, and the refusal of what would exceed its quota.

Usage is counted from the stored objects at each write, so it is never behind. Scopes are honoured but for PriorityClass
and the like: a quota with such a scope is not enforced here.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import forbidden
from sandbox.api.meta import dig, metadata
from sandbox.quantities import parse_quantity, pod_limits, pod_requests, qos_class, render

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource
    from sandbox.api.storage.database import Storage

Json = dict[str, Any]
Usage = dict[str, Decimal]

_PLAIN = ("cpu", "memory", "ephemeral-storage")
#: A quota over one of these demands that every container names it (pkg/quota/v1/evaluator/core/pods.go).
_DEMANDED = {
    "cpu": ("requests", "cpu"),
    "memory": ("requests", "memory"),
    "requests.cpu": ("requests", "cpu"),
    "requests.memory": ("requests", "memory"),
    "limits.cpu": ("limits", "cpu"),
    "limits.memory": ("limits", "memory"),
}
_COUNTED = {"pods", "services", "secrets", "configmaps", "persistentvolumeclaims", "resourcequotas"}
_FINISHED = ("Succeeded", "Failed")


def usage(resource: str, obj: Json) -> Usage:
    """What one object counts against quotas, by the names that quotas have for it."""
    result: Usage = {f"count/{resource}": Decimal(1)}
    if resource == "pods":
        return result | _pod_usage(obj)
    if resource in _COUNTED:
        result[resource] = Decimal(1)
    if resource == "persistentvolumeclaims":
        size = parse_quantity(dig(obj, "spec", "resources", "requests", "storage") or 0)
        result["requests.storage"] = size
        if name := dig(obj, "spec", "storageClassName"):
            prefix = f"{name}.storageclass.storage.k8s.io"
            result |= {f"{prefix}/requests.storage": size, f"{prefix}/persistentvolumeclaims": Decimal(1)}
    return result


def _pod_usage(pod: Json) -> Usage:
    """Pods that have ended use nothing but their place."""
    if dig(pod, "status", "phase") in _FINISHED:
        return {}
    result, spec = {"pods": Decimal(1)}, pod.get("spec") or {}
    for name, value in pod_requests(spec).items():
        result[f"requests.{name}"] = value
        if name in _PLAIN:
            result[name] = value
    return result | {f"limits.{name}": value for name, value in pod_limits(spec).items() if name in _PLAIN}


def in_scope(quota: Json, resource: str, obj: Json) -> bool:
    """Whether a quota's scopes (of pods only) include an object."""
    scopes = list(dig(quota, "spec", "scopes") or ())
    scopes += [term["scopeName"] for term in dig(quota, "spec", "scopeSelector", "matchExpressions") or ()]
    if not scopes:
        return True
    if resource != "pods":
        return False
    spec = obj.get("spec") or {}
    ends, best_effort = spec.get("activeDeadlineSeconds") is not None, qos_class(spec) == "BestEffort"
    held = {
        "Terminating": ends,
        "NotTerminating": not ends,
        "BestEffort": best_effort,
        "NotBestEffort": not best_effort,
    }
    return all(held.get(scope, False) for scope in scopes)


def used(storage: Storage, quota: Json) -> Usage:
    """What the namespace uses of everything that a quota limits."""
    hard = dig(quota, "spec", "hard") or {}
    total = {name: Decimal(0) for name in hard}
    for resource in storage.resources():
        if resource not in _COUNTED and f"count/{resource}" not in hard:
            continue
        for _, entry in storage.entries(resource, metadata(quota).get("namespace")):
            if in_scope(quota, resource, entry.obj):
                for name, value in usage(resource, entry.obj).items():
                    if name in total:
                        total[name] += value
    return total


def quota_status(storage: Storage, quota: Json) -> Json:
    """`status` of a quota as the quota controller writes it."""
    amounts = {name: render(value, name) for name, value in used(storage, quota).items()}
    return {"hard": dict(dig(quota, "spec", "hard") or {}), "used": amounts}


def check(storage: Storage, info: Resource, obj: Json) -> None:
    """Raises ApiError (403) with the first quota that a new object does not fit into."""
    meta = metadata(obj)
    wanted = usage(info.key, obj)
    for _, entry in storage.entries("resourcequotas", meta.get("namespace", "")):
        quota = entry.obj
        hard = dig(quota, "spec", "hard") or {}
        asked = {name: value for name, value in wanted.items() if name in hard and value}
        if not in_scope(quota, info.key, obj):
            continue
        why = _unnamed(hard, info, obj) or (_exceeded(storage, quota, asked) if asked else "")
        if why:
            raise forbidden(
                info.plural, info.group, meta.get("name", ""), why.format(metadata(quota)["name"])
            )


def _exceeded(storage: Storage, quota: Json, asked: Usage) -> str:
    present, hard = used(storage, quota), dig(quota, "spec", "hard")
    over = sorted(name for name in asked if present[name] + asked[name] > parse_quantity(hard[name]))
    if not over:
        return ""
    limits = {name: parse_quantity(hard[name]) for name in over}
    return (
        f"exceeded quota: {{}}, requested: {_listed(asked, over)}, used: {_listed(present, over)}, "
        f"limited: {_listed(limits, over)}"
    )


def _listed(amounts: Mapping[str, Decimal], names: list[str]) -> str:
    return ",".join(f"{name}={render(amounts[name], name)}" for name in names)


def _unnamed(hard: Json, info: Resource, obj: Json) -> str:
    """Containers that leave open what the quota limits."""
    if info.key != "pods":
        return ""
    spec = obj.get("spec") or {}
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    missing = {}
    for name in sorted(set(hard) & set(_DEMANDED)):
        part, resource = _DEMANDED[name]
        lacking = [c["name"] for c in containers if resource not in (dig(c, "resources", part) or {})]
        if lacking:
            missing[name] = ",".join(sorted(lacking))
    listed = "; ".join(f"{name} for: {names}" for name, names in missing.items())
    return f"failed quota: {{}}: must specify {listed}" if listed else ""
