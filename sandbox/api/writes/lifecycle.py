"""What the API server itself makes happen when certain objects come and go.

Namespaces get their default service account, CustomResourceDefinitions are served, services hold addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.api.crd import definitions
from sandbox.api.errors import already_exists
from sandbox.api.meta import dig
from sandbox.api.writes import bootstrap

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource
    from sandbox.api.storage.database import Key
    from sandbox.api.writes.store import Store

Json = dict[str, Any]


class Lifecycle:
    """Called by the cluster around every write."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def restore(self) -> None:
        """Serve again what the stored definitions define."""
        for _, entry in self._store.storage.entries(definitions.KEY):
            self._serve(entry.obj)

    def _serve(self, definition: Json) -> None:
        spec = definition["spec"]
        self._store.kinds.remove_group_resource(spec["group"], spec["names"]["plural"])
        for resource in definitions.served(definition):
            self._store.kinds.add(resource)

    def check_create(self, info: Resource, key: Key) -> None:
        if self._store.storage.get(info.key, key) is not None:
            raise already_exists(info.plural, info.group, key[1])

    def before_store(self, info: Resource, new: Json) -> None:
        """Last changes to an object that is about to be stored, in place."""
        if info.key == definitions.KEY:
            definitions.complete(new)

    def stored(self, info: Resource, key: Key, new: Json, old: Json | None) -> None:
        if info.key == definitions.KEY and (old is None or old["spec"] != new["spec"]):
            self._serve(new)
        elif info.key == "namespaces" and old is None:
            bootstrap.service_account(self._store, key[1])
            bootstrap.root_certificate(self._store, key[1])

    def dropped(self, info: Resource, key: Key, obj: Json) -> None:
        if info.key == definitions.KEY:
            self._store.kinds.remove_group_resource(obj["spec"]["group"], obj["spec"]["names"]["plural"])
        if info.key == "serviceaccounts" and key[1] == "default":
            namespace = self._store.storage.get("namespaces", ("", key[0]))
            if namespace is not None and not dig(namespace.obj, "metadata", "deletionTimestamp"):
                bootstrap.service_account(self._store, key[0])
