"""meta.k8s.io/v1 Tables: what `kubectl get` prints, made by the server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sandbox.api.http.printing import jsonpath
from sandbox.api.http.printing.columns import cluster, pods, workloads
from sandbox.api.http.printing.columns.parts import (
    Columns,
    age,
    name,
    since,
)

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource

Json = dict[str, Any]

_TABLES: dict[str, Columns] = {"pods": pods.PODS, **workloads.TABLES, **cluster.TABLES}
_PLAIN = Columns(("Name", "Age"), lambda obj: [name(obj), age(obj)])


def table(info: Resource, objects: list[Json], metadata: Json, include: str = "Metadata") -> Json:
    """Objects of one kind as a Table; `include` is None, Metadata or Object: what each row carries besides cells."""
    if info.custom is not None:
        definitions, cells = _custom_definitions(info), _custom_cells(info)
        completed = None
    else:
        columns = _TABLES.get(info.key, _PLAIN)
        definitions, cells, completed = columns.definitions(), columns.cells, columns.completed
    rows = []
    for obj in objects:
        bookmark = set(obj) == {"kind", "apiVersion", "metadata"} and not obj["metadata"].get("name")
        row: Json = {"cells": [] if bookmark else cells(obj), **_carried(obj, include)}
        if completed is not None and not bookmark and (reason := completed(obj)):
            row["conditions"] = [
                {"type": "Completed", "status": "True", "reason": reason, "message": "The pod has completed."}
            ]
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    }


def _carried(obj: Json, include: str) -> Json:
    if include == "None":
        return {}
    if include == "Object":
        return {"object": obj}
    partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
    return {"object": partial}


# custom resources

_AGE: Json = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def _columns(info: Resource) -> tuple[Json, ...]:
    return info.custom.columns or (_AGE,)


def _custom_definitions(info: Resource) -> list[Json]:
    first = {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}
    return [
        first,
        *(
            {
                "name": column["name"],
                "type": column["type"],
                "format": column.get("format", ""),
                "description": column.get("description", ""),
                "priority": column.get("priority", 0),
            }
            for column in _columns(info)
        ),
    ]


def _custom_cells(info: Resource) -> Any:
    columns = [(column["jsonPath"], column["type"]) for column in _columns(info)]
    return lambda obj: [name(obj), *(_cell(path, type_, obj) for path, type_ in columns)]


def _cell(path: str, type_: str, obj: Json) -> Any:
    values = jsonpath.found(path, obj)
    if not values or values[0] is None:
        return None
    value = values[0]
    if type_ == "date":
        try:
            return since(value)
        except (ValueError, TypeError):
            return "<invalid>"
    if type_ == "string":
        return _text(value)
    fits: dict[str, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "boolean": (bool,)}
    return value if isinstance(value, fits.get(type_, (object,))) else None


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    return str(value)
