"""Sets of fields, as metadata.managedFields keeps them: paths of `f:name`, `k:{"name":"x"}` and `v:"x"`.

Follows sigs.k8s.io/structured-merge-diff: which maps and lists are one atom, and which are many fields, is up to the
types.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sandbox.api.kinds.types import ANY, Type

Json = dict[str, Any]
Path = tuple[str, ...]

_KEY_DEFAULTS = {"protocol": "TCP"}  # the one list key in the built-in types that may be left out


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def is_leaf(type_: Type, value: object) -> bool:
    """Owned as a whole."""
    if isinstance(value, dict):
        return type_ is not ANY and type_.is_atomic and not type_.preserves_unknown
    if isinstance(value, list):
        return type_.kind != "list" or type_.is_atomic
    return True


def element_of(type_: Type, item: object) -> str:
    """The path element of a list item."""
    if type_.list_type == "map" and isinstance(item, dict):
        keys = {key: item.get(key, _KEY_DEFAULTS.get(key)) for key in type_.map_keys}
        return "k:" + _compact({key: value for key, value in keys.items() if value is not None})
    return "v:" + _compact(item)


def children(type_: Type, value: Any) -> Iterator[tuple[str, Type, Any]]:
    """The fields or items directly below a value that is no leaf."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield f"f:{name}", type_.field(name), item
    else:
        for item in value:
            yield element_of(type_, item), type_.element, item


def fields_of(type_: Type, value: object, path: Path = ()) -> Iterator[Path]:
    """Every field that a configuration speaks of (ToFieldSet)."""
    if is_leaf(type_, value):
        yield path
        return
    for element, inner, item in children(type_, value):
        below = (*path, element)
        yield from fields_of(inner, item, below)
        declared = type_.kind == "struct" and element[2:] in type_.fields
        if item is None or item == {} or isinstance(value, list) or not declared:
            yield below


@dataclass
class Comparison:
    added: set[Path] = field(default_factory=set)
    modified: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)

    def changed(self) -> set[Path]:
        return self.added | self.modified


_ABSENT = object()


def compared(type_: Type, old: object, new: object) -> Comparison:
    """What changed from one object to another; containers that come or go count themselves."""
    result = Comparison()
    _compare(type_, old, new, (), result)
    return result


def _compare(type_: Type, old: object, new: object, path: Path, result: Comparison) -> None:
    if old is new or (old is not _ABSENT and new is not _ABSENT and old == new):
        return
    present = [value for value in (old, new) if value is not _ABSENT]
    leaf = any(is_leaf(type_, value) for value in present) or not any(present)
    if leaf:
        if old is _ABSENT:
            result.added.add(path)
        elif new is _ABSENT:
            result.removed.add(path)
        elif old != new:
            result.modified.add(path)
        return
    before = {} if old is _ABSENT else _by_element(type_, old)
    after = {} if new is _ABSENT else _by_element(type_, new)
    for element in before.keys() | after.keys():
        inner = (before.get(element) or after[element])[0]
        was = before[element][1] if element in before else _ABSENT
        now = after[element][1] if element in after else _ABSENT
        _compare(inner, was, now, (*path, element), result)
    if path and old is _ABSENT:
        result.added.add(path)
    if path and new is _ABSENT:
        result.removed.add(path)


def _by_element(type_: Type, value: object) -> dict[str, tuple[Type, Any]]:
    return {element: (inner, item) for element, inner, item in children(type_, value)}


# fieldsV1


def encoded(paths: Iterable[Path]) -> Json:
    """As in managedFields: a tree in which `.` marks members that have members below."""
    root: Json = {}
    members = set(paths)
    for path in sorted(members):
        node = root
        for element in path:
            node = node.setdefault(element, {})
    return _marked(root, (), members)


def _marked(node: Json, path: Path, members: set[Path]) -> Json:
    result = {element: _marked(inner, (*path, element), members) for element, inner in node.items()}
    if result and path in members:
        return {".": {}, **result}
    return result


def decoded(tree: Json, path: Path = ()) -> set[Path]:
    if not tree:
        return {path} if path else set()
    result: set[Path] = set()
    for element, inner in tree.items():
        if element == ".":
            result.add(path)
        else:
            result |= decoded(inner, (*path, element))
    return result


def shown(path: Path) -> str:
    """`.spec.containers[name="c"].image`, as conflicts name it."""
    text = ""
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            text += f".{rest}"
        elif kind == "k":
            text += "[" + ",".join(f"{k}={_compact(v)}" for k, v in sorted(json.loads(rest).items())) + "]"
        else:
            text += f"[={rest}]" if kind == "v" else f"[{rest}]"
    return text
