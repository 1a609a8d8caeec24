"""core/v1 Events as the recorder of client-go writes them: repeated ones are counted, old ones forgotten."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sandbox.api.meta import copied_object, now, parsed_time, reference, timestamp

if TYPE_CHECKING:
    from sandbox.api.writes.store import Store

Json = dict[str, Any]

_LIFETIME = timedelta(hours=1)  # --event-ttl of a real API server
_SWEEP_AT = 500
_KNOWN_LIMIT = 5_000
_MESSAGE_LIMIT = 1024


def record(store: Store, regarding: Json, type_: str, reason: str, message: str, component: str) -> Json:
    """Write an event or count one more of it; returns the event."""
    involved = reference(regarding)
    namespace = involved.get("namespace") or "default"
    message = message[:_MESSAGE_LIMIT]
    about = (involved.get("uid"), involved.get("name"), involved.get("kind"))
    identity = (namespace, *about, type_, reason, message, component)
    if len(store.known_events) > _KNOWN_LIMIT:
        store.known_events.clear()
    # Named by the moment, as client-go does: kubectl shows events of one second in the order of their names.
    fresh = f"{involved.get('name', 'unknown')}.{time.time_ns():x}"
    name = store.known_events.setdefault(identity, fresh)
    info = store.kinds.named("events")
    result = store.storage.get("events", (namespace, name))
    if result is not None:
        event = copied_object(result.obj)
        event["count"] = event.get("count", 1) + 1
        event["lastTimestamp"] = timestamp()
        return store.put(info, (namespace, name), event)
    _sweep(store)
    return store.create_now(
        info,
        {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": involved,
            "type": type_,
            "reason": reason,
            "message": message,
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": "",
            "firstTimestamp": timestamp(),
            "lastTimestamp": timestamp(),
            "eventTime": None,
            "count": 1,
        },
        namespace,
    )


def _sweep(store: Store) -> None:
    entries = list(store.storage.entries("events"))
    if len(entries) < _SWEEP_AT or len(entries) % 50:
        return
    info, oldest = store.kinds.named("events"), now() - _LIFETIME
    for key, entry in entries:
        seen = entry.obj.get("lastTimestamp") or entry.obj["metadata"]["creationTimestamp"]
        if parsed_time(seen) < oldest:
            store.drop(info, key)
