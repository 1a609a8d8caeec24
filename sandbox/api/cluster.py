"""The cluster in process: every rule of the API, without HTTP.

Controllers, the node agent and the HTTP server all go through `Cluster`, so that nobody can write what a real API
server would refuse. Everything runs on one event loop, and no method gives up control half way through a write.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from sandbox.api.errors import ApiError, conflict, not_found
from sandbox.api.kinds.builtin import BUILTINS
from sandbox.api.kinds.resources import Kinds, Resource
from sandbox.api.meta import copied_object
from sandbox.api.storage.database import Key, Storage
from sandbox.api.storage.selectors import (
    Predicate,
    both,
    field_predicate,
    label_predicate,
)
from sandbox.api.storage.site import ClusterSite
from sandbox.api.storage.watch import Watch
from sandbox.api.writes import (
    apply,
    bootstrap,
    decoding,
    deletion,
    events,
    eviction,
    pipeline,
    subresources,
)
from sandbox.api.writes.garbage_collector import GarbageCollector
from sandbox.api.writes.lifecycle import Lifecycle
from sandbox.api.writes.options import WriteOptions
from sandbox.api.writes.patch import APPLY_PATCHES, MERGE_PATCH, patched
from sandbox.api.writes.pipeline import (
    changed_object,
    from_storage,
    new_object,
    to_storage,
)
from sandbox.api.writes.store import Store

__all__ = ["ApiError", "Cluster", "WriteOptions"]

Json = dict[str, Any]

_POD_ACTIONS: dict[str, Callable[[Store, Key, Json], Json]] = {
    "pods/binding": subresources.bind,
    "pods/eviction": eviction.evict,
}


class Cluster:
    """`resource` is `pods`, `statefulsets.apps`, `workspaces.kaito.sh` (plural[.group]) or a `Resource`."""

    def __init__(self, state_dir: Path | None, namespace_seconds: float = 0.0) -> None:
        """Open or make `state_dir`/cluster.db; None keeps everything in memory.

        :param namespace_seconds: how long a deleted namespace stays at least, as it does on a real cluster.
        """
        self.storage = Storage(state_dir / "cluster.db" if state_dir else None)
        self.state_dir = state_dir
        self.site = ClusterSite(self.storage, zlib.crc32(str(state_dir).encode()) if state_dir else 0)
        self.kinds = Kinds(BUILTINS)
        self.root_certificate = ""  # PEM, once a server publishes one
        self.known_events: dict[
            tuple[str | None, ...], str
        ] = {}  # what an event says -> its name, to count it
        self.garbage_collector = GarbageCollector(self, namespace_seconds)
        self.lifecycle = Lifecycle(self)
        self.lifecycle.restore()
        bootstrap.fill(self)
        self.garbage_collector.start()

    def close(self) -> None:
        self.storage.close()

    # reading

    def resource(self, resource: str | Resource) -> Resource:
        return resource if isinstance(resource, Resource) else self.kinds.named(resource)

    @staticmethod
    def key(info: Resource, name: str, namespace: str | None) -> Key:
        return (namespace or "default") if info.namespaced else "", name

    async def get(self, resource: str | Resource, name: str, namespace: str | None = None) -> Json:
        info = self.resource(resource)
        return copied_object(from_storage(info, self.stored(info, self.key(info, name, namespace))))

    def stored(self, info: Resource, key: Key) -> Json:
        entry = self.storage.get(info.key, key)
        if entry is None:
            raise not_found(info.plural, info.group, key[1])
        return entry.obj

    async def list(
        self,
        resource: str | Resource,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> tuple[list[Json], str]:
        """The matching objects (private copies) and the version to watch from."""
        info = self.resource(resource)
        matches = self.predicate(info, label_selector, field_selector)
        result = [
            from_storage(info, entry.copy())
            for _, entry in self.storage.entries(info.key, namespace)
            if matches is None or matches(entry.obj)
        ]
        return result, str(self.storage.revision)

    @staticmethod
    def predicate(info: Resource, label_selector: str, field_selector: str) -> Predicate | None:
        fields = field_predicate(field_selector, info.key, info.selectable) if field_selector else None
        return both(label_predicate(label_selector), fields)

    async def watch(
        self, resource: str | Resource, namespace: str | None = None, since: str | None = None
    ) -> AsyncIterator[tuple[str, Json]]:
        """Events after the version `since`; without one, the present objects come first as ADDED.

        Raises ApiError (410) when `since` is too old: list again and watch from there.
        """
        info = self.resource(resource)
        async for kind, entry in Watch(self.storage, info.key, namespace, since):
            yield kind, from_storage(info, entry.copy())

    # writing

    async def create(
        self,
        resource: str | Resource,
        obj: Json,
        namespace: str | None = None,
        options: WriteOptions | None = None,
    ) -> Json:
        if isinstance(resource, str) and resource in _POD_ACTIONS:
            meta = obj.get("metadata") or {}
            return _POD_ACTIONS[resource](
                self, (namespace or meta.get("namespace") or "default", meta["name"]), obj
            )
        info = self.resource(resource)
        return copied_object(from_storage(info, self.create_now(info, obj, namespace, options)))

    async def update(
        self,
        resource: str | Resource,
        obj: Json,
        subresource: str | None = None,
        options: WriteOptions | None = None,
    ) -> Json:
        """Replace an object; refused with 409 when `metadata.resourceVersion` is set and no longer current."""
        info = self.resource(resource)
        meta = obj.get("metadata") or {}
        key = self.key(info, meta.get("name", ""), meta.get("namespace"))
        return copied_object(self.change_now(info, key, lambda _: obj, subresource, options))

    async def patch(
        self,
        resource: str | Resource,
        name: str,
        patch: object,
        namespace: str | None = None,
        subresource: str | None = None,
        content_type: str = MERGE_PATCH,
        field_manager: str = "sandbox",
        force: bool = False,
        options: WriteOptions | None = None,
    ) -> Json:
        """Change an object by a patch of any of the four types; server-side apply creates what is missing."""
        info = self.resource(resource)
        options = options or WriteOptions(manager=field_manager, force=force)
        key = self.key(info, name, namespace)
        if content_type in APPLY_PATCHES:
            return copied_object(self.apply_now(info, key, patch, subresource, options))
        change = self.change_now(
            info, key, lambda current: patched(info, current, patch, content_type), subresource, options
        )
        return copied_object(change)

    async def delete(
        self, resource: str | Resource, name: str, namespace: str | None = None, options: Json | None = None
    ) -> Json:
        """Delete by DeleteOptions; returns the object while it lingers, else a Status."""
        info = self.resource(resource)
        return copied_object(self.delete_now(info, self.key(info, name, namespace), options or {}))

    async def event(self, regarding: Json, type_: str, reason: str, message: str, component: str) -> None:
        """Record an event about an object; a repeated one is counted. Nothing is raised when its namespace is gone."""
        try:
            events.record(self, regarding, type_, reason, message, component)
        except ApiError as error:
            if error.code not in (403, 404):
                raise

    # the same without a turn of the loop, and with stored objects that must not be changed

    def create_now(
        self, info: Resource, obj: Json, namespace: str | None = None, options: WriteOptions | None = None
    ) -> Json:
        options = options or WriteOptions()
        new = new_object(self, info, obj, namespace, options)
        meta = new["metadata"]
        key = (meta.get("namespace", "") if info.namespaced else "", meta["name"])
        self.lifecycle.check_create(info, key)
        if options.dry_run:
            return new
        return self.put(info, key, new)

    def change_now(
        self,
        info: Resource,
        key: Key,
        change: Callable[[Json], Json],
        subresource: str | None = None,
        options: WriteOptions | None = None,
    ) -> Json:
        """Store what `change` makes of the present object (in `info`'s version); returns it in that version."""
        options = options or WriteOptions()
        stored = self.stored(info, key)
        current = from_storage(info, stored)
        new = changed_object(info, current, change(copied_object(current)), subresource, options)
        if new is current or options.dry_run:
            return new
        return from_storage(info, self.put_or_finish(info, key, to_storage(info, new)))

    def apply_now(
        self, info: Resource, key: Key, patch: object, subresource: str | None, options: WriteOptions
    ) -> Json:
        """Server-side apply; creates the object when there is none."""
        config = apply.check_configuration(info, patch, key[1])
        result = self.storage.get(info.key, key)
        live = from_storage(info, result.obj) if result else None
        if live is None and subresource is not None:
            raise not_found(info.plural, info.group, key[1])
        pipeline.check_kind(info, config)
        pipeline.place(info, config, key[0] or None)
        decoding.decode(info, config, options)
        new, shares = apply.applied(info, live, config, options.manager, subresource, options.force)
        if live is None:
            created = new_object(self, info, new, key[0] or None, options, shares)
            if options.dry_run:
                return created
            return from_storage(info, self.put(info, key, created))
        changed = changed_object(info, live, new, subresource, options, shares)
        if changed is live or options.dry_run:
            return changed
        return from_storage(info, self.put_or_finish(info, key, to_storage(info, changed)))

    def delete_now(self, info: Resource, key: Key, options: Json, dry_run: bool = False) -> Json:
        return deletion.delete(self, info, key, deletion.check_options(options), dry_run)

    def put_or_finish(self, info: Resource, key: Key, new: Json) -> Json:
        """Store an object, or drop it when this write took the last thing its deletion waited for."""
        if deletion.is_finished(info, new):
            self.drop(info, key)
            return new
        return self.put(info, key, new)

    def put(self, info: Resource, key: Key, new: Json) -> Json:
        """Write without checks, and tell those who follow up. Keeps `new`."""
        old = self.storage.get(info.key, key)
        self.lifecycle.before_store(info, new)
        obj = self.storage.put(info.key, key, _ordered(new)).obj
        self.lifecycle.stored(info, key, obj, old.obj if old else None)
        self.garbage_collector.written(info.key, key, obj, old.obj if old else None)
        return obj

    def drop(self, info: Resource, key: Key) -> Json:
        """Remove for good, and tell those who follow up."""
        if self.storage.get(info.key, key) is None:
            raise conflict(info.plural, info.group, key[1], "the object has been deleted")
        obj = self.storage.remove(info.key, key).obj
        self.lifecycle.dropped(info, key, obj)
        self.garbage_collector.removed(info.key, key, obj)
        return obj


def _ordered(obj: Json) -> Json:
    """Kind, version and metadata first, as the real server writes them."""
    head = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], "metadata": obj["metadata"]}
    return head | {name: obj[name] for name in obj if name not in head}
