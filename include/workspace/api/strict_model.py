"""Objects of a strict schema, read and written in the API's spelling, without the start of a validation library.

Importing pydantic and building its models took half of the time that `check` takes to start, so the few kinds of field
that a Workspace has are read here: text, whole numbers, lists, mappings, and objects of these. What is read, what is
refused and in which words is what pydantic's strict mode does; a test compares the two, on the model that
`include.workspace.api.json_schema` makes of the same classes. It must never convert, default or drop anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import NoneType
from typing import (
    Annotated,
    Any,
    NamedTuple,
    Self,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

Loc = tuple[Any, ...]


class Problem(NamedTuple):
    """One thing that a document has wrong: the place, the kind by pydantic's name for it, and the value there."""

    loc: Loc
    type: str
    input: Any


class Unreadable(ValueError):
    """A document that is not of the schema, with everything that is wrong with it, in the order of the fields."""

    def __init__(self, kind: str, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        told = "; ".join(f"{'.'.join(map(str, one.loc))}: {one.type}" for one in self.problems)
        super().__init__(f"this is no {kind}: {told}")


class SchemaKey(NamedTuple):
    """A key that the JSON schema has beside a field's kind."""

    key: str
    value: Any


class Field(NamedTuple):
    """A field: its names in Python and in the API, the kind of its values, and what the schema says beside it.

    `optional` fields may be null, and absent: no field has another default.
    """

    name: str
    alias: str
    kind: Any
    optional: bool
    description: str = ""
    schema: tuple[SchemaKey, ...] = ()


@dataclass_transform(kw_only_default=True, frozen_default=True)
class StrictModel:
    """An object whose fields are the annotations of its class; `Annotated` adds a description or a schema's keys.

    Made by `read` only. Equal when the same fields were given the same values.
    """

    _given: frozenset[str]

    @classmethod
    def read(cls, data: Any) -> Self:
        """The object of a document. Raises Unreadable with everything that is wrong."""
        problems: list[Problem] = []
        found = _value(cls, data, (), problems)
        if problems:
            raise Unreadable(cls.__name__, problems)
        assert isinstance(found, cls)  # noqa: S101 - for mypy
        return found

    def changed(self, **values: Any) -> Self:
        """A copy in which these fields are given these values, which are not checked."""
        return _made(type(self), vars(self) | values, self._given | values.keys())

    def to_dict(self) -> dict[str, Any]:
        """Exactly the fields that were given, in the API's spelling and in the order of the schema."""
        return {
            one.alias: _plain(getattr(self, one.name))
            for one in fields(type(self))
            if one.name in self._given
        }

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: `changed` makes another")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={getattr(self, name)!r}" for name in vars(self) if name in self._given)
        return f"{type(self).__name__}({given})"


Made = TypeVar("Made", bound=StrictModel)


_KNOWN: dict[type[StrictModel], tuple[Field, ...]] = {}


def fields(model: type[StrictModel]) -> tuple[Field, ...]:
    """The fields of a model in their order."""
    if model not in _KNOWN:
        hints = get_type_hints(model, include_extras=True)
        _KNOWN[model] = tuple(_field(name, hint) for name, hint in hints.items() if not name.startswith("_"))
    return _KNOWN[model]


def _field(name: str, hint: Any) -> Field:
    first, *words = name.split("_")
    alias = first + "".join(word.capitalize() for word in words)
    description, schema, optional = "", tuple[SchemaKey, ...](), hint is Any
    while get_origin(hint) is Annotated or NoneType in get_args(hint):
        if get_origin(hint) is Annotated:
            hint, *notes = get_args(hint)
            description = next((note for note in notes if isinstance(note, str)), description)
            schema += tuple(note for note in notes if isinstance(note, SchemaKey))
        else:
            optional = True
            [hint] = (part for part in get_args(hint) if part is not NoneType)
    return Field(name, alias, hint, optional, description, schema)


def models_in(kind: Any) -> Iterator[type[StrictModel]]:
    """The model that a field's values or their items are, if any."""
    if isinstance(kind, type) and issubclass(kind, StrictModel):
        yield kind
    for part in get_args(kind):
        yield from models_in(part)


def _value(kind: Any, value: Any, loc: Loc, problems: list[Problem]) -> Any:
    """The value of a kind; where it is not, the problems are written down and the value given is of no use."""
    if kind is Any:
        return value
    if kind is str or kind is int:
        if not isinstance(value, kind) or isinstance(value, bool):
            problems.append(Problem(loc, "string_type" if kind is str else "int_type", value))
        return value
    origin, parts = get_origin(kind), get_args(kind)
    if origin is list:
        if not isinstance(value, list):
            problems.append(Problem(loc, "list_type", value))
            return value
        return [_value(parts[0], item, (*loc, place), problems) for place, item in enumerate(value)]
    if not isinstance(value, dict):
        problems.append(Problem(loc, "dict_type" if origin is dict else "model_type", value))
        return value
    return _mapping(parts[1], value, loc, problems) if origin is dict else _object(kind, value, loc, problems)


def _mapping(kind: Any, given: dict[Any, Any], loc: Loc, problems: list[Problem]) -> dict[str, Any]:
    found = {}
    for key, value in given.items():
        if not isinstance(key, str):
            problems.append(Problem((*loc, key, "[key]"), "string_type", key))
        found[key] = _value(kind, value, (*loc, key), problems)
    return found


def _object(
    model: type[StrictModel], given: dict[Any, Any], loc: Loc, problems: list[Problem]
) -> StrictModel:
    values: dict[str, Any] = {}
    told: set[str] = set()
    known = fields(model)
    for one in known:
        value = given.get(one.alias)
        if one.alias in given:
            told.add(one.name)
            if value is not None or not one.optional:
                value = _value(one.kind, value, (*loc, one.alias), problems)
        elif not one.optional:
            problems.append(Problem((*loc, one.alias), "missing", given))
        values[one.name] = value
    if len(told) < len(given):
        names = {one.alias for one in known}
        for key, value in given.items():
            if key not in names:
                kind = "extra_forbidden" if isinstance(key, str) else "invalid_key"
                problems.append(Problem((*loc, key), kind, value if isinstance(key, str) else key))
    return _made(model, values, frozenset(told))


def _made(model: type[Made], values: Mapping[str, Any], given: frozenset[str]) -> Made:
    made = object.__new__(model)
    vars(made).update(values, _given=given)
    return made


def _plain(value: Any) -> Any:
    """A value without objects of ours, and with containers of its own."""
    if isinstance(value, StrictModel):
        return value.to_dict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
