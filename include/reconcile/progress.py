"""How far a run is, and how soon to look at it again: quickly while a pod tunes, at leisure otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.status.conditions import ConditionType, condition
from include.workspace.status.runs import RunState
from include.workspace.status.startup import share

TUNING_SECONDS, QUIET_SECONDS, WAITING_SECONDS = 10.0, 30.0, 1.0
# What the tuning pod's /progress says, and what the status calls it.
FIELDS = {
    "stage": "stage",
    "step": "step",
    "total": "total",
    "epoch": "epoch",
    "loss": "loss",
    "tokens_per_second": "tokensPerSecond",
    "eta_seconds": "etaSeconds",
}


def look_seconds(status: Mapping[str, Any]) -> float:
    """Seconds between two looks at a run that is under way."""
    if (status.get("run") or {}).get("state") == RunState.WAITING:
        return WAITING_SECONDS
    started = condition(status, ConditionType.JOB_STARTED) or {}
    published = condition(status, ConditionType.ADAPTER_PUBLISHED) or {}
    tuning = started.get("status") == "True" and published.get("status") != "True"
    return TUNING_SECONDS if tuning and status.get("state") == "Running" else QUIET_SECONDS


def report(builder: DecisionBuilder) -> None:
    """Write what the tuning pod said last; what it said stays when it is gone."""
    said = builder.case.observed.progress
    if not said:
        return
    found = {ours: said[theirs] for theirs, ours in FIELDS.items() if said.get(theirs) is not None}
    if found:
        percent = (
            {"percent": share(int(found.get("step") or 0), int(found["total"]))} if found.get("total") else {}
        )
        builder.note(progress={**found, **percent})
