"""What a finished tuning has published, as the Workspace's own status tells it.

Lets a run that starts anew (its history was lost) or that brings a service back go on from the adapter, instead of
training again. It must never name an adapter of an earlier generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.workspace.api.names import generation
from include.workspace.status.conditions import ConditionType, condition


def published(workspace: Mapping[str, Any]) -> dict[str, Any] | None:
    """The adapter of this generation: {"image", "digest", "reference"}, or {"volume": True}; None without one.

    `workspace` is as the cluster returned it, status included.
    """
    status = workspace.get("status") or {}
    told = condition(status, ConditionType.ADAPTER_PUBLISHED) or {}
    if told.get("status") != "True" or told.get("observedGeneration") != generation(workspace):
        return None
    output = (workspace.get("tuning") or {}).get("output") or {}
    if not output.get("image"):
        return {"volume": True}
    adapter = dict(status.get("adapter") or {})
    return adapter if adapter.get("reference") else None
