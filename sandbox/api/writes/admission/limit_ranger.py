"""LimitRanges: defaults for containers, and least and most for containers, pods and claims.

Words and order are those of k8s.io/kubernetes/plugin/pkg/admission/limitranger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import forbidden
from sandbox.api.meta import dig, metadata
from sandbox.quantities import canonical, parse_quantity, pod_limits, pod_requests, render

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource
    from sandbox.api.storage.database import Storage

Json = dict[str, Any]
Amounts = Mapping[str, Any]

_ANNOTATION = "kubernetes.io/limit-ranger"


def _items(storage: Storage, namespace: str) -> Iterator[Json]:
    for _, entry in storage.entries("limitranges", namespace):
        yield from dig(entry.obj, "spec", "limits") or ()


def default_resources(storage: Storage, pod: Json) -> None:
    """Give each container the requests and limits that it leaves open, and say so in the pod's annotation."""
    limits: Json = {}
    requests: Json = {}
    for item in _items(storage, metadata(pod).get("namespace", "")):
        if item.get("type") == "Container":
            limits |= item.get("default") or {}
            requests |= item.get("defaultRequest") or {}
    notes = []
    for part in ("containers", "initContainers"):
        for container in dig(pod, "spec", part) or ():
            resources = container.setdefault("resources", {})
            for kind, defaults in (("request", requests), ("limit", limits)):
                given = resources.get(f"{kind}s") or {}
                if added := {name: value for name, value in defaults.items() if name not in given}:
                    resources[f"{kind}s"] = {**given, **added}
                    title = "init container" if part == "initContainers" else "container"
                    notes.append(f"{', '.join(sorted(added))} {kind} for {title} {container.get('name', '')}")
    if notes:
        annotations = metadata(pod).setdefault("annotations", {})
        annotations[_ANNOTATION] = f"LimitRanger plugin set: {'; '.join(notes)}"


def check(storage: Storage, info: Resource, obj: Json) -> None:
    """Raises ApiError (403) with every limit that a pod or a claim breaks."""
    if info.key not in ("pods", "persistentvolumeclaims"):
        return
    meta = metadata(obj)
    broken = [
        why for item in _items(storage, meta.get("namespace", "")) for why in _broken(item, info.key, obj)
    ]
    if broken:
        why = broken[0] if len(broken) == 1 else f"[{', '.join(broken)}]"
        raise forbidden(info.plural, info.group, meta.get("name", ""), why)


def _broken(item: Json, key: str, obj: Json) -> list[str]:
    kind, spec = item.get("type"), obj.get("spec") or {}
    if key == "persistentvolumeclaims":
        requests = dig(spec, "resources", "requests") or {}
        return _claim_faults(item, requests) if kind == "PersistentVolumeClaim" else []
    if kind == "Container":
        containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
        resources = [container.get("resources") or {} for container in containers]
        return [
            why
            for one in resources
            for why in _faults(item, one.get("requests") or {}, one.get("limits") or {})
        ]
    if kind == "Pod":
        sums = [
            {name: render(value, name) for name, value in total.items()}
            for total in (pod_requests(spec), pod_limits(spec))
        ]
        return _faults(item, *sums)
    return []


def _faults(item: Json, requests: Amounts, limits: Amounts) -> list[str]:
    kind = item["type"]
    checks = [_least(kind, name, value, requests, limits) for name, value in (item.get("min") or {}).items()]
    checks += [_most(kind, name, value, requests, limits) for name, value in (item.get("max") or {}).items()]
    ratios = item.get("maxLimitRequestRatio") or {}
    checks += [_ratio(kind, name, value, requests, limits) for name, value in ratios.items()]
    return [why for why in checks if why]


def _claim_faults(item: Json, requests: Amounts) -> list[str]:
    """Claims have requests only."""
    kind = item["type"]
    checks = [_least(kind, name, value, requests, {}) for name, value in (item.get("min") or {}).items()]
    checks += [
        _most(kind, name, value, {}, requests, "request") for name, value in (item.get("max") or {}).items()
    ]
    return [why for why in checks if why]


def _least(kind: str, name: str, least: str, requests: Amounts, limits: Amounts) -> str:
    head = f"minimum {name} usage per {kind} is {canonical(least)}"
    if name not in requests:
        return f"{head}.  No request is specified"
    for title, given in (("request", requests), ("limit", limits)):
        if name in given and parse_quantity(given[name]) < parse_quantity(least):
            return f"{head}, but {title} is {given[name]}"
    return ""


def _most(kind: str, name: str, most: str, requests: Amounts, limits: Amounts, title: str = "limit") -> str:
    head = f"maximum {name} usage per {kind} is {canonical(most)}"
    if name not in limits:
        return f"{head}.  No {title} is specified"
    for word, given in ((title, limits), ("request", requests)):
        if name in given and parse_quantity(given[name]) > parse_quantity(most):
            return f"{head}, but {word} is {given[name]}"
    return ""


def _ratio(kind: str, name: str, most: str, requests: Amounts, limits: Amounts) -> str:
    head = f"{name} max limit to request ratio per {kind} is {canonical(most)}"
    if not parse_quantity(requests.get(name, 0)):
        return f"{head}, but no request is specified or request is 0"
    if not parse_quantity(limits.get(name, 0)):
        return f"{head}, but no limit is specified or limit is 0"
    ratio = parse_quantity(limits[name]) / parse_quantity(requests[name])
    return f"{head}, but provided ratio is {float(ratio):f}" if ratio > parse_quantity(most) else ""
