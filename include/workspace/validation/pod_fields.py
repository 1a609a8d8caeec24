"""Whether Kubernetes can read what stands in the place of one of its own types: a pod template, a volume.

The Workspace's schema keeps such a part as it is, so the API server would find its faults only when a run creates the
pod. Fields and types are Kubernetes' own (presets/schemas/pod_template.json); what its validation asks on top, of
containers, is below. Reads values of any shape and never raises.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import cache

from include.catalog import records
from include.workspace.validation.faults import Fault, Hints
from include.workspace.validation.identity import DNS_LABEL

FILE = records.PRESETS / "schemas" / "pod_template.json"
RULE = "F62"

_SCALARS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "string": ("text", lambda value: isinstance(value, str)),
    "integer": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "number": ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "quantity": ("a quantity, such as 500m or 16Gi", lambda value: _is_plain(value)),
    "intorstring": (
        "a whole number or text",
        lambda value: _is_plain(value) and not isinstance(value, float),
    ),
    "time": ("a time", lambda value: isinstance(value, str | date)),
}


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


@cache
def _structs() -> Mapping[str, Mapping[str, str]]:
    result: Mapping[str, Mapping[str, str]] = json.loads(FILE.read_text(encoding="utf-8"))
    return result


def template_faults(template: Mapping[str, object], path: str) -> list[Fault]:
    """Everything for which Kubernetes would refuse a pod template of a StatefulSet.

    :param template: a PodTemplateSpec as it was written.
    :param path: where it stands in its document.
    """
    found = list(_struct(template, "PodTemplateSpec", path, Hints()))
    spec = template.get("spec")
    if spec is None:
        hint = "give it a spec with containers"
        found.append(Fault(f"{path}.spec", None, RULE, "is required", hint))
    if not found and isinstance(spec, Mapping):  # of the right types
        found += _containers(spec, f"{path}.spec")
    return found


def volume_source_faults(volume: Mapping[str, object], path: str) -> list[Fault]:
    """The fields of a volume's source that Kubernetes does not know or cannot read."""
    return list(_struct({"name": "", **volume}, "Volume", path, Hints()))


def _value(value: object, kind: str, path: str, hints: Hints) -> Iterator[Fault]:
    if kind in _SCALARS:
        right, fits = _SCALARS[kind]
        if not fits(value):
            hint = f'put it in quotes: "{_spelt(value)}"' if kind == "string" and _quotable(value) else ""
            shown = None if isinstance(value, Mapping | list) else value
            yield Fault(path, shown, RULE, f"must be {right}", hint)
    elif kind.startswith("[]"):
        if not isinstance(value, list):
            yield Fault(path, None if isinstance(value, Mapping) else value, RULE, "must be a list")
            return
        for index, item in enumerate(value):
            yield from _value(item, kind[2:], f"{path}[{index}]", hints)
    elif kind.startswith("{}"):
        if not isinstance(value, Mapping):
            yield Fault(path, None if isinstance(value, list) else value, RULE, "must be a mapping")
            return
        for key, item in value.items():
            yield from _value(item, kind[2:], f"{path}[{key}]", hints)
    elif kind != "any":
        yield from _struct(value, kind, path, hints)


def _struct(value: object, kind: str, path: str, hints: Hints) -> Iterator[Fault]:
    fields = _structs()[kind]
    if not isinstance(value, Mapping):
        yield Fault(path, None if isinstance(value, list) else value, RULE, "must be a mapping")
        return
    for key, inner in value.items():
        if str(key) not in fields:
            hint = hints.did_you_mean(str(key), frozenset(fields))
            yield Fault(f"{path}.{key}", None, RULE, f"is not a field of a {kind} of Kubernetes", hint)
        elif inner is not None:  # a null counts as absent
            yield from _value(inner, fields[str(key)].removesuffix("!"), f"{path}.{key}", hints)
    for key, kind_of in fields.items():
        if kind_of.endswith("!") and value.get(key) is None:
            yield Fault(f"{path}.{key}", None, RULE, "is required")


def _quotable(value: object) -> bool:
    return isinstance(value, bool | int | float)


def _spelt(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _containers(spec: Mapping[str, object], path: str) -> Iterator[Fault]:
    """What Kubernetes' validation asks of the containers and volumes of a spec whose types are right."""
    if not spec.get("containers"):
        yield Fault(f"{path}.containers", None, RULE, "must have at least one container")
    if spec.get("restartPolicy") not in (None, "", "Always"):
        hint = "remove it: a service is started again"
        yield Fault(f"{path}.restartPolicy", spec["restartPolicy"], RULE, "must be Always", hint)
    volumes = list(_parts(spec, "volumes", path))
    yield from _named_once(volumes)
    known = {volume.get("name") for _, volume in volumes}
    containers = [*_parts(spec, "initContainers", path), *_parts(spec, "containers", path)]
    yield from _named_once(containers)
    for where, container in containers:
        if not container.get("image"):
            yield Fault(f"{where}.image", None, RULE, "is required", "write registry/repository:tag")
        for at, mount in _parts(container, "volumeMounts", where):
            if mount.get("name") not in known:
                hint = f"volumes here: {', '.join(sorted(map(str, known)))}" if known else "add it to volumes"
                yield Fault(
                    f"{at}.name", mount.get("name"), RULE, "is the name of no volume of the pod", hint
                )
        for at, port in _parts(container, "ports", where):
            number = port.get("containerPort")
            if isinstance(number, int) and not 0 < number < 65536:
                yield Fault(f"{at}.containerPort", number, RULE, "must be between 1 and 65535")


def _parts(owner: Mapping[str, object], key: str, path: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    found = owner.get(key)
    for index, item in enumerate(found if isinstance(found, list) else ()):
        if isinstance(item, Mapping):
            yield f"{path}.{key}[{index}]", item


def _named_once(parts: list[tuple[str, Mapping[str, object]]]) -> Iterator[Fault]:
    seen: set[object] = set()
    for path, part in parts:
        name = part.get("name")
        if not DNS_LABEL.fullmatch(str(name)):
            hint = "use at most 63 lower-case letters, digits and '-', with a letter or digit at both ends"
            yield Fault(f"{path}.name", name, RULE, "is not a name it can have", hint)
        elif name in seen:
            yield Fault(f"{path}.name", name, RULE, "is used twice")
        seen.add(name)
