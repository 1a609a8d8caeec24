"""Whether a run begins, goes on after Airflow forgot about it, or is done again in part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.workspace.api import names
from include.workspace.status import conditions


def under_way(live: Mapping[str, Any], run_id: str) -> bool:
    """Whether a run of this id has reached something of this generation and has no verdict: Airflow forgot about it."""
    status, generation = live.get("status") or {}, names.generation(live)
    mine = [c for c in status.get("conditions") or () if c.get("observedGeneration") == generation]
    verdict = conditions.condition({"conditions": mine}, conditions.ConditionType.WORKSPACE_SUCCEEDED) or {}
    return (
        (status.get("run") or {}).get("id") == run_id
        and verdict.get("reason") == conditions.Reason.PENDING
        and any(c.get("status") == "True" for c in mine)
    )


def cleared(live: Mapping[str, Any], run_id: str) -> bool:
    """Whether a run of this id has ended this generation before: somebody has cleared steps of it in Airflow."""
    status, generation = live.get("status") or {}, names.generation(live)
    workspace_ready = conditions.condition(status, conditions.ConditionType.WORKSPACE_READY) or {}
    ended = workspace_ready.get("status") == "True" or workspace_ready.get("reason") in conditions.ENDED_BADLY
    same = (status.get("run") or {}).get("id") == run_id
    return same and ended and workspace_ready.get("observedGeneration") == generation
