"""When a Workspace must be looked at although nothing changes, and which runs have to be asked about then.

Idle Workspaces cost nothing here: they are due by a change or by the resync only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from include.ledger import records
from include.pools.observed import ObservedPool
from include.reconcile import backoff, idle, progress, retrain
from include.reconcile.case import RELEASE, RUN_COMPONENTS, TUNING, ended, label
from include.reconcile.decision import Object
from include.workspace.api import names
from include.workspace.api.dialect import serves
from include.workspace.status.conditions import ConditionType, Reason, condition
from include.workspace.status.runs import OVER, RunState

RELEASE_SECONDS = 10.0
#: How often a Workspace is looked at while what is over its budget goes.
OVERSPENT_SECONDS = 5.0


def due(workspace: Object, last_look: datetime | None, now: datetime) -> float | None:
    """Seconds until this Workspace is due (0.0: now), None when only a change makes it so.

    `last_look` is when it was last handed to `decide`, None when it never was.
    """
    if last_look is None:
        return 0.0
    meta, status = workspace["metadata"], workspace.get("status") or {}
    since = (now - last_look).total_seconds()
    if names.FINALIZER not in (meta.get("finalizers") or ()):
        return None
    if meta.get("deletionTimestamp"):
        return max(0.0, RELEASE_SECONDS - since)
    if (meta.get("annotations") or {}).get(names.PAUSED) == "true":
        return None
    moments = [backoff.moment((status.get(part) or {}).get("after")) for part in ("retry", "idle")]
    # A run that could not be started is not under way: it waits by back-off, not at the pace of runs.
    refused = moments[0] is not None and moments[0] > last_look
    waits = [progress.look_seconds(status) - since] if _under_way(workspace, status) and not refused else []
    for after in moments:
        if after is not None:
            # A moment that the last look has already used up is followed by looks at the quiet pace.
            waits.append(
                (after - max(now, last_look)).total_seconds()
                if after > last_look
                else progress.QUIET_SECONDS - since
            )
    if _is_down(workspace, status):
        waits.append(progress.QUIET_SECONDS - since)
    if idle.going_down(status):
        waits.append(idle.RELEASE_SECONDS - since)
    waits += retrain.waits(status, last_look, now)
    if (left := _budget_seconds(status, now)) is not None:
        waits.append(max(left, OVERSPENT_SECONDS - since))
    return max(0.0, min(waits)) if waits else None


def _budget_seconds(status: Mapping[str, Any], now: datetime) -> float | None:
    """Seconds until the machines that are held have used up the budget; None without a budget or machines."""
    cost = status.get("cost") or {}
    rate = records.usd_per_hour(cost)
    if cost.get("budgetUsd") is None or rate <= 0:
        return None
    return max(0.0, (float(cost["budgetUsd"]) - records.spent(cost, now)) / rate * 3600)


def _under_way(workspace: Object, status: Mapping[str, Any]) -> bool:
    run = status.get("run") or {}
    return run.get("generation") == names.generation(workspace) and run.get("state") in (
        RunState.WAITING,
        RunState.STARTED,
    )


def _is_down(workspace: Object, status: Mapping[str, Any]) -> bool:
    """Whether a service does not answer that a run brought: not all that may be the cause lets itself be watched."""
    run, told = status.get("run") or {}, condition(status, ConditionType.INFERENCE_READY) or {}
    current = run.get("generation") == names.generation(workspace) and run.get("state") == RunState.SUCCESS
    down = told.get("status") == "False" and told.get("reason") != Reason.SCALED_TO_ZERO
    return current and down and serves(workspace)


def asks_for_metrics(workspace: Object, now: datetime) -> bool:
    """Whether a decision about this Workspace needs what the servers of its service count."""
    if workspace["metadata"].get("deletionTimestamp") or not serves(workspace):
        return False
    return retrain.asks_for_metrics(workspace.get("status") or {}) or idle.asks_for_metrics(workspace, now)


def runs_to_ask(
    workspace: Object, pods: Iterable[Object] = (), pools: Iterable[ObservedPool] = ()
) -> list[tuple[str, str]]:
    """(DAG id, run id) of the runs whose state a decision needs; empty for what is idle.

    A run that was over is asked about again when there are pods or pools of its own, since somebody may have cleared
    its tasks.
    """
    status = workspace.get("status") or {}
    going = bool(workspace["metadata"].get("deletionTimestamp"))
    besides = [] if going else retrain.runs_to_ask(status)
    return [*_own_run(workspace, status.get("run") or {}, pods, pools), *besides]


def _own_run(
    workspace: Object, run: Mapping[str, Any], pods: Iterable[Object], pools: Iterable[ObservedPool]
) -> list[tuple[str, str]]:
    if not run.get("id") or run.get("state") == RunState.WAITING:
        return []
    going = bool(workspace["metadata"].get("deletionTimestamp"))
    if going and run.get("dag") != RELEASE:
        return []
    if not going and run.get("generation") != names.generation(workspace):
        return []
    if run.get("state") in OVER and not _at_work(run, pods, pools):
        return []
    return [(str(run["dag"]), str(run["id"]))]


def _at_work(run: Mapping[str, Any], pods: Iterable[Object], pools: Iterable[ObservedPool]) -> bool:
    own = names.run_id_label(str(run["id"]))
    if any(pool.run == own and pool.purpose == TUNING for pool in pools):
        return True
    mine = (pod for pod in pods if label(pod, names.RUN_ID) == own)
    return any(label(pod, names.COMPONENT) in RUN_COMPONENTS and not ended(pod) for pod in mine)
