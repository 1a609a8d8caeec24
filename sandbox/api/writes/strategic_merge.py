"""Strategic merge patches: lists merge by key, and `$` directives say the rest.

Follows k8s.io/apimachinery/pkg/util/strategicpatch; which lists merge and by what key comes from the OpenAPI types.
"""

from __future__ import annotations

from typing import Any

from sandbox.api.errors import bad_request
from sandbox.api.kinds.types import Type
from sandbox.api.meta import copied

Json = dict[str, Any]

_DIRECTIVE, _RETAIN = "$patch", "$retainKeys"
_ORDER, _DELETE_VALUES = "$setElementOrder/", "$deleteFromPrimitiveList/"


def merged(type_: Type, current: Json, patch: Json) -> Json:
    """The object after the patch; the current one is not changed."""
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {k: _cleaned(v) for k, v in patch.items() if v is not None and not k.startswith("$")}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"Unknown patch type: {directive}")
    result = dict(current)
    if _RETAIN in patch:
        result = {k: v for k, v in result.items() if k in patch[_RETAIN]}
    for name, value in patch.items():
        if name in (_DIRECTIVE, _RETAIN):
            continue
        if name.startswith((_ORDER, _DELETE_VALUES)):
            field = name.partition("/")[2]
            if field not in patch and isinstance(result.get(field), list):
                result[field] = _merged_list(type_.field(field), result[field], [], patch, field)
        elif value is None:
            result.pop(name, None)
        else:
            result[name] = _merged_value(type_.field(name), result.get(name), value, patch, name)
    return result


def _merged_value(type_: Type, current: object, value: object, patch: Json, name: str) -> Any:
    if isinstance(value, dict) and isinstance(current, dict) and "replace" not in type_.patch_strategies:
        return merged(type_, current, value)
    if isinstance(value, list) and isinstance(current, list) and "merge" in type_.patch_strategies:
        return _merged_list(type_, current, value, patch, name)
    if isinstance(value, dict):
        return merged(type_, {}, value)
    return _cleaned(value)


def _cleaned(value: object) -> Any:
    """New content without nulls and directives."""
    if isinstance(value, dict):
        return {k: _cleaned(v) for k, v in value.items() if v is not None and not k.startswith("$")}
    if isinstance(value, list):
        kept = [
            item
            for item in value
            if not (isinstance(item, dict) and item.get(_DIRECTIVE) in ("delete", "replace"))
        ]
        return [_cleaned(item) for item in kept]
    return value


def _merged_list(type_: Type, current: list[Any], value: list[Any], patch: Json, name: str) -> list[Any]:
    order, deleted = patch.get(_ORDER + name), patch.get(_DELETE_VALUES + name) or []
    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in value):
        return _cleaned(value)  # type: ignore[no-any-return]
    if all(isinstance(item, dict) for item in [*current, *value]) and (current or value):
        key = type_.merge_key
        if not key:
            raise bad_request(f"the list {name} cannot be merged: it has no merge key")
        result = _merged_maps(type_, current, value, key)
        return _ordered(result, order, current, key) if order is not None else result
    result = [item for item in current if item not in deleted]
    result += [item for item in value if item not in result]
    return _ordered(result, order, current, "") if order is not None else result


def _merged_maps(type_: Type, current: list[Json], value: list[Json], key: str) -> list[Any]:
    result = [copied(item) for item in current]
    for item in value:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        place = next((i for i, one in enumerate(result) if one.get(key) == item[key]), None)
        if item.get(_DIRECTIVE) == "delete":
            result = [one for one in result if one.get(key) != item[key]]
        elif place is None:
            result.append(merged(type_.element, {}, item))
        else:
            result[place] = merged(type_.element, result[place], item)
    return result


def _ordered(items: list[Any], order: list[Any], server: list[Any], key: str) -> list[Any]:
    """Items in the patch's order; those it does not name keep their place among the server's."""

    def identity(item: object) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    wanted, known = [identity(item) for item in order], [identity(item) for item in server]
    named = sorted((i for i in items if identity(i) in wanted), key=lambda i: wanted.index(identity(i)))
    others = [i for i in items if identity(i) not in wanted]
    return interleaved(others, named, known, identity)


def interleaved(others: list[Any], named: list[Any], known: list[Any], identity: Any) -> list[Any]:
    """Merge two sorted lists: one of `others` goes first only where the server has both and has it first."""
    result: list[Any] = []
    left, right = list(others), list(named)
    while left and right:
        mine, theirs = identity(left[0]), identity(right[0])
        first = mine in known and theirs in known and known.index(mine) < known.index(theirs)
        result.append(left.pop(0) if first else right.pop(0))
    return result + left + right
