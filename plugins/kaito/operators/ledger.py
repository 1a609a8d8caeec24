"""What a run has cost, told as an event of the asset `kaito_ledger`: on every path, also when the run failed.

Airflow emits an asset's events only for tasks that succeed, so this is a teardown of its own beside `finish`, which
fails with its run. An event may be told twice: its records are keyed by machine and run, and readers count each once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, TaskInstanceState

from include.ledger import events
from include.workspace.api import names
from include.workspace.status.runs import RunState
from kaito import metrics
from kaito.assets import LEDGER
from kaito.controller.cost_recorder import record_cost
from kaito.hooks.api import WORKSPACE
from kaito.operators.finish import shortfall, wanted
from kaito.tasks.base import PREFLIGHT, Run, WorkspaceTask

if TYPE_CHECKING:
    from airflow.sdk import Context


def tell(context: Context, extra: Mapping[str, Any]) -> None:
    """Leave the event that Airflow emits when this task succeeds."""
    context["outlet_events"][LEDGER].extra = dict(extra)


def _tell_run(context: Context, outcome: str) -> None:
    run, now = context.get("dag_run"), datetime.now(UTC)
    began, due = getattr(run, "start_date", None), getattr(run, "run_after", None)
    metrics.tell_run(
        context["ti"].dag_id, outcome, began - due if began and due else None, now - began if began else None
    )


class RecordCostOperator(WorkspaceTask, BaseOperator):
    """Settles what the run's machines have cost, in ``status.cost`` and as an event of the asset `kaito_ledger`.

    :param needed: ids of the tasks without which the run has failed.
    :param optional: ids of the tasks that are the rollout, for runs whose Workspace wants one.
    :param publishing_task_id: the task whose success means that the tuning came to something.
    """

    def __init__(
        self,
        *,
        needed: Sequence[str],
        optional: Sequence[str] = (),
        publishing_task_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("outlets", [LEDGER])
        super().__init__(**kwargs)
        self.needed = list(needed)
        self.optional = list(optional)
        self.publishing_task_id = publishing_task_id

    def execute(self, context: Context) -> dict[str, Any]:
        ti = context["ti"]
        if not ti.xcom_pull(task_ids=f"{self.run_prefix}{PREFLIGHT}"):
            self.log.info("The run was refused before it could cost anything.")
            tell(context, events.refused(ti.dag_id, ti.run_id))
            _tell_run(context, "refused")
            return {}
        run = self.this_run(context)
        states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
        for task_id in (ti.task_id, "finish"):
            states.pop(task_id, None)
        steps = wanted(run, self.needed, self.optional)
        outcome = RunState.FAILED if shortfall(states, steps) else RunState.SUCCESS
        cost = record_cost(
            self.cluster, run.name, run.namespace, run.uid, (run.run_id, self._tuned(states, outcome))
        )
        now = datetime.now(UTC)
        event = events.of_run(
            cost,
            run=run.run_id,
            dag=ti.dag_id,
            workspace=events.Subject(run.name, run.namespace, run.uid),
            outcome=self._verdict(run, outcome),
            now=now,
        )
        self.log.info("%s", events.sentence(event))
        tell(context, event)
        metrics.tell_gpus(event["records"], now)
        _tell_run(context, event["outcome"])
        return {key: value for key, value in event.items() if key != "records"}

    def _tuned(self, states: Mapping[str, str | None], outcome: str) -> str:
        """Return what the tuning came to: an adapter is kept even where the rollout after it failed."""
        if self.publishing_task_id is None:
            return outcome
        return (
            RunState.SUCCESS
            if states.get(self.publishing_task_id) == TaskInstanceState.SUCCESS
            else RunState.FAILED
        )

    def _verdict(self, run: Run, outcome: str) -> str:
        """Return the outcome, or that the run was overtaken or its Workspace deleted, which is nobody's failure."""
        if outcome == RunState.SUCCESS:
            return outcome
        live = self.cluster.find(WORKSPACE, run.name, run.namespace)
        metadata = (live or {}).get("metadata") or {}
        if live is None or metadata.get("uid") != run.uid or metadata.get("deletionTimestamp"):
            return "deleted"
        return "superseded" if names.generation(live) > run.generation else outcome
