"""What a URL path names: `/apis/apps/v1/namespaces/default/statefulsets/web/status` in parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from sandbox.api.errors import method_not_allowed, no_such_path

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Kinds, Resource


@dataclass(frozen=True)
class Address:
    """`namespace` None means all namespaces (or cluster scope); `name` None means the collection."""

    info: Resource
    namespace: str | None
    name: str | None
    subresource: str | None = None
    rest: str = ""  # what follows `proxy`

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace or "" if self.info.namespaced else "", self.name or ""


def parse(kinds: Kinds, raw_path: str) -> Address:
    """The address of a resource path; raises ApiError (404) for what is not served.

    `raw_path` is still percent-encoded, so that names keep their slashes.
    """
    parts = raw_path.strip("/").split("/")
    if parts[0] == "api":
        group, rest = "", parts[1:]
    else:
        group, rest = parts[1] if len(parts) > 1 else "", parts[2:]
    if not rest:
        raise no_such_path()
    version, rest = rest[0], [unquote(part) for part in rest[1:]]
    namespace = None
    if len(rest) >= 3 and rest[0] == "namespaces" and kinds.find(group, version, rest[2]):
        namespace, rest = rest[1], rest[2:]
    if not rest:
        raise no_such_path()
    return _resource_address(kinds, group, version, namespace, rest)


def _resource_address(
    kinds: Kinds, group: str, version: str, namespace: str | None, rest: list[str]
) -> Address:
    info = kinds.find(group, version, rest[0])
    if info is None or (namespace is not None and not info.namespaced):
        raise no_such_path()
    name = rest[1] if len(rest) > 1 and rest[1] else None
    subresource = rest[2] if len(rest) > 2 else None
    if subresource is not None and subresource not in info.subresources:
        raise no_such_path()
    if name is not None and info.namespaced and namespace is None:
        raise no_such_path()
    return Address(info, namespace, name, subresource, "/".join(rest[3:]))


def need_namespace(address: Address) -> None:
    """Objects of namespaced kinds are only made inside a namespace."""
    if address.info.namespaced and address.namespace is None:
        raise method_not_allowed()
