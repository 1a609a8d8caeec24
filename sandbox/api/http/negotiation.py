"""What form a client wants its answer in, and what form its own body has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from sandbox.api.errors import ApiError, bad_request
from sandbox.api.http import protobuf

if TYPE_CHECKING:
    from aiohttp import web

Json = dict[str, Any]

_JSON, _YAML, _ANY = "application/json", "application/yaml", ("*/*", "application/*")
_TYPES = "application/json, application/yaml, application/apply-patch+yaml"
_MEDIA_RULE = "only the following media types are accepted: application/json, application/yaml"


_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Form:
    """`shape` is \"\" for the object itself, or Table, PartialObjectMetadata, PartialObjectMetadataList."""

    shape: str = ""
    yaml: bool = False
    pretty: bool = False


def wanted_form(request: web.Request) -> Form:
    """The first acceptable form of the Accept header; raises ApiError (406) when there is none."""
    header = request.headers.get("Accept", "*/*")
    pretty = flag(request.query, "pretty")
    for clause in header.split(","):
        media, *parameters = (part.strip() for part in clause.split(";"))
        options = dict(part.split("=", 1) for part in parameters if "=" in part)
        shape = options.get("as", "")
        if shape and (options.get("g") != "meta.k8s.io" or options.get("v") not in ("v1", "v1beta1")):
            continue
        if media == _JSON or media in _ANY:
            return Form(shape, pretty=pretty)
        if media == _YAML:
            return Form(shape, yaml=True)
    raise ApiError(406, "NotAcceptable", _MEDIA_RULE)


def encoded(value: object, form: Form) -> tuple[bytes, str]:
    """Bytes and content type."""
    if form.yaml:
        return yaml.safe_dump(value, sort_keys=True).encode(), _YAML
    indent = 2 if form.pretty else None
    separators = None if form.pretty else (",", ":")
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators).encode(), _JSON


def flag(query: Mapping[str, str], name: str) -> bool:
    """A switch in a query, as the real server reads it: present and neither false nor 0."""
    return query.get(name, "false").lower() not in ("false", "0")


async def body_of(request: web.Request) -> Any:
    """The decoded body; None when it is empty. Raises ApiError (400, 415)."""
    raw = await request.read()
    if not raw.strip():
        return None
    return decoded(raw, request.content_type)


def decoded(raw: bytes, media: str) -> Any:
    if media == protobuf.MEDIA_TYPE:
        return protobuf.decode(raw)
    if media == "application/cbor":
        message = f"the body of the request was in an unknown format - accepted media types include: {_TYPES}"
        raise ApiError(415, "UnsupportedMediaType", message)
    try:
        return _yaml(raw) if "yaml" in media else json.loads(raw)
    except (ValueError, yaml.YAMLError) as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from error


def _yaml(raw: bytes) -> Any:
    """Every client library applies JSON, which is YAML too, and which is read thirty times faster."""
    if raw.lstrip().startswith(b"{"):
        with suppress(ValueError):
            return json.loads(raw)
    return _plain(yaml.load(raw, Loader=_Loader))  # noqa: S506 - a safe loader


def _plain(value: Any) -> Any:
    """YAML's dates as the text they were."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return value.isoformat().replace("+00:00", "Z")
