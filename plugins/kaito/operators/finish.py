"""The last task of every run: the run ends as what it was.

Airflow takes a run's state from its leaves, and a run that a user marked as failed ends green when its leaves were
merely skipped. This task is a teardown, so it runs on every path; it looks at all tasks, makes sure that the
Workspace's conditions tell of a failure, and fails the run when something did not succeed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, TaskInstanceState
from airflow.sdk.exceptions import AirflowFailException

from include.contracts.purpose import Purpose
from include.workspace.api import names
from include.workspace.status import conditions
from include.workspace.status.kept_adapter import rerun_of
from include.workspace.status.runs import FOR_THE_SERVICE, RunState
from kaito.hooks.api import POD, WORKSPACE, ClusterError
from kaito.hooks.kubernetes import StaleWorkspace
from kaito.operators import kept_adapter
from kaito.operators.exclusive import OPEN
from kaito.tasks.base import Run, WorkspaceTask

if TYPE_CHECKING:
    from airflow.sdk import Context


def shortfall(states: Mapping[str, str | None], steps: Sequence[str]) -> str | None:
    """Return what kept the run from its goal, None when nothing did.

    A run that is marked as failed is not told by failed tasks alone: Airflow fails the step that runs or is deferred,
    and skips one that waits for a worker just then, as a step does each time that its trigger hands it back.

    :param states: state of each task of the run.
    :param steps: tasks that must have succeeded, in the order in which they run.
    """
    failed = sorted(task for task, state in states.items() if state == TaskInstanceState.FAILED)
    missing = next((step for step in steps if states.get(step) != TaskInstanceState.SUCCESS), None)
    told = [f"stopped before {missing} was done"] if missing and not set(failed) & set(steps) else []
    told += [f"failed: {', '.join(failed)}"] if failed else []
    return "; ".join(told) or None


def wanted(run: Run, needed: Sequence[str], optional: Sequence[str]) -> list[str]:
    """Return the steps without which this run has failed: the rollout is left out where its Workspace wants none."""
    return [*needed, *(optional if run.serving_plan else ())]


class FinishOperator(WorkspaceTask, BaseOperator):
    """Ends the run truthfully.

    :param needed: ids of the tasks that must have succeeded, in the order in which they run.
    :param optional: ids of the tasks after these that are the rollout, for runs whose Workspace wants one.
    """

    def __init__(self, *, needed: Sequence[str], optional: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.needed = list(needed)
        self.optional = list(optional)

    def execute(self, context: Context) -> None:
        ti = context["ti"]
        states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
        states.pop(ti.task_id, None)
        run = self.this_run(context)
        cause = shortfall(states, wanted(run, self.needed, self.optional))
        if cause is None:
            self.log.info("All steps of the run succeeded.")
            self._record_outcome(run, ti.run_id, RunState.SUCCESS)
            self._record_delivery(run)
            return
        self._stop_pods(run)
        known = self._told(run)
        if known is None:
            self.report(run, conditions.Phase.FAILED, f"Airflow run {ti.run_id} {cause}.")
        self._record_outcome(run, ti.run_id, RunState.FAILED)
        verdict = f"The run {cause}. {known or ''}".strip()
        self.log.error("%s", verdict)
        raise AirflowFailException(verdict)

    def _record_delivery(self, run: Run) -> None:
        """The adapter has reached its goal: a request for a new run means a new training from now on."""
        if run.plan is None or run.plan.purpose != Purpose.TUNING:
            return
        maker, rerun = run.trained.run if run.trained else run.run_id, rerun_of(run.document)
        try:
            kept_adapter.change(
                self.cluster, run.document, lambda known: known and known.delivered(maker, rerun)
            )
        except ClusterError as error:
            self.log.warning("The delivery could not be recorded on the work volume: %s", error)

    def _record_outcome(self, run: Run, run_id: str, state: str) -> None:
        """Write how the run ended where the reconciler would: nobody else does when that does not run.

        What the reconciler starts by itself for a service it also judges itself, since it counts the failures.
        """

        def ended(live: Mapping[str, Any]) -> dict[str, Any] | None:
            status = dict(live.get("status") or {})
            known = status.get("run") or {}
            counted = state == RunState.FAILED and known.get("cause") in FOR_THE_SERVICE
            if known.get("id") != run_id or known.get("state") not in OPEN or counted:
                return None
            return {**status, "run": {**known, "state": state}}

        try:
            self.cluster.patch_status(
                run.name, run.namespace, ended, uid=run.uid, generation=run.generation, begins=True
            )
        except (ClusterError, StaleWorkspace) as error:
            self.log.info("The end of run %s was not recorded: %s", run_id, error)

    def _stop_pods(self, run: Run) -> None:
        """Delete what still works for this run: a worker that died, or an order to stop, may have left a pod."""
        labels = {
            names.WORKSPACE: run.name,
            names.WORKSPACE_NAMESPACE: run.namespace,
            names.RUN_ID: run.run_id,
        }
        try:
            for pod in self.cluster.list(POD, run.namespace, labels):
                metadata = pod["metadata"]
                if metadata["labels"].get(names.COMPONENT) != Purpose.SERVING:
                    self.log.info("Pod %s was left behind: deleting it.", metadata["name"])
                    self.cluster.delete(POD, metadata["name"], run.namespace, uid=metadata["uid"])
        except ClusterError as error:
            self.log.warning("The pods of run %s could not be looked at: %s", run.run_id, error)

    def _told(self, run: Run) -> str | None:
        """Return the failure that a step has already written into the Workspace's conditions."""
        try:
            live = self.cluster.find(WORKSPACE, run.name, run.namespace) or {}
        except ClusterError as error:
            self.log.warning("Workspace %s could not be read: %s", run.name, error)
            return None
        workspace_succeeded = (
            conditions.condition(live.get("status"), conditions.ConditionType.WORKSPACE_SUCCEEDED) or {}
        )
        mine = workspace_succeeded.get("observedGeneration") == run.generation
        return (
            str(workspace_succeeded.get("message"))
            if mine and workspace_succeeded.get("reason") in conditions.ENDED_BADLY
            else None
        )
