"""ConfigMaps and Secrets: keys, sizes, base64, and the immutable ones."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from sandbox.api.errors import FORBIDDEN, INVALID, REQUIRED, TOO_LONG, FieldError

Json = dict[str, Any]
Faults = list[FieldError]

_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_KEY_RULE = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  "
    "or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
_EMPTY_JSON = "unexpected end of JSON input"
_LIMIT = 1024 * 1024
_REQUIRED_KEYS = {
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}


def _keys(data: Json, path: str) -> Faults:
    return [FieldError(f"{path}[{key}]", INVALID, key, _KEY_RULE) for key in data if not _KEY.fullmatch(key)]


def secret_faults(obj: Json) -> Faults:
    """The values are known to be base64: the decoder refuses anything else."""
    data = obj.get("data") or {}
    contents = {key: base64.b64decode(value or "") for key, value in data.items()}
    faults = _keys(data, "data")
    if sum(len(raw) for raw in contents.values()) > _LIMIT:
        faults.append(FieldError("data", TOO_LONG, "", f"may not be more than {_LIMIT} bytes"))
    kind = obj.get("type", "")
    for key in _REQUIRED_KEYS.get(kind, ()):
        if key not in data:
            faults.append(FieldError(f"data[{key}]", REQUIRED, ""))
        elif kind in ("kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg") and not _is_json(
            contents[key]
        ):
            first = contents[key][:1].decode(errors="replace")
            why = f"invalid character '{first}' looking for beginning of value" if first else _EMPTY_JSON
            faults.append(FieldError(f"data[{key}]", INVALID, "<secret contents redacted>", why))
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & set(data):
        faults.append(FieldError("data[username]", REQUIRED, ""))
        faults.append(FieldError("data[password]", REQUIRED, ""))
    return faults


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except ValueError:
        return False
    return True


def secret_update_faults(new: Json, old: Json) -> Faults:
    faults: Faults = []
    if new.get("type") != old.get("type"):
        faults.append(FieldError("type", INVALID, new.get("type"), "field is immutable"))
    return faults + _immutable(new, old, ("data",))


def config_map_faults(obj: Json) -> Faults:
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    faults = _keys(data, "data") + _keys(binary, "binaryData")
    for key in sorted(set(data) & set(binary)):
        faults.append(FieldError(f"data[{key}]", INVALID, key, "duplicate of key present in binaryData"))
    size = sum(len((value or "").encode()) for value in data.values())
    size += sum(len(base64.b64decode(value or "")) for value in binary.values())
    if size > _LIMIT:
        faults.append(FieldError("", TOO_LONG, "", f"may not be more than {_LIMIT} bytes"))
    return faults


def config_map_update_faults(new: Json, old: Json) -> Faults:
    return _immutable(new, old, ("data", "binaryData"))


def _immutable(new: Json, old: Json, parts: tuple[str, ...]) -> Faults:
    if not old.get("immutable"):
        return []
    why = "field is immutable when `immutable` is set"
    faults = [FieldError(part, FORBIDDEN, None, why) for part in parts if new.get(part) != old.get(part)]
    if not new.get("immutable"):
        faults.append(FieldError("immutable", FORBIDDEN, None, why))
    return faults
