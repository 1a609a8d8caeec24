"""Custom resources: defaulting, pruning and validation by the structural schema of their definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox.api.crd import cel_rules, structural_schema
from sandbox.api.errors import REQUIRED, TOO_LONG, TOO_MANY, TYPE_INVALID, UNSUPPORTED, FieldError
from sandbox.api.kinds.types import Type

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource

Json = dict[str, Any]
#: Faults of the structure after which the API server does not evaluate rules (apiextensions' hasBlockingErr).
_BLOCKING = frozenset({REQUIRED, UNSUPPORTED, TOO_LONG, TOO_MANY, TYPE_INVALID})


@dataclass(frozen=True)
class Version:
    """One version of a CustomResourceDefinition, as `Resource.custom`."""

    schema: Json
    type: Type
    columns: tuple[Json, ...]
    scale: Json | None
    deprecation: str = ""


def converted(obj: Json, api_version: str, type_: Type) -> Json:
    """An object in another version of its kind: as a real server without a webhook does it, fields that this version
    does not have are not there. The object itself is left as it is; unchanged parts are shared.
    """
    return {**pruned(type_, obj), "apiVersion": api_version, "metadata": obj["metadata"]}


def pruned(type_: Type, value: object) -> Any:
    """A value without the fields that its type does not know."""
    if type_.kind == "struct" and isinstance(value, dict):
        return {
            name: pruned(type_.fields[name], inner) if name in type_.fields else inner
            for name, inner in value.items()
            if name in type_.fields or type_.preserves_unknown
        }
    if type_.kind == "map" and isinstance(value, dict):
        return {name: pruned(type_.element, inner) for name, inner in value.items()}
    if type_.kind == "list" and isinstance(value, list):
        return [pruned(type_.element, inner) for inner in value]
    return value


def default(info: Resource, obj: Json) -> None:
    """Drop the nulls that mean nothing and fill in the schema's defaults, in place."""
    version: Version = info.custom
    structural_schema.drop_nulls(version.schema, obj)
    structural_schema.apply_defaults(version.schema, obj)


def faults(info: Resource, new: Json, old: Json | None, subresource: str | None = None) -> list[FieldError]:
    """What the schema and its CEL rules refuse."""
    version: Version = info.custom
    return refusals(version.schema, new, old, subresource)


def refusals(schema: Json, new: Json, old: Json | None, subresource: str | None = None) -> list[FieldError]:
    """What a schema and its CEL rules refuse; rules are not asked about a value whose shape they could not rely on."""
    result = structural_schema.faults(schema, new)
    if subresource == "status":
        result = [fault for fault in result if fault.field.startswith("status")]
    if any(fault.reason in _BLOCKING or "must be of type" in fault.detail for fault in result):
        return result
    return [*result, *cel_rules.faults(schema, new, old)]
