"""Kubernetes Events about Workspaces, for `kubectl describe`: told once, counted when they come again.

As client-go aggregates: the same sentence about the same object is one Event whose count grows. The name of an Event
is a digest of what it says, so that no memory is needed to find it again. An Event that cannot be written is never an
error: the conditions say the same.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from include.workspace.api import names
from include.workspace.status.conditions import timestamp
from include.workspace.status.transitions import Event, transition_events
from kaito.hooks import api
from kaito.hooks.api import EVENT, WORKSPACE, ClusterError, Kind, Request
from kaito.hooks.cluster_calls import ClusterCalls, NextStatus

log = logging.getLogger(__name__)

COMPONENT = "kaito-airflow"
#: The API server refuses more.
MESSAGE_LENGTH = 1024
#: An Event that comes again within that time is counted; a later one says anew when it began.
SAME_SECONDS = 600.0

Object = Mapping[str, Any]


def manifest(obj: Object, event: Event, now: datetime, kind: Kind = WORKSPACE) -> dict[str, Any]:
    """Return the Event object; the same event about the same object has the same name.

    Events about objects without a namespace stand in the namespace `default`, as Kubernetes wants it.
    """
    metadata = obj["metadata"]
    # What happens may happen again and tell it in other words each time; what lasts is told under one key.
    sentence = event.once or f"{event.type} {event.reason} {event.message}"
    digest = hashlib.sha256(f"{metadata.get('uid')} {sentence}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{digest}",
            "namespace": names.namespace(obj),
        },
        "involvedObject": {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "name": metadata["name"],
            **({"namespace": names.namespace(obj)} if kind.namespaced else {}),
            "uid": metadata.get("uid"),
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:MESSAGE_LENGTH],
        "count": 1,
        "firstTimestamp": timestamp(now),
        "lastTimestamp": timestamp(now),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": COMPONENT,
    }


def again(event: Event, old: Object, made: Object, now: datetime) -> Request | None:
    """Return the request that counts an Event which is there already, None when there is nothing to count.

    What lasts (``event.once``) is not counted at each look.
    """
    if event.once and old.get("message") == made["message"]:
        return None
    change: dict[str, Any] = {key: made[key] for key in ("type", "reason", "message", "lastTimestamp")}
    change["count"] = int(old.get("count") or 1) + 1
    last = _moment(old.get("lastTimestamp"))
    if last is None or (now - last).total_seconds() > SAME_SECONDS:
        change |= {"count": 1, "firstTimestamp": made["firstTimestamp"]}
    version = old["metadata"].get("resourceVersion")
    body = {"metadata": {"resourceVersion": version}, **change}
    return api.merge_patch(EVENT, made["metadata"]["name"], made["metadata"]["namespace"], body)


class News:
    """Makes a Workspace's next status, and remembers what Events that change is worth.

    :param make: gets the live Workspace, returns its new status (None: nothing to write).
    """

    def __init__(self, make: NextStatus) -> None:
        self._make = make
        self.live: Object = {}
        self.events: list[Event] = []

    def __call__(self, live: dict[str, Any]) -> dict[str, Any] | None:
        status = self._make(live)
        self.live, self.events = live, transition_events(live.get("status"), status) if status else []
        return status


async def tell(cluster: ClusterCalls, obj: Object, events: Iterable[Event], kind: Kind = WORKSPACE) -> None:
    """Write Events about a Workspace, or about an object of another kind. Never raises."""
    for event in events:
        now = datetime.now(UTC)
        made = manifest(obj, event, now, kind)
        try:
            old, new = await cluster.get_or_create(EVENT, made)
            if not new and (request := again(event, old, made, now)):
                await cluster.send(request)
        except ClusterError as error:
            _not_told(event, error)


def _not_told(event: Event, error: ClusterError) -> None:
    if error.status != 409:  # somebody counted it at this moment
        log.info("Event %s was not written: %s", event.reason, error)


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None
