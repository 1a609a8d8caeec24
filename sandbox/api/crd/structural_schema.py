"""Structural schemas of custom resources: defaults and validation, in the words of kube-openapi.

Unknown fields are pruned by `decoding`; rules in CEL are in `cel_rules`.
"""

from __future__ import annotations

import base64
import re
from datetime import datetime
from functools import lru_cache
from typing import Any

from sandbox.api.errors import (
    DUPLICATE,
    INVALID,
    REQUIRED,
    TOO_LONG,
    TOO_MANY,
    UNSUPPORTED,
    FieldError,
)
from sandbox.api.meta import copied

Json = dict[str, Any]
Faults = list[FieldError]


def apply_defaults(schema: Json, value: object) -> None:
    """Fill in defaults below `value`, in place; a null that is not allowed counts as absent."""
    if isinstance(value, dict):
        for name, inner in (schema.get("properties") or {}).items():
            if "default" in inner and (
                name not in value or (value[name] is None and not inner.get("nullable"))
            ):
                value[name] = copied(inner["default"])
            if name in value:
                apply_defaults(inner, value[name])
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict):
            for name, item in value.items():
                if name not in (schema.get("properties") or {}):
                    apply_defaults(extra, item)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            apply_defaults(schema["items"], item)


def drop_nulls(schema: Json, value: object) -> None:
    """Drop nulls below `value`, in place, whose fields are neither nullable nor defaulted (prunenulls.go)."""
    if isinstance(value, dict):
        properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
        for name in list(value):
            inner = properties.get(name, extra)
            if not isinstance(inner, dict):
                continue
            if value[name] is None and not inner.get("nullable") and "default" not in inner:
                del value[name]
            else:
                drop_nulls(inner, value[name])
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            drop_nulls(schema["items"], item)


def faults(schema: Json, value: object, path: str = "") -> Faults:
    """Everything in which a value departs from its schema."""
    if value is None and schema.get("nullable"):
        return []
    wrong_type = _type_fault(schema, value, path)
    if wrong_type is not None:
        return [wrong_type]
    result = _enum_faults(schema, value, path)
    if isinstance(value, str):
        result += _string_faults(schema, value, path)
    elif isinstance(value, bool):
        pass
    elif isinstance(value, (int, float)):
        result += _number_faults(schema, value, path)
    elif isinstance(value, list):
        result += _list_faults(schema, value, path)
    elif isinstance(value, dict):
        result += _object_faults(schema, value, path)
    return result + _combined_faults(schema, value, path)


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def _named(value: object) -> str:
    for name, types in _TYPES.items():
        if name in ("integer", "number") and isinstance(value, bool):
            continue
        if isinstance(value, types):
            return name
    return "null"


def _type_fault(schema: Json, value: object, path: str) -> FieldError | None:
    if schema.get("x-kubernetes-int-or-string"):
        wanted, fits = "integer,string", isinstance(value, (int, str)) and not isinstance(value, bool)
    else:
        wanted = schema.get("type", "")
        if not wanted:
            return None
        fits = isinstance(value, _TYPES[wanted]) and not (isinstance(value, bool) and wanted != "boolean")
        fits = fits or (wanted == "integer" and isinstance(value, float) and value.is_integer())
    if fits:
        return None
    given = _named(value)
    return FieldError(
        path or "<nil>", INVALID, given, f'{_in_body(path)} must be of type {wanted}: "{given}"'
    )


def _in_body(path: str) -> str:
    return f"{path} in body" if path else "in body"


def _enum_faults(schema: Json, value: object, path: str) -> Faults:
    allowed = schema.get("enum")
    if allowed is None or value in allowed:
        return []
    listed = ", ".join(f'"{item}"' if isinstance(item, str) else str(item) for item in allowed)
    return [FieldError(path or "<nil>", UNSUPPORTED, value, f"supported values: {listed}")]


def _string_faults(schema: Json, value: str, path: str) -> Faults:
    result = []
    limit = schema.get("maxLength")
    if limit is not None and len(value) > limit:
        result.append(FieldError(path, TOO_LONG, value, f"may not be more than {limit} bytes"))
    if len(value) < schema.get("minLength", 0):
        detail = f"{_in_body(path)} should be at least {schema['minLength']} chars long"
        result.append(FieldError(path, INVALID, value, detail))
    if (pattern := schema.get("pattern")) and not _pattern(pattern).search(value):
        result.append(FieldError(path, INVALID, value, f"{_in_body(path)} should match '{pattern}'"))
    if (name := schema.get("format")) and not _fits_format(name, value):
        result.append(FieldError(path, INVALID, value, f'{_in_body(path)} must be of type {name}: "{value}"'))
    return result


@lru_cache(maxsize=512)
def _pattern(text: str) -> re.Pattern[str]:
    """An RE2 pattern as Python's, where `$` must not match before a final newline."""
    return re.compile(re.sub(r"(?<!\\)\$$", r"\\Z", text).replace(r"\z", r"\Z"))


def _fits_format(name: str, value: str) -> bool:
    try:
        if name == "date-time":
            return datetime.fromisoformat(value.replace("Z", "+00:00")).tzinfo is not None
        if name == "date":
            return bool(re.fullmatch(r"\d{4}-\d{2}-\d{2}", value)) and bool(datetime.fromisoformat(value))
        if name == "byte":
            return bool(base64.b64decode(value, validate=True)) or not value
        if name == "uuid":
            return bool(re.fullmatch(r"(?i)[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", value))
        if name == "uri":
            return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", value))
        if name == "duration":
            return bool(re.fullmatch(r"[+-]?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h|d|w))+|0", value))
    except ValueError:
        return False
    return True


def _number_faults(schema: Json, value: float, path: str) -> Faults:
    result = []
    low, high, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        relation = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        result.append(FieldError(path, INVALID, value, f"{_in_body(path)} should be {relation} {low}"))
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        relation = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        result.append(FieldError(path, INVALID, value, f"{_in_body(path)} should be {relation} {high}"))
    if step and value % step:
        result.append(FieldError(path, INVALID, value, f"{_in_body(path)} should be a multiple of {step}"))
    return result


def _list_faults(schema: Json, value: list[Any], path: str) -> Faults:
    result: Faults = []
    limit = schema.get("maxItems")
    if limit is not None and len(value) > limit:
        result.append(FieldError(path, TOO_MANY, len(value), f"must have at most {limit} items"))
    if len(value) < schema.get("minItems", 0):
        detail = f"{_in_body(path)} should have at least {schema['minItems']} items"
        result.append(FieldError(path, INVALID, len(value), detail))
    items = schema.get("items")
    if isinstance(items, dict):
        for index, item in enumerate(value):
            result += faults(items, item, f"{path}[{index}]")
    return result + _duplicates(schema, value, path)


def _duplicates(schema: Json, value: list[Any], path: str) -> Faults:
    """Sets hold each value once, maps each key once."""
    list_type, result, seen = schema.get("x-kubernetes-list-type"), [], []
    if list_type not in ("set", "map"):
        return []
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    for index, item in enumerate(value):
        identity = {k: item.get(k) for k in keys} if list_type == "map" and isinstance(item, dict) else item
        if identity in seen:
            result.append(FieldError(f"{path}[{index}]", DUPLICATE, identity))
        seen.append(identity)
    return result


def _object_faults(schema: Json, value: Json, path: str) -> Faults:
    result: Faults = []
    for name in schema.get("required") or ():
        if name not in value:
            result.append(FieldError(f"{path}.{name}" if path else name, REQUIRED, ""))
    count, limit = len(value), schema.get("maxProperties")
    if limit is not None and count > limit:
        result.append(FieldError(path, TOO_MANY, count, f"must have at most {limit} items"))
    if count < schema.get("minProperties", 0):
        detail = f"{_in_body(path)} should have at least {schema['minProperties']} properties"
        result.append(FieldError(path, INVALID, count, detail))
    properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
    for name, item in value.items():
        inner = properties.get(name, extra)
        if isinstance(inner, dict) and not (path == "" and name == "metadata"):
            result += faults(inner, item, f"{path}.{name}" if path else name)
    return result


def _combined_faults(schema: Json, value: object, path: str) -> Faults:
    result: Faults = []
    for part in schema.get("allOf") or ():
        result += faults(part, value, path)
    title = f'"{path}"'

    def fault(detail: str) -> FieldError:
        return FieldError(
            path or "<nil>", INVALID, value if not isinstance(value, (dict, list)) else "", detail
        )

    if options := schema.get("anyOf"):
        tried = [faults(option, value, path) for option in options]
        if all(tried):
            result += [fault(f"{title} must validate at least one schema (anyOf)"), *tried[0]]
    if options := schema.get("oneOf"):
        fitting = sum(not faults(option, value, path) for option in options)
        if fitting != 1:
            count = "none valid" if fitting == 0 else f"{fitting} valid alternatives"
            result.append(fault(f"{title} must validate one and only one schema (oneOf). Found {count}"))
    if "not" in schema and not faults(schema["not"], value, path):
        result.append(fault(f"{title} must not validate the schema (not)"))
    return result
