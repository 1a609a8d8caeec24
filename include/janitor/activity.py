"""Whether anything is, or may be, at work on a Workspace: then nothing of it is touched.

"Over" is only said where the Workspace's status and Airflow agree, or where Airflow has lost the run and the status
tells its end. An answer that is missing counts as work.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from include.janitor.orphans import Inventory, Object, Run
from include.janitor.things import Item
from include.reconcile import backoff
from include.reconcile.case import SERVE, TUNE, Case
from include.reconcile.decision import Observed, ReconcileConfig
from include.workspace.api import names
from include.workspace.status.runs import ALIVE, OVER, AirflowState, RunState

UNASKED = "unasked"


class RunActivity:
    """What is known of the runs of one inventory; `runs` and `dags` are the questions that came up."""

    def __init__(self, inventory: Inventory, now: datetime) -> None:
        self.inventory, self.now = inventory, now
        self.runs: set[Run] = set()
        self.dags: set[str] = set()

    def active_reason(self, workspace: Object) -> str:
        """Why everything of this Workspace is somebody else's business, "" when it is not; asks nobody."""
        meta = workspace["metadata"]
        annotations = meta.get("annotations") or {}
        if meta.get("deletionTimestamp"):
            return "its Workspace is being deleted, and kaito_release takes what it owns"
        if annotations.get(names.PAUSED) == "true":
            return f"its Workspace is paused by the annotation {names.PAUSED}"
        if self.inventory.upstream and annotations.get(names.MANAGED_BY) != "airflow":
            return f"{self.inventory.upstream} works on its Workspace"
        return ""

    def under_way(self, workspace: Object) -> str:
        """Why a run may be at work on this Workspace, or is about to be, "" when all is over."""
        status = workspace.get("status") or {}
        run, generation = status.get("run") or {}, names.generation(workspace)
        verdict = self._verdict(workspace)
        if run.get("generation") != generation or not run.get("id"):
            message = f"its Workspace's generation {generation} is not finished"
            return "" if verdict in OVER else message
        if run.get("state") == RunState.WAITING:
            return f"run {run['id']} of its Workspace is about to start"
        state = self.state([(str(run["dag"]), str(run["id"]))])
        if state == UNASKED:
            return f"whether run {run['id']} of its Workspace is over is not known"
        if state in ALIVE:
            return f"run {run['id']} of its Workspace is under way"
        if state is None and run.get("state") not in OVER and verdict not in OVER:
            return f"run {run['id']} of its Workspace was lost and will be taken up again"
        if backoff.wait(status.get("retry"), self.now) > 0:
            return "a next attempt of its Workspace is due soon"
        return ""

    def _verdict(self, workspace: Object) -> str:
        def nothing(*_: Any) -> Any:
            return ""

        config = ReconcileConfig(nothing, nothing, nothing, nothing)
        case = Case(workspace, Observed(), self.now, config)
        return case.verdict(case.status)

    def own_run(self, item: Item, workspace: Object) -> str:
        """Why the run that made a thing may still be at work, "" when it is over."""
        run, label = (workspace.get("status") or {}).get("run") or {}, item.run_label
        if not label or names.run_id_label(str(run.get("id") or "")) == label:
            return ""  # the run of the Workspace, which was judged already
        if names.served_by(label):
            state = self.state([(dag, label) for dag in (TUNE, SERVE)])
            told = {UNASKED: f"whether its run {label} is over is not known"}
            told |= dict.fromkeys(ALIVE, f"its run {label} is under way")
            return told.get(str(state), "")
        # A label that is a digest names no run that Airflow could be asked about.
        busy = [self._busy(dag) for dag in (TUNE, SERVE)]
        if any(one is None for one in busy):
            return f"whether its run {label} is over is not known"
        return f"its run {label} may be among those under way" if any(busy) else ""

    def state(self, runs: Iterable[Run]) -> str | None:
        """The state of a run that is in one of several DAGs: at work wins, then over, then None (Airflow has none)."""
        asked = list(runs)
        self.runs |= set(asked)
        states = [self.inventory.runs.get(run, UNASKED) for run in asked]
        if UNASKED in states:
            return UNASKED
        for wanted in (ALIVE, OVER):
            if result := next((state for state in states if state in wanted), None):
                return result
        return None if all(state is None for state in states) else AirflowState.RUNNING

    def _busy(self, dag: str) -> bool | None:
        self.dags.add(dag)
        return self.inventory.busy.get(dag)
