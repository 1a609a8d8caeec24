"""Whether Kubernetes can read what stands in the place of one of its own types: a pod template, a volume.

The Workspace's schema keeps such a part as it is, so the API server would find its faults only when a run creates the
pod. Fields and types are Kubernetes' own (presets/schemas/pod_template.json); what its validation asks on top, of
containers, is below. A field that it does not know is left out with a notice, as KAITO's Go reads such a part: a
server-side apply would refuse it. Reads values of any shape and never raises.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from functools import cache
from typing import Any

from include.catalog import records
from include.contracts.faults import HINTS, NAME_LENGTH
from include.contracts.plural import plural
from include.contracts.redaction import redact
from include.workspace.validation.faults import Fault, Hints, did_you_mean
from include.workspace.validation.identity import DNS_LABEL

FILE = records.PRESETS / "schemas" / "pod_template.json"
RULE = "F62"
VERSION = "1.36"  # of the table

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
    found = list(_struct(template, "PodTemplateSpec", path))
    spec = template.get("spec")
    if spec is None:
        hint = "give it a spec with containers"
        found.append(Fault(f"{path}.spec", None, RULE, "is required", hint))
    if not found and isinstance(spec, Mapping):  # of the right types
        found += _containers(spec, f"{path}.spec")
    return found


def volume_source_faults(volume: Mapping[str, object], path: str) -> list[Fault]:
    """The fields of a volume's source that Kubernetes cannot read, and a kind of volume that it does not know."""
    strange = sorted(str(kind) for kind in volume if str(kind) not in _structs()["Volume"])
    if strange:  # without its kind it would be an empty folder of the Node
        known = frozenset(_structs()["Volume"])
        hint = did_you_mean(strange[0], known)
        told = f"is not a field of a Volume of Kubernetes {VERSION}"
        return [Fault(f"{path}.{strange[0]}", None, RULE, told, hint)]
    return list(_struct({"name": "", **volume}, "Volume", path))


def known_template(template: Mapping[str, object]) -> dict[str, Any]:
    """A pod template without the fields that Kubernetes does not know."""
    result: dict[str, Any] = _known(template, "PodTemplateSpec", "", [])
    return result


def known_volume_source(volume: Mapping[str, object]) -> dict[str, Any]:
    """A volume's source without the fields that Kubernetes does not know."""
    result: dict[str, Any] = _known(volume, "Volume", "", [])
    return result


def notices(parts: Iterable[tuple[str, str, Mapping[str, object]]]) -> list[str]:
    """Sentences about the fields that are left out.

    :param parts: the path, the type (PodTemplateSpec or Volume) and the value of each such part of a Workspace.
    """
    left_out: list[tuple[str, str, str]] = []
    for path, kind, value in parts:
        _known(value, kind, path, left_out)
    found, hints = [], Hints()
    for path, key, kind in left_out[:HINTS]:
        close = hints.nearest(key, frozenset(_structs()[kind]))
        hint = f"; did you mean {close}?" if close else "."
        where = redact(f"{path}.{key if len(key) <= NAME_LENGTH else f'{key[:NAME_LENGTH]}...'}")
        found.append(f"{where} is not a field of a {kind} of Kubernetes {VERSION} and is left out{hint}")
    if len(left_out) > HINTS:
        more = plural(len(left_out) - HINTS, "more unknown field")
        found.append(f"Kubernetes {VERSION} does not know what else is here: {more}, left out too.")
    return found


def _known(value: Any, kind: str, path: str, left_out: list[tuple[str, str, str]]) -> Any:
    """The value without unknown fields, whose path, name and type go to `left_out`; what is no such type stays."""
    if kind in _SCALARS or kind == "any":
        return value
    if kind.startswith("[]") and isinstance(value, list):
        return [_known(item, kind[2:], f"{path}[{at}]", left_out) for at, item in enumerate(value)]
    if kind.startswith("[]") or not isinstance(value, Mapping):
        return value
    if kind.startswith("{}"):
        return {key: _known(item, kind[2:], f"{path}[{key}]", left_out) for key, item in value.items()}
    fields, result = _structs()[kind], {}
    for key, inner in value.items():
        if str(key) in fields:
            result[key] = _known(inner, fields[str(key)].removesuffix("!"), f"{path}.{key}", left_out)
        else:
            left_out.append((path, str(key), kind))
    return result


def _value(value: object, kind: str, path: str) -> Iterator[Fault]:
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
            yield from _value(item, kind[2:], f"{path}[{index}]")
    elif kind.startswith("{}"):
        if not isinstance(value, Mapping):
            yield Fault(path, None if isinstance(value, list) else value, RULE, "must be a mapping")
            return
        for key, item in value.items():
            yield from _value(item, kind[2:], f"{path}[{key}]")
    elif kind != "any":
        yield from _struct(value, kind, path)


def _struct(value: object, kind: str, path: str) -> Iterator[Fault]:
    fields = _structs()[kind]
    if not isinstance(value, Mapping):
        yield Fault(path, None if isinstance(value, list) else value, RULE, "must be a mapping")
        return
    for key, inner in value.items():
        if str(key) in fields and inner is not None:  # a null counts as absent
            yield from _value(inner, fields[str(key)].removesuffix("!"), f"{path}.{key}")
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
