"""Pods and pod templates: required parts, names, ports, mounts; and what of a pod may ever change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.api.errors import (
    DUPLICATE,
    FORBIDDEN,
    INVALID,
    NOT_FOUND,
    REQUIRED,
    UNSUPPORTED,
    FieldError,
    forbidden,
)
from sandbox.api.kinds.validation.metadata import label_faults, labels_faults
from sandbox.api.meta import copied, dig
from sandbox.quantities import parse_quantity

if TYPE_CHECKING:
    from sandbox.api.kinds.strategy import Site

Json = dict[str, Any]
Faults = list[FieldError]

_OVERCOMMITTED = ("cpu", "memory", "ephemeral-storage")


def supported(path: str, value: object, allowed: tuple[str, ...]) -> Faults:
    """A fault when a value is set to something else than the allowed ones."""
    if value is None or value in allowed:
        return []
    listed = ", ".join(f'"{item}"' for item in sorted(allowed))
    return [FieldError(path, UNSUPPORTED, value, f"supported values: {listed}")]


def check_service_account(obj: Json, site: Site) -> None:
    """The ServiceAccount admission plug-in: a pod runs under an account that exists."""
    name, meta = dig(obj, "spec", "serviceAccountName") or "default", obj["metadata"]
    if name == "default" or site.exists("serviceaccounts", meta["namespace"], name):
        return
    why = f'error looking up service account {meta["namespace"]}/{name}: serviceaccount "{name}" not found'
    raise forbidden("pods", "", meta.get("name", ""), why)


def pod_faults(obj: Json) -> Faults:
    return pod_spec_faults(obj.get("spec") or {}, "spec")


def pod_spec_faults(spec: Json, path: str) -> Faults:
    volumes, faults = _volumes(spec, path)
    containers = spec.get("containers") or []
    if not containers:
        faults.append(FieldError(f"{path}.containers", REQUIRED, ""))
    seen: set[str] = set()
    for part in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(part) or ()):
            faults += _container(
                container, f"{path}.{part}[{index}]", volumes, seen, part == "initContainers"
            )
    faults += supported(f"{path}.restartPolicy", spec.get("restartPolicy"), ("Always", "OnFailure", "Never"))
    policies = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
    faults += supported(f"{path}.dnsPolicy", spec.get("dnsPolicy"), policies)
    faults += labels_faults(spec.get("nodeSelector"), f"{path}.nodeSelector")
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        value = spec["terminationGracePeriodSeconds"]
        faults.append(
            FieldError(
                f"{path}.terminationGracePeriodSeconds", INVALID, value, "must be greater than or equal to 0"
            )
        )
    if spec.get("activeDeadlineSeconds") is not None and spec["activeDeadlineSeconds"] < 1:
        faults.append(
            FieldError(
                f"{path}.activeDeadlineSeconds",
                INVALID,
                spec["activeDeadlineSeconds"],
                "must be between 1 and 2147483647, inclusive",
            )
        )
    return faults + _tolerations(spec, path)


def _volumes(spec: Json, path: str) -> tuple[set[str], Faults]:
    names: set[str] = set()
    faults: Faults = []
    for index, volume in enumerate(spec.get("volumes") or ()):
        where, name = f"{path}.volumes[{index}]", volume.get("name")
        if not name:
            faults.append(FieldError(f"{where}.name", REQUIRED, ""))
            continue
        faults += [FieldError(f"{where}.name", INVALID, name, why) for why in label_faults(name)]
        if name in names:
            faults.append(FieldError(f"{where}.name", DUPLICATE, name))
        sources = [key for key in volume if key != "name"]
        faults += [
            FieldError(f"{where}.{extra}", FORBIDDEN, None, "may not specify more than 1 volume type")
            for extra in sources[1:]
        ]
        names.add(name)
    return names, faults


def _container(container: Json, path: str, volumes: set[str], seen: set[str], init: bool) -> Faults:
    faults: Faults = []
    name = container.get("name")
    if not name:
        faults.append(FieldError(f"{path}.name", REQUIRED, ""))
    else:
        faults += [FieldError(f"{path}.name", INVALID, name, why) for why in label_faults(name)]
        if name in seen:
            faults.append(FieldError(f"{path}.name", DUPLICATE, name))
        seen.add(name)
    image = container.get("image") or ""
    if not image:
        faults.append(FieldError(f"{path}.image", REQUIRED, ""))
    elif image != image.strip():
        faults.append(
            FieldError(f"{path}.image", INVALID, image, "must not have leading or trailing whitespace")
        )
    faults += supported(
        f"{path}.imagePullPolicy", container.get("imagePullPolicy"), ("Always", "IfNotPresent", "Never")
    )
    faults += supported(
        f"{path}.terminationMessagePolicy",
        container.get("terminationMessagePolicy"),
        ("File", "FallbackToLogsOnError"),
    )
    if init and container.get("restartPolicy") != "Always":
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            if container.get(probe):
                why = "may not be set for init containers without restartPolicy=Always"
                faults.append(FieldError(f"{path}.{probe}", FORBIDDEN, None, why))
    return [
        *faults,
        *_environment(container, path),
        *_ports(container, path),
        *_mounts(container, path, volumes),
        *_resources(container.get("resources") or {}, f"{path}.resources"),
    ]


def _environment(container: Json, path: str) -> Faults:
    faults: Faults = []
    for index, variable in enumerate(container.get("env") or ()):
        where = f"{path}.env[{index}]"
        if not variable.get("name"):
            faults.append(FieldError(f"{where}.name", REQUIRED, ""))
        if variable.get("value") and variable.get("valueFrom"):
            why = "may not be specified when `value` is not empty"
            faults.append(FieldError(f"{where}.valueFrom", INVALID, "", why))
    return faults


def _ports(container: Json, path: str) -> Faults:
    faults: Faults = []
    names: set[str] = set()
    for index, port in enumerate(container.get("ports") or ()):
        where, number = f"{path}.ports[{index}]", port.get("containerPort")
        if not number:
            faults.append(FieldError(f"{where}.containerPort", REQUIRED, ""))
        elif not 0 < number < 65536:
            faults.append(
                FieldError(
                    f"{where}.containerPort", INVALID, number, "must be between 1 and 65535, inclusive"
                )
            )
        faults += supported(f"{where}.protocol", port.get("protocol"), ("TCP", "UDP", "SCTP"))
        if name := port.get("name"):
            if len(name) > 15:
                faults.append(
                    FieldError(f"{where}.name", INVALID, name, "must be no more than 15 characters")
                )
            if name in names:
                faults.append(FieldError(f"{where}.name", DUPLICATE, name))
            names.add(name)
    return faults


def _mounts(container: Json, path: str, volumes: set[str]) -> Faults:
    faults: Faults = []
    paths: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        where = f"{path}.volumeMounts[{index}]"
        if not mount.get("name"):
            faults.append(FieldError(f"{where}.name", REQUIRED, ""))
        elif mount["name"] not in volumes:
            faults.append(FieldError(f"{where}.name", NOT_FOUND, mount["name"]))
        target = mount.get("mountPath")
        if not target:
            faults.append(FieldError(f"{where}.mountPath", REQUIRED, ""))
        elif target in paths:
            faults.append(FieldError(f"{where}.mountPath", INVALID, target, "must be unique"))
        paths.add(target or "")
    return faults


def _resources(resources: Json, path: str) -> Faults:
    faults: Faults = []
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for part, values in (("limits", limits), ("requests", requests)):
        for name, value in values.items():
            if parse_quantity(value) < 0:
                faults.append(
                    FieldError(f"{path}.{part}[{name}]", INVALID, value, "must be greater than or equal to 0")
                )
    for name, value in requests.items():
        if name not in _OVERCOMMITTED and "/" in name and name not in limits:
            why = "Limit must be set for non overcommitable resources"
            faults.append(FieldError(f"{path}.limits", REQUIRED, "", why))
        elif name in limits and parse_quantity(value) > parse_quantity(limits[name]):
            why = f"must be less than or equal to {name} limit of {limits[name]}"
            faults.append(FieldError(f"{path}.requests", INVALID, value, why))
        elif name in limits and "/" in name and parse_quantity(value) != parse_quantity(limits[name]):
            why = f"must be equal to {name} limit of {limits[name]}"
            faults.append(FieldError(f"{path}.requests", INVALID, value, why))
    return faults


def _tolerations(spec: Json, path: str) -> Faults:
    faults: Faults = []
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        where = f"{path}.tolerations[{index}]"
        operators, effects = ("Equal", "Exists", "Lt", "Gt"), ("NoSchedule", "PreferNoSchedule", "NoExecute")
        faults += supported(f"{where}.operator", toleration.get("operator") or None, operators)
        faults += supported(f"{where}.effect", toleration.get("effect") or None, effects)
        if toleration.get("operator") == "Exists" and toleration.get("value"):
            why = "value must be empty when `operator` is 'Exists'"
            faults.append(FieldError(f"{where}.operator", INVALID, toleration["value"], why))
    return faults


_MUTABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def pod_update_faults(new: Json, old: Json) -> Faults:
    """A pod's specification is fixed, but for images, the deadline and additional tolerations."""
    spec, before = copied(new.get("spec") or {}), copied(old.get("spec") or {})
    kept = before.get("tolerations") or []
    added_only = all(toleration in (spec.get("tolerations") or []) for toleration in kept)
    for one in (spec, before):
        one.pop("activeDeadlineSeconds", None)
        if added_only:
            one.pop("tolerations", None)
        for part in ("containers", "initContainers"):
            for container in one.get(part) or ():
                container.pop("image", None)
    if spec == before:
        return []
    return [FieldError("spec", FORBIDDEN, None, _MUTABLE)]
