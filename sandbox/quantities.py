"""Kubernetes resource quantities ("500m", "16Gi", "1e3") as numbers, for the scheduler and the node agent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

_SMALL = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1)}
_DECIMAL = {suffix: Decimal(1000) ** n for n, suffix in enumerate("kMGTPE", start=1)}
_BINARY = {f"{suffix}i": Decimal(1024) ** n for n, suffix in enumerate("KMGTPE", start=1)}
_SUFFIXES = {**_SMALL, **_DECIMAL, **_BINARY}
_QUANTITY = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([numkMGTPE]|[KMGTPE]i)?$")


def parse_quantity(value: str | int | float) -> Decimal:
    """The quantity in its base unit (cores, bytes, pieces). Raises ValueError when it is not a quantity."""
    match = _QUANTITY.match(str(value).strip())
    if match is None:
        raise ValueError(f"{value!r} is not a Kubernetes quantity such as 500m, 2 or 16Gi")
    return Decimal(match[1]) * _SUFFIXES[match[2] or ""]


def add_up(*parts: Mapping[str, Any]) -> dict[str, Decimal]:
    """The sum of several resource lists, by resource name."""
    total: dict[str, Decimal] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, Decimal(0)) + parse_quantity(value)
    return total


def _effective_requests(container: Mapping[str, Any]) -> dict[str, Any]:
    resources = container.get("resources") or {}
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def pod_requests(spec: Mapping[str, Any]) -> dict[str, Decimal]:
    """What a pod asks of its node: the sum of its containers, or its largest init container where that is more."""
    total = add_up(*(_effective_requests(container) for container in spec.get("containers") or []))
    for container in spec.get("initContainers") or []:
        for name, value in _effective_requests(container).items():
            total[name] = max(total.get(name, Decimal(0)), parse_quantity(value))
    return total


def sum_requests(specs: Iterable[Mapping[str, Any]]) -> dict[str, Decimal]:
    total: dict[str, Decimal] = {}
    for spec in specs:
        for name, value in pod_requests(spec).items():
            total[name] = total.get(name, Decimal(0)) + value
    return total


def qos_class(spec: Mapping[str, Any]) -> str:
    """Guaranteed, Burstable or BestEffort, as the kubelet defines them."""
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    lists = [(c.get("resources") or {}) for c in containers]
    if not any(set(r.get("requests") or {}) | set(r.get("limits") or {}) for r in lists):
        return "BestEffort"
    for resources in lists:
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            if name not in limits or parse_quantity(requests.get(name, limits[name])) != parse_quantity(
                limits[name]
            ):
                return "Burstable"
    return "Guaranteed"
