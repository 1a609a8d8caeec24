"""Bodies against the types of their kinds: unknown fields are dropped and reported, wrong types refused.

The words are those of the real decoder, because people search for them.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import INVALID, ApiError, FieldError, bad_request, invalid
from sandbox.api.kinds.types import OBJECT_META, Type, type_of
from sandbox.api.meta import copied
from sandbox.quantities import canonical

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource
    from sandbox.api.writes.options import WriteOptions

Json = dict[str, Any]

_GO_TYPES = {"integer": "int64", "boolean": "bool", "number": "float64", "time": "string"}


def decode(info: Resource, obj: Json, options: WriteOptions) -> None:
    """Drop what the kind does not know, in place; canonicalise quantities.

    Raises ApiError (400) for wrong types, and for unknown fields when the request asked for strictness.
    """
    given = copied(obj) if options.form == "patch" else obj
    walk = _Walk(info)
    try:
        walk.struct(type_of(info), obj, "", typed=info.custom is None)
    except _Undecodable as error:
        raise _refusal(info, given, options, str(error)) from error
    if not walk.unknown:
        return
    if options.form == "apply":
        undeclared = ", ".join(f".{path}: field not declared in schema" for path in walk.unknown)
        raise ApiError(500, "", f"failed to create typed patch object ({_titled(info, obj)}): {undeclared}")
    result = [f'unknown field "{path}"' for path in walk.unknown]
    if options.validation == "Strict":
        raise _refusal(info, given, options, f"strict decoding error: {', '.join(result)}")
    if options.validation == "Warn":
        options.warnings.extend(result)


class _Undecodable(Exception):
    """A wrong type, in the decoder's words."""


def _refusal(info: Resource, given: Json, options: WriteOptions, why: str) -> ApiError:
    """A body is refused as a bad request, the outcome of a patch as invalid."""
    if options.form != "patch":
        return bad_request(f"{_cannot(info)}: {why}")
    text = json.dumps(given, ensure_ascii=False, separators=(",", ":"))
    return invalid("", "", "", [FieldError("patch", INVALID, text, why)])


def _titled(info: Resource, obj: Json) -> str:
    meta = obj.get("metadata") or {}
    place = f"{meta['namespace']}/" if meta.get("namespace") else ""
    return f"{place}{meta.get('name', '')}; {info.group}/{info.version}, Kind={info.kind}"


def _cannot(info: Resource) -> str:
    return f'{info.kind} in version "{info.version}" cannot be handled as a {info.kind}'


@dataclass
class _Walk:
    info: Resource
    unknown: list[str] = field(default_factory=list)

    def struct(self, type_: Type, value: Json, path: str, typed: bool) -> None:
        for name in list(value):
            inner = f"{path}.{name}" if path else name
            known = type_.fields.get(name)
            if known is None:
                if not type_.preserves_unknown:
                    self.unknown.append(inner)
                    del value[name]
                continue
            if typed and value[name] is None:
                del value[name]
                continue
            is_meta = known.name == OBJECT_META
            self.check(known, value, name, inner, typed or is_meta, type_)

    def check(self, type_: Type, holder: Any, at: Any, path: str, typed: bool, parent: Type) -> None:
        """Check holder[at]; replaces it where a canonical form is due."""
        value = holder[at]
        kind = type_.kind
        if value is None or kind == "any":
            return
        if kind == "struct" and isinstance(value, dict):
            self.struct(type_, value, path, typed)
        elif kind == "map" and isinstance(value, dict):
            for key in list(value):
                self.check(type_.element, value, key, f"{path}.{key}", typed, parent)
        elif kind == "list" and isinstance(value, list):
            for index in range(len(value)):
                self.check(type_.element, value, index, f"{path}[{index}]", typed, parent)
        elif kind == "scalar":
            if typed:
                holder[at] = self.scalar(type_, value, path, parent)
        elif typed:
            self.refuse(value, path, type_, parent)

    def scalar(self, type_: Type, value: Any, path: str, parent: Type) -> Any:
        wanted = type_.scalar
        if wanted == "quantity" and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            try:
                return canonical(value)
            except ValueError as error:
                raise _Undecodable(str(error)) from error
        if wanted == "intorstring":
            fits = isinstance(value, (str, int)) and not isinstance(value, bool)
        elif wanted == "integer":
            if isinstance(value, float) and value.is_integer():
                return int(value)
            fits = isinstance(value, int) and not isinstance(value, bool)
        elif wanted == "number":
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        elif wanted == "boolean":
            fits = isinstance(value, bool)
        else:
            fits = isinstance(value, str)
            if fits and type_.schema.get("format") == "byte":
                self.base64(value)
        if not fits:
            self.refuse(value, path, type_, parent)
        return value

    def base64(self, text: str) -> None:
        try:
            base64.b64decode(text, validate=True)
        except ValueError as error:
            wrong = re.search(r"[^A-Za-z0-9+/=]", text)
            place = wrong.start() if wrong else len(text)
            raise _Undecodable(f"illegal base64 data at input byte {place}") from error

    def refuse(self, value: object, path: str, type_: Type, parent: Type) -> None:
        names = ((bool, "bool"), (str, "string"), ((int, float), "number"), (dict, "object"), (list, "array"))
        given = next(name for kind, name in names if isinstance(value, kind))
        bare = ".".join(part.split("[")[0] for part in path.split("."))
        struct = parent.name.rsplit(".", 1)[-1] or self.info.kind
        wanted = type_.name.rsplit(".", 1)[-1] or self._go_type(type_)
        raise _Undecodable(
            f"json: cannot unmarshal {given} into Go struct field {struct}.{bare} of type {wanted}"
        )

    def _go_type(self, type_: Type) -> str:
        if type_.kind == "list":
            return f"[]{type_.element.name.rsplit('.', 1)[-1] or self._go_type(type_.element)}"
        if type_.kind == "map":
            return f"map[string]{type_.element.name.rsplit('.', 1)[-1] or self._go_type(type_.element)}"
        if type_.scalar == "integer" and type_.schema.get("format") == "int32":
            return "int32"
        return _GO_TYPES.get(type_.scalar, type_.scalar or "object")
