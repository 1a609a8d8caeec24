"""What follows from a deletion: dependents, the contents of namespaces and definitions, protected volumes.

A real cluster does this in controllers, a moment later; so does this collector, in its own turn of the event loop, so
that clients see the same intermediate states. It works off a queue and is idle when nothing is deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sandbox.api.crd.definitions import KEY as _CRDS
from sandbox.api.errors import ApiError
from sandbox.api.meta import (
    CRD_CLEANUP,
    FOREGROUND,
    ORPHAN,
    PV_PROTECTION,
    PVC_PROTECTION,
    copied_object,
    dig,
    metadata,
)

if TYPE_CHECKING:
    from sandbox.api.storage.database import Key
    from sandbox.api.writes.store import Store

Json = dict[str, Any]
Place = tuple[str, "Key"]

log = logging.getLogger(__name__)

_FINISHED = {"Succeeded", "Failed"}


class GarbageCollector:
    """Fed by every write of the cluster; works in slices so that requests are answered in between."""

    def __init__(self, store: Store, namespace_seconds: float = 0.0) -> None:
        """:param namespace_seconds: how long a deleted namespace stays at least, refusing new content meanwhile."""
        self._store = store
        self._namespace_seconds = namespace_seconds
        self._namespaces_stay: dict[str, float] = {}  # uid of a deleted namespace -> loop time until when
        self._queue: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._scheduled = False

    def start(self) -> None:
        """Look at everything once: what was half done when the process died goes on."""
        for resource in self._store.storage.resources():
            for key, entry in self._store.storage.entries(resource):
                self.written(resource, key, entry.obj, None)

    def written(self, resource: str, key: Key, obj: Json, old: Json | None) -> None:
        meta = obj["metadata"]
        owners = meta.get("ownerReferences")
        if owners and (old is None or old["metadata"].get("ownerReferences") != owners):
            self._later(self._check_dependent, (resource, key))
        if resource == "pods" and dig(obj, "status", "phase") in _FINISHED:
            self._later(self._release_claims, key[0])
        if not meta.get("deletionTimestamp"):
            return
        finalizers = meta.get("finalizers") or ()
        if FOREGROUND in finalizers:
            self._later(self._delete_dependents_first, (resource, key))
        if ORPHAN in finalizers:
            self._later(self._orphan_dependents, (resource, key))
        if resource == "namespaces":
            self._later(self._empty_namespace, key[1])
        elif resource == _CRDS:
            self._later(self._empty_definition, key)
        elif resource in ("persistentvolumeclaims", "persistentvolumes"):
            self._later(self._release_volume, (resource, key))

    def removed(self, resource: str, key: Key, obj: Json) -> None:
        uid = obj["metadata"].get("uid", "")
        for place in self._store.storage.dependents(uid):
            self._later(self._check_dependent, place)
        for owner in obj["metadata"].get("ownerReferences") or ():
            if result := self._store.storage.by_uid(owner["uid"]):
                self._later(self._delete_dependents_first, result)
        if key[0]:
            self._later(self._finish_namespace, key[0])
        info = self._store.kinds.stored(resource)
        if info is not None and info.custom is not None:
            self._later(self._finish_definition, ("", resource))
        if resource == "pods":
            self._later(self._release_claims, key[0])

    # the queue

    def _later(self, work: Callable[..., None], *arguments: Any) -> None:
        self._queue.append((work, arguments))
        if not self._scheduled:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return  # before the loop runs; `start` or the next write picks it up
            self._scheduled = True
            loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        for _ in range(min(len(self._queue), 50)):
            work, arguments = self._queue.popleft()
            try:
                work(*arguments)
            except ApiError as error:
                log.warning("garbage collection of %s: %s", arguments, error)
        if self._queue and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    # owners and dependents

    def _get(self, place: Place) -> Json | None:
        entry = self._store.storage.get(*place)
        return entry.obj if entry else None

    def _delete(self, place: Place, policy: str) -> None:
        obj, info = self._get(place), self._store.kinds.stored(place[0])
        if obj is not None and info is not None:
            options = {"propagationPolicy": policy, "preconditions": {"uid": obj["metadata"]["uid"]}}
            self._store.delete_now(info, place[1], options)

    def _edit(self, place: Place, change: Callable[[Json], None]) -> None:
        obj, info = self._get(place), self._store.kinds.stored(place[0])
        if obj is None or info is None:
            return
        new = copied_object(obj)
        change(new)
        if new != obj:
            self._store.put_or_finish(info, place[1], new)

    def _drop_finalizer(self, place: Place, finalizer: str) -> None:
        def change(obj: Json) -> None:
            meta = metadata(obj)
            meta["finalizers"] = [name for name in meta.get("finalizers") or () if name != finalizer]
            if not meta["finalizers"]:
                del meta["finalizers"]

        self._edit(place, change)

    def _is_waiting(self, obj: Json) -> bool:
        meta = obj["metadata"]
        return bool(meta.get("deletionTimestamp")) and FOREGROUND in (meta.get("finalizers") or ())

    def _owner(self, reference: Json, namespace: str) -> Json | None:
        place = self._store.storage.by_uid(reference["uid"])
        if place is None or place[1][0] not in ("", namespace):
            return None
        return self._get(place)

    def _check_dependent(self, place: Place) -> None:
        """Delete an object whose owners are all gone; forget the owners that are."""
        obj = self._get(place)
        references = dig(obj, "metadata", "ownerReferences") or []
        if obj is None or not references or obj["metadata"].get("deletionTimestamp"):
            return
        solid: list[Json] = []
        waiting: list[Json] = []
        for reference in references:
            owner = self._owner(reference, place[1][0])
            if owner is not None:
                (waiting if self._is_waiting(owner) else solid).append(reference)
        if solid:
            if len(solid) < len(references):
                self._edit(place, lambda new: metadata(new).update(ownerReferences=solid))
            return
        if any(not self._is_known(reference) for reference in references):
            return
        has_dependents = bool(self._store.storage.dependents(obj["metadata"]["uid"]))
        self._delete(place, "Foreground" if waiting and has_dependents else self._own_policy(obj))

    def _is_known(self, reference: Json) -> bool:
        group, _, version = str(reference.get("apiVersion", "")).rpartition("/")
        return self._store.kinds.by_kind(group, version, str(reference.get("kind"))) is not None

    @staticmethod
    def _own_policy(obj: Json) -> str:
        finalizers = obj["metadata"].get("finalizers") or ()
        if ORPHAN in finalizers:
            return "Orphan"
        return "Foreground" if FOREGROUND in finalizers else "Background"

    def _delete_dependents_first(self, place: Place) -> None:
        owner = self._get(place)
        if owner is None or not self._is_waiting(owner):
            return
        uid, blocked = owner["metadata"]["uid"], False
        for dependent in self._store.storage.dependents(uid):
            obj = self._get(dependent)
            if obj is None:
                continue
            references = obj["metadata"].get("ownerReferences") or ()
            blocked |= any(r["uid"] == uid and r.get("blockOwnerDeletion") for r in references)
            if not obj["metadata"].get("deletionTimestamp"):
                self._later(self._check_dependent, dependent)
        if not blocked:
            self._drop_finalizer(place, FOREGROUND)

    def _orphan_dependents(self, place: Place) -> None:
        owner = self._get(place)
        if owner is None or ORPHAN not in (owner["metadata"].get("finalizers") or ()):
            return
        uid = owner["metadata"]["uid"]

        def change(obj: Json) -> None:
            kept = [r for r in metadata(obj).get("ownerReferences") or () if r["uid"] != uid]
            metadata(obj)["ownerReferences"] = kept
            if not kept:
                del metadata(obj)["ownerReferences"]

        for dependent in self._store.storage.dependents(uid):
            self._edit(dependent, change)
        self._drop_finalizer(place, ORPHAN)

    # namespaces

    def _contents(self, namespace: str) -> list[Place]:
        storage = self._store.storage
        return [
            (resource, key)
            for resource in storage.resources()
            for key, _ in storage.entries(resource, namespace)
        ]

    def _empty_namespace(self, name: str) -> None:
        for place in self._contents(name):
            obj = self._get(place)
            if obj is not None and not obj["metadata"].get("deletionTimestamp"):
                self._delete(place, "Background")
        namespace = self._get(("namespaces", ("", name)))
        if namespace is not None and self._namespace_seconds:
            loop, uid = asyncio.get_running_loop(), namespace["metadata"]["uid"]
            if uid not in self._namespaces_stay:
                self._namespaces_stay[uid] = loop.time() + self._namespace_seconds
                loop.call_later(self._namespace_seconds, self._later, self._finish_namespace, name)
        self._finish_namespace(name)

    def _finish_namespace(self, name: str) -> None:
        place = ("namespaces", ("", name))
        obj = self._get(place)
        if obj is None or not obj["metadata"].get("deletionTimestamp") or self._contents(name):
            return
        if asyncio.get_running_loop().time() < self._namespaces_stay.get(obj["metadata"]["uid"], 0.0):
            return
        self._namespaces_stay.pop(obj["metadata"]["uid"], None)
        self._edit(place, lambda new: new.setdefault("spec", {}).update(finalizers=[]))

    # custom resource definitions

    def _empty_definition(self, key: Key) -> None:
        for custom_key, entry in list(self._store.storage.entries(key[1])):
            if not entry.obj["metadata"].get("deletionTimestamp"):
                self._delete((key[1], custom_key), "Background")
        self._finish_definition(key)

    def _finish_definition(self, key: Key) -> None:
        obj = self._get((_CRDS, key))
        if obj is None or not obj["metadata"].get("deletionTimestamp"):
            return
        if next(self._store.storage.entries(key[1]), None) is None:
            self._drop_finalizer((_CRDS, key), CRD_CLEANUP)

    # volumes in use

    def _release_claims(self, namespace: str) -> None:
        for key, entry in list(self._store.storage.entries("persistentvolumeclaims", namespace)):
            if entry.obj["metadata"].get("deletionTimestamp"):
                self._release_volume(("persistentvolumeclaims", key))

    def _release_volume(self, place: Place) -> None:
        """Drop the protection of a claim that no running pod uses, or of a volume that no claim is bound to."""
        obj = self._get(place)
        if obj is None or not obj["metadata"].get("deletionTimestamp"):
            return
        if place[0] == "persistentvolumeclaims":
            if not self._claim_in_use(place[1]):
                self._drop_finalizer(place, PVC_PROTECTION)
        elif dig(obj, "status", "phase") != "Bound":
            self._drop_finalizer(place, PV_PROTECTION)

    def _claim_in_use(self, key: Key) -> bool:
        for _, entry in self._store.storage.entries("pods", key[0]):
            if dig(entry.obj, "status", "phase") in _FINISHED or not dig(entry.obj, "spec", "nodeName"):
                continue
            volumes = dig(entry.obj, "spec", "volumes") or ()
            if any(dig(v, "persistentVolumeClaim", "claimName") == key[1] for v in volumes):
                return True
        return False
