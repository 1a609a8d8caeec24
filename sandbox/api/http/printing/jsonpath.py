"""The part of kubectl's JSONPath that printer columns and selectable fields use.

`.status.conditions[?(@.type=="Ready")].status`, `.spec['a.b']`, `.items[0]`, `[*]`, and dots behind a backslash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

Step = Callable[[Any], Iterator[Any]]

_FIELD = re.compile(r"\.((?:\\.|[^.\[\\])+)")
_BRACKET = re.compile(
    r"\[(?:\?\((?P<filter>.*?)\)|'(?P<quoted>[^']*)'|\"(?P<double>[^\"]*)\"|(?P<index>-?\d+)|(?P<all>\*))\]"
)
_FILTER = re.compile(r"^@(?P<path>[^=!<>]*?)\s*(?P<op>==|!=|>=|<=|>|<)\s*(?P<value>.+)$")


def found(path: str, value: object) -> list[Any]:
    """All values that a path leads to; none when something on the way is missing or the path is not understood."""
    values = [value]
    for step in _steps(path):
        values = [result for one in values for result in step(one)]
    return values


@lru_cache(maxsize=512)
def _steps(path: str) -> tuple[Step, ...]:
    text = path.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    if text and text[0] not in ".[":
        text = f".{text}"
    steps: list[Step] = []
    position = 0
    while position < len(text):
        if match := _FIELD.match(text, position):
            steps.append(_key(re.sub(r"\\(.)", r"\1", match[1])))
        elif match := _BRACKET.match(text, position):
            steps.append(_bracket(match))
        elif text[position] == "." and position + 1 < len(text) and text[position + 1] == "[":
            position += 1
            continue
        else:
            return (_nothing,)
        position = match.end()
    return tuple(steps)


def _nothing(_value: object) -> Iterator[Any]:
    return iter(())


def _key(name: str) -> Step:
    def step(value: object) -> Iterator[Any]:
        if name == "*":
            yield from value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        elif isinstance(value, dict) and name in value:
            yield value[name]

    return step


def _bracket(match: re.Match[str]) -> Step:
    if match["filter"] is not None:
        return _filter(match["filter"])
    if match["index"] is not None:
        return _index(int(match["index"]))
    if match["all"]:
        return _key("*")
    return _key(match["quoted"] if match["quoted"] is not None else match["double"])


def _index(position: int) -> Step:
    def step(value: object) -> Iterator[Any]:
        if isinstance(value, list) and -len(value) <= position < len(value):
            yield value[position]

    return step


def _literal(text: str) -> Any:
    text = text.strip()
    if text[:1] in "\"'" and text[-1:] == text[:1]:
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
}


def _filter(text: str) -> Step:
    match = _FILTER.match(text.strip())
    if not match:
        path = text.strip().removeprefix("@")
        return lambda value: (
            (item for item in value if found(path, item)) if isinstance(value, list) else iter(())
        )
    path, compare, wanted = match["path"], _COMPARISONS[match["op"]], _literal(match["value"])

    def fits(item: object) -> bool:
        try:
            return any(compare(one, wanted) for one in found(path, item))
        except TypeError:
            return False

    return lambda value: (item for item in value if fits(item)) if isinstance(value, list) else iter(())
