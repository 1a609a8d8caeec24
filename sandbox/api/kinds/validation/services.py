"""Services: ports, types and the address that never changes."""

from __future__ import annotations

from typing import Any

from sandbox.api.errors import DUPLICATE, INVALID, REQUIRED, FieldError
from sandbox.api.kinds.validation.metadata import label_faults, labels_faults
from sandbox.api.kinds.validation.pods import supported
from sandbox.api.meta import dig

Json = dict[str, Any]
Faults = list[FieldError]

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")


def service_faults(obj: Json) -> Faults:
    spec = obj.get("spec") or {}
    faults = supported("spec.type", spec.get("type"), _TYPES)
    faults += supported("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None"))
    faults += labels_faults(spec.get("selector"), "spec.selector")
    ports = spec.get("ports") or []
    headless = spec.get("clusterIP") == "None"
    if not ports and not headless and spec.get("type") != "ExternalName":
        faults.append(FieldError("spec.ports", REQUIRED, ""))
    if spec.get("type") == "ExternalName" and not spec.get("externalName"):
        faults.append(FieldError("spec.externalName", REQUIRED, ""))
    return faults + _ports(ports)


def _ports(ports: list[Json]) -> Faults:
    faults: Faults = []
    names: set[str] = set()
    numbers: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        where, name = f"spec.ports[{index}]", port.get("name")
        if not name and len(ports) > 1:
            faults.append(FieldError(f"{where}.name", REQUIRED, ""))
        elif name:
            faults += [FieldError(f"{where}.name", INVALID, name, why) for why in label_faults(name)]
            if name in names:
                faults.append(FieldError(f"{where}.name", DUPLICATE, name))
            names.add(name)
        number = port.get("port") or 0
        if not 0 < number < 65536:
            faults.append(
                FieldError(f"{where}.port", INVALID, number, "must be between 1 and 65535, inclusive")
            )
        target = port.get("targetPort")
        if isinstance(target, int) and not 0 < target < 65536:
            faults.append(
                FieldError(f"{where}.targetPort", INVALID, target, "must be between 1 and 65535, inclusive")
            )
        identity = (port.get("protocol", "TCP"), number)
        if identity in numbers:
            duplicate = {"port": number, "protocol": identity[0]}
            faults.append(FieldError(where, DUPLICATE, duplicate))
        numbers.add(identity)
    return faults


def service_update_faults(new: Json, old: Json) -> Faults:
    if "ExternalName" in (dig(new, "spec", "type"), dig(old, "spec", "type")):
        return []
    faults: Faults = []
    if dig(new, "spec", "clusterIPs") != dig(old, "spec", "clusterIPs"):
        value = dig(new, "spec", "clusterIPs") or []
        faults.append(FieldError("spec.clusterIPs[0]", INVALID, value, "may not change once set"))
    elif dig(new, "spec", "clusterIP") != dig(old, "spec", "clusterIP"):
        faults.append(
            FieldError("spec.clusterIPs[0]", INVALID, dig(new, "spec", "clusterIP"), "field is immutable")
        )
    return faults
