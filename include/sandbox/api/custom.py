"""Custom resources: defaulting and validation by the structural schema of their definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.sandbox.api.errors import FieldError

if TYPE_CHECKING:
    from include.sandbox.api.resources import Resource

Json = dict[str, Any]


def default(info: Resource, obj: Json) -> None:
    """Fill in the schema's defaults, in place."""


def faults(info: Resource, new: Json, old: Json | None, subresource: str | None = None) -> list[FieldError]:
    return []
