"""Events are served in two groups with different field names; the store keeps the core/v1 form."""

from __future__ import annotations

from typing import Any

from sandbox.api.resources import Conversion

Json = dict[str, Any]

_TO_CORE = {
    "note": "message",
    "regarding": "involvedObject",
    "reportingController": "reportingComponent",
    "deprecatedCount": "count",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedSource": "source",
}
_FROM_CORE = {core: new for new, core in _TO_CORE.items()}


def to_core(event: Json) -> Json:
    return {_TO_CORE.get(k, k): v for k, v in event.items()} | {"apiVersion": "v1"}


def from_core(event: Json) -> Json:
    return {_FROM_CORE.get(k, k): v for k, v in event.items()} | {"apiVersion": "events.k8s.io/v1"}


EVENTS_CONVERSION = Conversion(to_core, from_core)
