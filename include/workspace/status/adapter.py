"""What a finished tuning has published, as the Workspace's own status tells it.

Lets a run that starts anew (its history was lost) or that brings a service back go on from the adapter, instead of
training again. It must never name an adapter of an earlier generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.workspace.api.names import generation
from include.workspace.status.conditions import ConditionType, Reason, condition


def kept(workspace: Mapping[str, Any]) -> bool:
    """Whether the run under way pushes an adapter that an earlier one has made, so that no machine is needed for it."""
    resource_ready = condition(workspace.get("status"), ConditionType.RESOURCE_READY) or {}
    return (resource_ready.get("reason"), resource_ready.get("observedGeneration")) == (
        Reason.ADAPTER_KEPT,
        generation(workspace),
    )


def published(workspace: Mapping[str, Any]) -> dict[str, Any] | None:
    """The adapter of this generation: {"image", "digest", "reference"}, or {"volume": True}; None without one.

    `workspace` is as the cluster returned it, status included.
    """
    status = workspace.get("status") or {}
    adapter_published = condition(status, ConditionType.ADAPTER_PUBLISHED) or {}
    if adapter_published.get("status") != "True" or adapter_published.get("observedGeneration") != generation(
        workspace
    ):
        return None
    output = (workspace.get("tuning") or {}).get("output") or {}
    if not output.get("image"):
        return {"volume": True}
    adapter = dict(status.get("adapter") or {})
    return adapter if adapter.get("reference") else None
