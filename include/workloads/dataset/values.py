"""What a single value of a row says: text, a number as it was written, a list in JSON text, or nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any


class Literal(float):
    """A number of a JSON file with its own digits: 1.10 is not 1.1 where it is an answer."""

    text: str

    def __new__(cls, text: str) -> Literal:
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __reduce__(self) -> tuple[type[Literal], tuple[str]]:
        return Literal, (self.text,)


class Twice(dict[str, Any]):
    """A JSON object in which a name stands twice, so that one of its values is lost."""


class Other:
    """A value that is neither text, number, list nor object, such as a date or bytes."""


def as_text(value: object) -> str | None:
    """Text or a number as text, else None. True and false are no words."""
    if isinstance(value, str):
        return value
    if isinstance(value, Literal):
        return value.text
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    return str(value) if math.isfinite(value) else None


def is_empty(value: object) -> bool:
    """Whether a value says nothing: null, blank text, or a list or object of such."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    return isinstance(value, list) and all(map(is_empty, value))


def has_twice(value: object) -> bool:
    """Whether an object in here has a name twice."""
    if isinstance(value, Mapping):
        return isinstance(value, Twice) or any(map(has_twice, value.values()))
    return isinstance(value, list) and any(map(has_twice, value))


def as_list(value: object) -> object:
    """A list that came as JSON text, which is the only way that CSV has; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return load(value)
        except (ValueError, RecursionError):
            return value
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    return made if len(made) == len(pairs) else Twice(made)


def _integer(text: str) -> int | Literal:
    # Python refuses to read integers of more than 4300 digits; -0 would lose its sign.
    return int(text) if len(text) < 4000 and text != "-0" else Literal(text)


decoder = json.JSONDecoder(parse_float=Literal, parse_int=_integer, object_pairs_hook=_pairs)


def load(text: str) -> Any:
    """JSON text as values of this module."""
    return decoder.decode(text)
