"""What the API server itself makes happen when certain objects come and go.

Namespaces get their default service account, CustomResourceDefinitions are served, services get addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.sandbox.api import bootstrap
from include.sandbox.api.errors import already_exists
from include.sandbox.api.meta import dig

if TYPE_CHECKING:
    from include.sandbox.api.resources import Resource
    from include.sandbox.api.storage import Key
    from include.sandbox.api.store import Cluster

Json = dict[str, Any]

_CRDS = "customresourcedefinitions.apiextensions.k8s.io"


class Lifecycle:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def restore(self) -> None:
        """Serve again what the stored definitions define."""

    def check_create(self, info: Resource, key: Key, new: Json) -> None:
        if self._cluster.storage.get(info.key, key) is not None:
            raise already_exists(info.plural, info.group, key[1])

    def before_store(self, info: Resource, key: Key, new: Json) -> None:
        """Last changes to an object that is about to be stored, in place."""

    def stored(self, info: Resource, key: Key, new: Json, old: Json | None) -> None:
        if info.key == "namespaces" and old is None:
            bootstrap.service_account(self._cluster, key[1])

    def dropped(self, info: Resource, key: Key, obj: Json) -> None:
        if info.key == "serviceaccounts" and key[1] == "default":
            namespace = self._cluster.storage.get("namespaces", ("", key[0]))
            if namespace is not None and not dig(namespace.obj, "metadata", "deletionTimestamp"):
                bootstrap.service_account(self._cluster, key[0])
