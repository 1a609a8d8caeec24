"""Kubernetes resource quantities ("500m", "16Gi", "1e3"): as numbers, in canonical form, and summed up over pods."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

_SHAPE = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))((?:[KMGTPE]i)|[numkMGTPE]|(?:[eE][+-]?\d+))?")
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_NAMES = {power: name for name, power in _BINARY.items()}
_DECIMAL_NAMES = {power: name for name, power in _DECIMAL.items()}

RULE = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def _parts(text: str | int | float) -> tuple[Decimal, str]:
    match = _SHAPE.fullmatch(str(text))
    if match is None:
        raise ValueError(RULE)
    return Decimal(match[1]), match[2] or ""


def _exponent_of(suffix: str) -> int | None:
    """The power of ten of `e3` or `E3`, None for suffixes that are letters."""
    return int(suffix[1:]) if suffix[:1] in ("e", "E") and len(suffix) > 1 else None


def parse_quantity(text: str | int | float) -> Decimal:
    """The quantity in its base unit (cores, bytes, pieces); raises ValueError with the API server's words."""
    number, suffix = _parts(text)
    if suffix in _BINARY:
        return number * Decimal(1024 ** _BINARY[suffix])
    exponent = _exponent_of(suffix)
    return number.scaleb(_DECIMAL[suffix] if exponent is None else exponent)


def canonical(text: str | int | float) -> str:
    """The same quantity as k8s.io/apimachinery prints and stores it; raises ValueError with the server's words."""
    value, suffix = parse_quantity(text), _parts(text)[1]
    if suffix in _BINARY and abs(value) >= 1024 and value == value.to_integral_value():
        return _binary(int(value))
    return _decimal(value) if _exponent_of(suffix) is None else _exponent(value)


def _binary(value: int) -> str:
    power = 0
    while value and value % 1024 == 0 and power < max(_BINARY_NAMES):
        value //= 1024
        power += 1
    return f"{value}{_BINARY_NAMES.get(power, '')}"


def _scaled(value: Decimal) -> tuple[int, int]:
    """Mantissa and a power of ten that is a multiple of three; finer than nano is rounded up."""
    nano = int((value * 10**9).to_integral_value(rounding=ROUND_CEILING))
    power = -9
    while nano and nano % 1000 == 0 and power < 18:
        nano //= 1000
        power += 3
    return (nano, power) if nano else (0, 0)


def _decimal(value: Decimal) -> str:
    mantissa, power = _scaled(value)
    return f"{mantissa}{_DECIMAL_NAMES[power]}"


def _exponent(value: Decimal) -> str:
    mantissa, power = _scaled(value)
    return f"{mantissa}e{power}" if power else str(mantissa)


def render(value: Decimal, resource: str) -> str:
    """A sum as a real server prints it: bytes in powers of 1024, everything else in powers of 1000."""
    binary = resource.endswith(("memory", "storage")) and value >= 1024 and value == value.to_integral_value()
    return _binary(int(value)) if binary else _decimal(value)


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


def _limits(container: Mapping[str, Any]) -> dict[str, Any]:
    return (container.get("resources") or {}).get("limits") or {}


def _pod_total(
    spec: Mapping[str, Any], of: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Decimal]:
    """The sum over a pod's containers, or its largest init container where that is more."""
    total = add_up(*(of(container) for container in spec.get("containers") or []))
    for container in spec.get("initContainers") or []:
        for name, value in of(container).items():
            total[name] = max(total.get(name, Decimal(0)), parse_quantity(value))
    return total


def pod_requests(spec: Mapping[str, Any]) -> dict[str, Decimal]:
    """What a pod asks of its node."""
    return _pod_total(spec, _effective_requests)


def pod_limits(spec: Mapping[str, Any]) -> dict[str, Decimal]:
    """What a pod may use at most, of the resources that it limits."""
    return _pod_total(spec, _limits)


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
