"""core/v1 Events as the recorder of client-go writes them: repeated ones are counted, old ones forgotten."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sandbox.api.meta import copied_object, parsed_time, reference, timestamp
from sandbox.api.writing import now

if TYPE_CHECKING:
    from sandbox.api.store import Cluster

Json = dict[str, Any]

_LIFETIME = timedelta(hours=1)  # --event-ttl of a real API server
_SWEEP_AT = 500
_KNOWN_LIMIT = 5_000
_MESSAGE_LIMIT = 1024


def record(cluster: Cluster, regarding: Json, type_: str, reason: str, message: str, component: str) -> Json:
    """Write an event or count one more of it; returns the event."""
    involved = reference(regarding)
    namespace = involved.get("namespace") or "default"
    message = message[:_MESSAGE_LIMIT]
    about = (involved.get("uid"), involved.get("name"), involved.get("kind"))
    identity = (namespace, *about, type_, reason, message, component)
    if len(cluster.known_events) > _KNOWN_LIMIT:
        cluster.known_events.clear()
    # Named by the moment, as client-go does: kubectl shows events of one second in the order of their names.
    fresh = f"{involved.get('name', 'unknown')}.{time.time_ns():x}"
    name = cluster.known_events.setdefault(identity, fresh)
    info = cluster.kinds.named("events")
    found = cluster.storage.get("events", (namespace, name))
    if found is not None:
        event = copied_object(found.obj)
        event["count"] = event.get("count", 1) + 1
        event["lastTimestamp"] = timestamp()
        return cluster.store(info, (namespace, name), event)
    _sweep(cluster)
    return cluster.create_now(
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


def _sweep(cluster: Cluster) -> None:
    entries = list(cluster.storage.entries("events"))
    if len(entries) < _SWEEP_AT or len(entries) % 50:
        return
    info, oldest = cluster.kinds.named("events"), now() - _LIFETIME
    for key, entry in entries:
        seen = entry.obj.get("lastTimestamp") or entry.obj["metadata"]["creationTimestamp"]
        if parsed_time(seen) < oldest:
            cluster.drop(info, key)
