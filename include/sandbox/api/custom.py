"""Custom resources: defaulting and validation by the structural schema of their definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.sandbox.api import rules, schema
from include.sandbox.api.errors import FieldError
from include.sandbox.api.shapes import Type

if TYPE_CHECKING:
    from include.sandbox.api.resources import Resource

Json = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """One version of a CustomResourceDefinition, as `Resource.custom`."""

    schema: Json
    type: Type
    columns: tuple[Json, ...]
    scale: Json | None
    storage_version: str
    deprecation: str = ""


def default(info: Resource, obj: Json) -> None:
    """Fill in the schema's defaults, in place."""
    version: Version = info.custom
    schema.apply_defaults(version.schema, obj)


def faults(info: Resource, new: Json, old: Json | None, subresource: str | None = None) -> list[FieldError]:
    """What the schema and its CEL rules refuse."""
    version: Version = info.custom
    found = schema.faults(version.schema, new)
    if subresource == "status":
        found = [fault for fault in found if fault.field.startswith("status")]
    return found or rules.faults(version.schema, new, old)
