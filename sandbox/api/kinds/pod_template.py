"""The fields of a pod template with their types, as one small table: what `check` judges templates by.

    python -m sandbox.api.kinds.pod_template > presets/schemas/pod_template.json

Written from Kubernetes' own definitions, 40 ms of reading that no check should wait for. A type is string, integer,
boolean, number, quantity, intorstring, time or any, or the name of a struct of the table; [] before it is a list, {} a
map, and ! after it a field that has to be there.
"""

from __future__ import annotations

import json
import sys

from sandbox.api.kinds.types import Type, built_in

ROOT = "io.k8s.api.core.v1.PodTemplateSpec"


def table() -> dict[str, dict[str, str]]:
    """Fields by struct, the template itself first."""
    result: dict[str, dict[str, str]] = {}
    _add(built_in(ROOT), result)
    return result


def text() -> str:
    return json.dumps(table(), indent=1) + "\n"


def _add(struct: Type, result: dict[str, dict[str, str]]) -> None:
    short = struct.name.rpartition(".")[2]
    if short in result:
        return
    required = struct.schema.get("required") or ()
    result[short] = {
        name: _named(inner) + ("!" if name in required else "") for name, inner in struct.fields.items()
    }
    for inner in struct.fields.values():
        while inner.kind in ("list", "map"):
            inner = inner.element
        if inner.kind == "struct":
            _add(inner, result)


def _named(type_: Type) -> str:
    if type_.kind in ("list", "map"):
        return ("[]" if type_.kind == "list" else "{}") + _named(type_.element)
    if type_.kind == "struct":
        return type_.name.rpartition(".")[2]
    return type_.scalar or "any"


if __name__ == "__main__":
    sys.stdout.write(text())
