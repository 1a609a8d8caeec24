"""The JSON schema of a Workspace: for editors, and for the CRD.

pydantic writes it, from models made of the same classes that read a Workspace; what these models refuse and how is
also what the reader is tested against. Only what prints a schema may import this: pydantic costs a tenth of a second.
"""

from __future__ import annotations

from typing import Annotated, Any, Optional, get_args, get_origin

from pydantic import BaseModel, ConfigDict, create_model
from pydantic import Field as Described

from include.workspace.api.models import Workspace
from include.workspace.api.strict_model import Field, StrictModel, fields


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, validate_by_alias=True, frozen=True)


def json_schema() -> dict[str, Any]:
    """The schema in the API's spelling, as JSON Schema 2020-12."""
    return pydantic_model(Workspace).model_json_schema(by_alias=True)


_MADE: dict[type[StrictModel], type[BaseModel]] = {}


def pydantic_model(model: type[StrictModel]) -> type[BaseModel]:
    """The same model in pydantic."""
    if model not in _MADE:
        definitions: dict[str, Any] = {one.name: _definition(one) for one in fields(model)}
        _MADE[model] = create_model(
            model.__name__, __base__=_Strict, __doc__=vars(model).get("__doc__"), **definitions
        )
    return _MADE[model]


def _definition(one: Field) -> tuple[Any, Any]:
    kind = _kind(one.kind)
    if one.schema:
        kind = Annotated[kind, Described(json_schema_extra=dict(one.schema))]
    default = None if one.optional else ...
    beside = Described(default, alias=one.alias, description=one.description or None)
    return (Optional[kind] if one.optional and kind is not Any else kind), beside  # noqa: UP045 - a value


def _kind(kind: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, StrictModel):
        return pydantic_model(kind)
    parts = get_args(kind)
    return get_origin(kind)[tuple(map(_kind, parts))] if parts else kind
