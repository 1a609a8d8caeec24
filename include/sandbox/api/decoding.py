"""Bodies against the types of their kinds: unknown fields are reported or dropped, wrong types refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from include.sandbox.api.resources import Resource
    from include.sandbox.api.writing import WriteOptions

Json = dict[str, Any]


def decode(info: Resource, obj: Json, options: WriteOptions) -> None:
    """Drop what the kind does not know, in place."""
