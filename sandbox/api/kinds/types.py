"""The types of objects: which fields exist, how lists merge, what is one atom.

Built-in kinds come from the OpenAPI definitions of Kubernetes 1.36 (package `kubernetes-validate`), custom ones from
their structural schema. Pruning, strategic merge and server-side apply all read this one description.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, cached_property, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource

Json = dict[str, Any]

KUBERNETES = "v1.36"
_FILE = f"kubernetes-json-schema/{KUBERNETES}.0-local/_definitions.json"
_REF = "#/$defs/"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
LIST_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"

_META = "io.k8s.apimachinery.pkg."
_SCALARS = {
    f"{_META}api.resource.Quantity": "quantity",
    f"{_META}util.intstr.IntOrString": "intorstring",
    f"{_META}apis.meta.v1.Time": "time",
    f"{_META}apis.meta.v1.MicroTime": "time",
    f"{_META}apis.meta.v1.Duration": "string",
}
_CRD = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
_ANYTHING = {
    f"{_META}apis.meta.v1.FieldsV1",
    f"{_META}runtime.RawExtension",
    *(f"{_CRD}{name}" for name in ("JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool")),
    f"{_CRD}JSONSchemaPropsOrStringArray",
}


@lru_cache(maxsize=1)
def definitions() -> dict[str, Json]:
    """All OpenAPI definitions by name; read at the first use (about 40 ms)."""
    text = (resources.files("kubernetes_validate") / _FILE).read_text(encoding="utf-8")
    return cast("dict[str, Json]", json.loads(text)["$defs"])


class Type:
    """One node of a schema. `kind` is struct, map, list, scalar or any."""

    def __init__(self, schema: Json, name: str = "", resolve: Callable[[Json], Type] | None = None) -> None:
        self.schema = schema
        self.name = name  # of the definition, for messages
        self._resolve = resolve or Type

    @cached_property
    def plain_type(self) -> str:
        result = self.schema.get("type", "")
        return result[0] if isinstance(result, list) else str(result)

    @cached_property
    def kind(self) -> str:
        if self.name in _ANYTHING:
            return "any"
        if self.scalar:
            return "scalar"
        if self.plain_type == "array":
            return "list"
        if self.schema.get("additionalProperties") not in (None, False):
            return "map"
        if "properties" in self.schema or (self.plain_type == "object" and not self.name):
            return "struct"
        return "any"

    @cached_property
    def scalar(self) -> str:
        """string, integer, number, boolean, quantity, intorstring, time, or \"\"."""
        if self.name in _SCALARS:
            return _SCALARS[self.name]
        if self.schema.get("x-kubernetes-int-or-string"):
            return "intorstring"
        return self.plain_type if self.plain_type in ("string", "integer", "number", "boolean") else ""

    @cached_property
    def fields(self) -> dict[str, Type]:
        result = {
            name: self._resolve(schema) for name, schema in (self.schema.get("properties") or {}).items()
        }
        if self.schema.get("x-kubernetes-embedded-resource"):
            result = {**_type_meta(), **result, "metadata": built_in(OBJECT_META)}
        return result

    @cached_property
    def element(self) -> Type:
        """Of a list's items or a map's values."""
        inner = self.schema.get("items") if self.kind == "list" else self.schema.get("additionalProperties")
        return self._resolve(inner) if isinstance(inner, dict) else ANY

    @property
    def preserves_unknown(self) -> bool:
        return bool(self.schema.get("x-kubernetes-preserve-unknown-fields"))

    @cached_property
    def list_type(self) -> str:
        """atomic, set or map."""
        return str(self.schema.get("x-kubernetes-list-type") or "atomic")

    @cached_property
    def map_keys(self) -> tuple[str, ...]:
        return tuple(self.schema.get("x-kubernetes-list-map-keys") or ())

    @cached_property
    def is_atomic(self) -> bool:
        """Owned and replaced as a whole by server-side apply."""
        if self.kind == "list":
            return self.list_type == "atomic"
        return self.schema.get("x-kubernetes-map-type") == "atomic" or self.kind in ("scalar", "any")

    @cached_property
    def merge_key(self) -> str:
        return str(self.schema.get("x-kubernetes-patch-merge-key") or "")

    @cached_property
    def patch_strategies(self) -> tuple[str, ...]:
        return tuple(str(self.schema.get("x-kubernetes-patch-strategy") or "").split(","))

    def field(self, name: str) -> Type:
        """The type under a key; ANY when it has no schema."""
        if self.kind == "struct":
            return self.fields.get(name, ANY)
        return self.element if self.kind == "map" else ANY


ANY = Type({})
_STRING = Type({"type": "string"})


def _type_meta() -> dict[str, Type]:
    return {"apiVersion": _STRING, "kind": _STRING}


def _resolve_built_in(schema: Json) -> Type:
    """A property, with what its reference says; marks on the property win."""
    reference = schema.get("$ref", "")
    if not reference:
        return Type(schema, resolve=_resolve_built_in)
    marks = {key: value for key, value in schema.items() if key.startswith("x-kubernetes-")}
    name = reference.removeprefix(_REF)
    return _marked(name, marks) if marks else built_in(name)


def _marked(name: str, marks: Json) -> Type:
    return Type({**definitions()[name], **marks}, name, _resolve_built_in)


@cache
def built_in(definition: str) -> Type:
    return Type(definitions()[definition], definition, _resolve_built_in)


def structural(schema: Json) -> Type:
    """The type of a custom resource from its openAPIV3Schema; TypeMeta and ObjectMeta are always there."""
    root = Type(schema)
    if root.kind == "any":
        root = Type({**schema, "type": "object"})
    root.fields = {**_type_meta(), **root.fields, **_type_meta(), "metadata": built_in(OBJECT_META)}
    return root


def type_of(info: Resource) -> Type:
    """The type of a served version; every object has at least ObjectMeta."""
    if info.custom is not None:
        return info.custom.type  # type: ignore[no-any-return]
    return built_in(info.definition)
