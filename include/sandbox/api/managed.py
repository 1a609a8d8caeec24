"""metadata.managedFields: who set which field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from include.sandbox.api.resources import Resource

Json = dict[str, Any]


def record(info: Resource, old: Json | None, new: Json, manager: str, subresource: str | None) -> None:
    """Note in `new` that `manager` wrote what differs from `old`."""
