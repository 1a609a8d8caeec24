"""OpenAPI v2 and v3: what `kubectl apply`, `explain` and `--validate` read.

The documents hold the served kinds only, made from the definitions of Kubernetes 1.36 and the schemas of custom
resources; they are made when first asked for and kept until the served kinds change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from sandbox.api.errors import ApiError, no_such_path
from sandbox.api.http.discovery import VERSION
from sandbox.api.kinds.types import LIST_META, OBJECT_META, definitions
from sandbox.api.meta import copied_object

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Kinds, Resource

Json = dict[str, Any]

_V3_REF, _V2_REF = "#/components/schemas/", "#/definitions/"
_OUR_REF = "#/$defs/"
_PROTOBUF = "application/com.github.proto-openapi.spec.v2"
_PATCH_MEDIA = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
_DELETE_OPTIONS = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"


class OpenApi:
    """Answers everything below /openapi/."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._made_at = -1
        self._documents: dict[str, bytes] = {}

    def answer(self, request: web.Request) -> web.StreamResponse:
        if self._made_at != self._kinds.changes:
            self._documents, self._made_at = {}, self._kinds.changes
        path = request.path.strip("/").removeprefix("openapi/")
        accept = request.headers.get("Accept", "")
        if "protobuf" in accept and "json" not in accept and "*/*" not in accept:
            message = "only the following media types are accepted: application/json"
            raise ApiError(406, "NotAcceptable", message)
        body = self._documents.get(path)
        if body is None:
            body = self._documents[path] = json.dumps(self._document(path), separators=(",", ":")).encode()
        etag = f'"{hashlib.sha256(body).hexdigest().upper()}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        headers = {"ETag": etag, "Vary": "Accept", "Cache-Control": "no-cache, private"}
        return web.Response(body=body, content_type="application/json", headers=headers)

    def _document(self, path: str) -> Json:
        if path == "v2":
            return self._v2()
        if path == "v3":
            return self._index()
        parts = path.split("/")
        if parts[:2] == ["v3", "api"] and len(parts) == 3:
            return self._v3("", parts[2])
        if parts[:2] == ["v3", "apis"] and len(parts) == 4:
            return self._v3(parts[2], parts[3])
        raise no_such_path()

    def _index(self) -> Json:
        paths = {}
        for group, versions in self._kinds.groups().items():
            for version in versions:
                name = f"apis/{group}/{version}" if group else f"api/{version}"
                digest = hashlib.sha256(f"{name}@{self._kinds.changes}".encode()).hexdigest().upper()
                paths[name] = {"serverRelativeURL": f"/openapi/v3/{name}?hash={digest}"}
        return {"paths": paths}

    def _v3(self, group: str, version: str) -> Json:
        kinds = self._kinds.of(group, version)
        if not kinds:
            raise no_such_path()
        schemas = _schemas(kinds, _V3_REF)
        return {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": VERSION},
            "paths": _paths(kinds),
            "components": {"schemas": schemas},
        }

    def _v2(self) -> Json:
        kinds = list(self._kinds)
        return {
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": VERSION},
            "paths": {},
            "definitions": _schemas(kinds, _V2_REF),
        }


# schemas


def definition_name(info: Resource) -> str:
    """io.k8s.api.core.v1.Pod, or for custom ones the group backwards: sh.kaito.v1beta1.Workspace."""
    if info.definition:
        return info.definition
    return ".".join([*reversed(info.group.split(".")), info.version, info.kind])


def _schemas(kinds: Iterable[Resource], prefix: str) -> dict[str, Json]:
    result: dict[str, Json] = {}
    wanted = [OBJECT_META, LIST_META, _DELETE_OPTIONS]
    for info in kinds:
        if info.custom is None:
            wanted += [info.definition, f"{info.definition}List"]
        else:
            result |= _custom_schemas(info, prefix)
    while wanted:
        name = wanted.pop()
        if name in result or name not in definitions():
            continue
        result[name] = _converted(definitions()[name], prefix, wanted)
    return result


def _converted(schema: Json, prefix: str, wanted: list[str]) -> Json:
    """A definition with its references moved and JSON Schema's nullable types made plain; notes what it refers to."""
    converted: Json = {}
    for key, item in schema.items():
        if key == "$ref":
            name = item.removeprefix(_OUR_REF)
            wanted.append(name)
            if prefix == _V3_REF and len(schema) > 1:
                converted["allOf"] = [{"$ref": prefix + name}]
            else:
                converted["$ref"] = prefix + name
        elif key == "properties":
            converted[key] = {name: _converted(inner, prefix, wanted) for name, inner in item.items()}
        elif key in ("items", "additionalProperties") and isinstance(item, dict):
            converted[key] = _converted(item, prefix, wanted)
        elif key == "type" and isinstance(item, list):
            converted["type"] = item[0]
        elif key == "oneOf":
            converted |= (
                {"type": "string"}
                if prefix == _V2_REF
                else {key: [_converted(i, prefix, wanted) for i in item]}
            )
        else:
            converted[key] = item
    return converted


def _type_meta() -> Json:
    return {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}


def _custom_schemas(info: Resource, prefix: str) -> dict[str, Json]:
    schema = copied_object(info.custom.schema)
    meta = (
        {"allOf": [{"$ref": prefix + OBJECT_META}]} if prefix == _V3_REF else {"$ref": prefix + OBJECT_META}
    )
    schema["properties"] = {**_type_meta(), **(schema.get("properties") or {}), "metadata": meta}
    schema["x-kubernetes-group-version-kind"] = [_gvk(info)]
    name = definition_name(info)
    listed = {
        "type": "object",
        "required": ["items"],
        "properties": {
            **_type_meta(),
            "items": {"type": "array", "items": {"$ref": prefix + name}},
            "metadata": {"$ref": prefix + LIST_META},
        },
        "x-kubernetes-group-version-kind": [{**_gvk(info), "kind": info.list_name}],
    }
    return {name: schema, f"{name}List": listed}


def _gvk(info: Resource) -> Json:
    return {"group": info.group, "kind": info.kind, "version": info.version}


# paths


def _query(name: str, type_: str = "string") -> Json:
    return {"in": "query", "name": name, "schema": {"type": type_, "uniqueItems": True}}


_WRITE = [_query("dryRun"), _query("fieldManager"), _query("fieldValidation")]


def _paths(kinds: Iterable[Resource]) -> Json:
    """Enough of the paths for clients to learn what each kind takes."""
    paths: Json = {}
    for info in kinds:
        base = f"/apis/{info.group}/{info.version}" if info.group else f"/api/{info.version}"
        if info.namespaced:
            base += "/namespaces/{namespace}"
        paths[f"{base}/{info.plural}"] = _collection(info)
        if "get" in info.verbs:
            paths[f"{base}/{info.plural}/{{name}}"] = _item(info)
        for name in info.subresources:
            if name in ("status", "scale"):
                paths[f"{base}/{info.plural}/{{name}}/{name}"] = _item(info)
    return paths


def _operation(info: Resource, action: str, parameters: list[Json], media: Iterable[str] = ()) -> Json:
    schema = {"$ref": _V3_REF + definition_name(info)}
    operation: Json = {
        "operationId": f"{action}{info.group.title().replace('.', '')}{info.version.title()}{info.kind}",
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(info),
    }
    if media:
        operation["requestBody"] = {"required": True, "content": {name: {"schema": schema} for name in media}}
    return operation


def _collection(info: Resource) -> Json:
    result: Json = {}
    if "list" in info.verbs:
        result["get"] = _operation(info, "list", [_query("labelSelector"), _query("fieldSelector")])
    result["post"] = _operation(info, "post", _WRITE, ["application/json", "application/yaml"])
    return result


def _item(info: Resource) -> Json:
    patches = [m for m in _PATCH_MEDIA if info.custom is None or "strategic" not in m]
    return {
        "get": _operation(info, "get", []),
        "put": _operation(info, "put", _WRITE, ["application/json", "application/yaml"]),
        "patch": _operation(info, "patch", [*_WRITE, _query("force", "boolean")], patches),
        "delete": _operation(info, "delete", [_query("dryRun"), _query("propagationPolicy")]),
    }
