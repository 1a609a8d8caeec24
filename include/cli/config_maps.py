"""The ConfigMaps of the checked files: found by the names that Workspaces use, and checked with them.

A Workspace names a ConfigMap of its own namespace; a file may leave the namespace to `kubectl -n`, so one that is not
given matches any. It must never fetch a ConfigMap from anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from include.cli.report import Finding
from include.contracts.yaml_documents.reader import (
    BadDocument,
    Place,
    load_one,
    read,
)
from include.workspace.validation.faults import Fault, did_you_mean

Check = Callable[[str], list[Fault]]  # the text of a config file -> everything that is wrong with it


class ConfigMap(NamedTuple):
    """One ConfigMap of the files."""

    file: str
    namespace: str
    name: str
    value: Mapping[str, Any]
    place: Place


def find(maps: list[ConfigMap], namespace: str, name: str) -> ConfigMap | None:
    """The ConfigMap of this name: in the same namespace, else where either namespace is not given."""
    named = [one for one in maps if one.name == name]
    exact = next((one for one in named if one.namespace == namespace), None)
    return exact or next((one for one in named if not one.namespace or not namespace), None)


def content(config_map: ConfigMap, key: str) -> str | None:
    """The text under a key, or None when there is none."""
    data = config_map.value.get("data")
    text = data.get(key) if isinstance(data, Mapping) else None
    return text if isinstance(text, str) else None


def parsed(text: str) -> Mapping[str, Any]:
    """The mapping that a config file holds; empty when it holds none (the checks say so)."""
    try:
        loaded = load_one(text)
    except BadDocument:
        return {}
    return loaded if isinstance(loaded, Mapping) else {}


def findings(config_map: ConfigMap, key: str, missing_rule: str, check: Check) -> list[Finding]:
    """What is wrong with the file that a ConfigMap holds under `key`, at its lines in the ConfigMap's own file."""
    text = content(config_map, key)
    if text is None:
        return [_missing(config_map, key, missing_rule)]
    at = config_map.place.find(f"data[{key}]")
    inner = next(read(text), None)
    found = []
    for fault in check(text):
        if isinstance(inner, BadDocument):
            place = at.within(Place(inner.line, inner.column)) if inner.line else at
        else:
            place = at.within(inner.place.find(fault.path)) if inner else at
        found.append(Finding(config_map.file, place.line, place.column, fault, config_map.name))
    return sorted(found, key=lambda finding: (finding.line, finding.column))


def _missing(config_map: ConfigMap, key: str, rule: str) -> Finding:
    data = config_map.value.get("data")
    keys = [str(one) for one in data] if isinstance(data, Mapping) else []
    if key in keys:
        fault = Fault(f"data[{key}]", None, rule, "must be text", "write it as a block: key: |")
    else:
        fault = Fault("data", None, rule, f"has no key {key}", did_you_mean(key, keys))
    place = config_map.place.find(fault.path)
    return Finding(config_map.file, place.line, place.column, fault, config_map.name)
