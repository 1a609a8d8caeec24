"""Admission plug-ins: what may refuse a new object that is valid in itself, in the words of a real API server.

Server-side dry run passes through them too, so that it gives the answer that a real create would get.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.api.writes.admission import limit_ranger, pod_security, resource_quota

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource
    from sandbox.api.writes.options import WriteOptions
    from sandbox.api.writes.store import Store

Json = dict[str, Any]


def mutate(store: Store, info: Resource, obj: Json) -> None:
    """Fill in what the namespace's policies add to a new object, in place."""
    if info.key == "pods":
        limit_ranger.default_resources(store.storage, obj)


def validate(store: Store, info: Resource, obj: Json, options: WriteOptions) -> None:
    """Refuse a new object that its namespace's policies forbid; raises ApiError (403)."""
    if not info.namespaced:
        return
    limit_ranger.check(store.storage, info, obj)
    options.warnings.extend(pod_security.check(store.storage, info, obj))
    resource_quota.check(store.storage, info, obj)
