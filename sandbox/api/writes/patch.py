"""Patches: JSON patch, merge patch and strategic merge patch, each from (current, patch) to a new object.

Server-side apply needs to know who owns what and lives in `apply`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonpatch

from sandbox.api.errors import ApiError, bad_request
from sandbox.api.kinds.types import type_of
from sandbox.api.meta import copied
from sandbox.api.writes.strategic_merge import merged

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource

Json = dict[str, Any]

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCHES = ("application/apply-patch+yaml", "application/apply-patch+cbor", "application/apply-patch")


def patched(info: Resource, current: Json, patch: object, content_type: str) -> Json:
    """The object after the patch; raises ApiError when the patch does not fit."""
    if content_type == JSON_PATCH:
        return _json_patched(current, patch)
    if not isinstance(patch, dict):
        raise bad_request(f"a {content_type} body must be an object")
    if content_type == MERGE_PATCH:
        result = merge(current, patch)
        return result if isinstance(result, dict) else {}
    if content_type == STRATEGIC_PATCH:
        return merged(type_of(info), current, patch)
    raise ApiError(415, "UnsupportedMediaType", f"the patch type {content_type} is not supported")


def merge(target: object, patch: object) -> Any:
    """RFC 7386, but that nulls go inside lists too, as in the real API server's library (json-patch's pruneNils)."""
    if isinstance(patch, list):
        return [_without_null_members(item) for item in patch]
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def _without_null_members(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _without_null_members(item) for key, item in value.items() if item is not None}
    return [_without_null_members(item) for item in value] if isinstance(value, list) else value


def _json_patched(current: Json, patch: object) -> Json:
    if not isinstance(patch, list):
        raise bad_request("a JSON patch body must be a list of operations")
    try:
        result = jsonpatch.JsonPatch(patch).apply(copied(current))
    except jsonpatch.InvalidJsonPatch as error:
        raise bad_request(f"error decoding patch: {error}") from error
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        message = f"the server rejected our request due to an error in our request: {error}"
        raise ApiError(422, "Invalid", message) from error
    if not isinstance(result, dict):
        raise bad_request("the patch leaves no object")
    return result
