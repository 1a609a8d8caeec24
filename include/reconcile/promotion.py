"""A version on its way to be served, as the status keeps it: the words that its rollout, bake time and canary share.

It only reads and writes `status.retrain` and its condition; what happens to the service is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.reconcile.decision_builder import DecisionBuilder
from include.retraining import versions
from include.retraining.versions import State
from include.workspace.status import retraining
from include.workspace.status.conditions import ConditionType, Reason
from include.workspace.status.retraining import WITHDRAWING


def current(builder: DecisionBuilder) -> dict[str, Any]:
    """The version on its way to be served, {} without one; one that was wanted for an earlier spec is given up."""
    found = retraining.of(builder.status).get("promotion") or {}
    if found and found.get("generation") != builder.case.generation:
        change(builder, promotion=None)
        if found.get("state") != WITHDRAWING:
            why = "the Workspace was edited meanwhile"
            entry(builder, str(found["version"]), state=State.REFUSED, reason=why)
        return {}
    return dict(found)


def change(builder: DecisionBuilder, **fields: Any) -> None:
    """Write parts of `status.retrain`; None takes one out."""
    builder.status = retraining.with_retrain(builder.status, {**retraining.of(builder.status), **fields})


def entry(builder: DecisionBuilder, version: str, **fields: Any) -> None:
    """Write parts of a version's entry in the history; None takes one out."""
    known = retraining.of(builder.status).get("versions") or []
    found = versions.with_entry(known, {"version": version, **fields})
    change(builder, versions=[{k: v for k, v in one.items() if v is not None} for one in found])


def tell(builder: DecisionBuilder, ok: bool, reason: Reason, message: str) -> None:
    """Write the condition RetrainReady."""
    builder.condition(ConditionType.RETRAIN_READY, ok, reason, message)


def restarts(builder: DecisionBuilder) -> int:
    """How often the containers of the service's pods have restarted."""
    statuses = [
        s for p in builder.case.serving_pods for s in (p.get("status") or {}).get("containerStatuses") or ()
    ]
    return sum(int(one.get("restartCount") or 0) for one in statuses)


def short(adapter: Mapping[str, Any]) -> str:
    """An adapter's digest as far as people read it."""
    return str(adapter.get("digest") or "the volume's adapter")[: len("sha256:") + 12]
