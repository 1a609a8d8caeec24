"""What the reconciler tells of its own troubles with a Workspace: in the status, with a time for the next attempt."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from include.reconcile.backoff import failed
from include.workspace.status import conditions
from include.workspace.status.conditions import ConditionType, Reason
from include.workspace.status.transitions import WARNING, Event

Object = Mapping[str, Any]
#: More than that for one Workspace, and it is left for the next pass.
SECONDS_EACH = 60.0
#: How a trouble of the reconciler begins in status.retry; the decisions keep their own there.
NOT_DONE = "Not carried out: "


def status_with(live: Object, message: str, now: datetime) -> dict[str, Any]:
    """Return the status that tells of a trouble of the reconciler itself with this Workspace."""
    status = dict(live.get("status") or {})
    status["retry"] = failed(status.get("retry"), now, NOT_DONE + message)
    ready = conditions.condition(status, ConditionType.WORKSPACE_READY)
    if ready is None or (ready["status"] == "False" and ready["reason"] == Reason.PENDING):
        generation = int(live["metadata"].get("generation") or 1)
        for kind in (ConditionType.WORKSPACE_SUCCEEDED, ConditionType.WORKSPACE_READY):
            status["conditions"] = conditions.set_condition(
                status.get("conditions") or (), kind, False, Reason.PENDING, message, generation, now
            )
    return status


def event(message: str) -> Event:
    """Return the Event that goes with it."""
    return Event(WARNING, "ReconcileFailed", message, once=f"trouble {message}")


def words(error: Exception) -> str:
    """Return what went wrong, as the Workspace's author is told."""
    if isinstance(error, TimeoutError):
        return f"took longer than {SECONDS_EACH:.0f} s"
    return str(error) or type(error).__name__
