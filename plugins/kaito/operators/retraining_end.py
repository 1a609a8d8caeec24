"""The last step of a retraining: what has become of the version, what it cost, and that its run is over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from include.ledger import records
from include.retraining import versions
from include.retraining.versions import State
from include.workspace.status import retraining
from include.workspace.status.conditions import ConditionType, Reason, condition
from include.workspace.status.runs import RunState
from kaito.hooks.api import WORKSPACE, ClusterError
from kaito.hooks.kubernetes import StaleWorkspace
from kaito.operators.finish import FinishOperator, shortfall
from kaito.tasks.retraining import Retraining, RetrainTask

if TYPE_CHECKING:
    from airflow.sdk import Context


class RecordRetrainingOperator(RetrainTask, FinishOperator):
    """The last step: what has become of the version, what it cost, and that this run is over.

    :param needed: ids of the steps up to the push, in their order.
    :param endings: ids of the steps that may end the run early and green.
    """

    def __init__(self, *, endings: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.endings = list(endings)

    def execute(self, context: Context) -> None:
        ti = context["ti"]
        plan = self.retraining(context)
        states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
        mine = {task: state for task, state in states.items() if task.startswith(self.run_prefix)}
        mine.pop(ti.task_id, None)
        ended = next((task for task in self.endings if mine.get(task) == "skipped"), None)
        cause = None if ended and "failed" not in mine.values() else shortfall(mine, self.needed)
        self._settle(plan, ti.run_id, cause, context)
        if cause is None:
            self._let_go(plan)
            self.log.info("Ended by %s.", ended or "its last step")
            return
        verdict = f"The run {cause}. {self._cause_of(plan)}".strip()
        self.log.error("%s", verdict)
        raise AirflowFailException(verdict)

    def _settle(self, plan: Retraining, run_id: str, cause: str | None, context: Context) -> None:
        """Write that the run is over; the cost of the candidate is added once, since its entry keeps it."""
        usd = self._cost(plan)
        if cause and context["ti"].xcom_pull(task_ids=f"{self.run_prefix}preflight"):
            self._stop_pods(self.this_run(context))
        message = f"Version {plan.version} was not made: {cause}. {self._cause_of(plan)}" if cause else ""

        def edit(status: dict[str, Any]) -> dict[str, Any]:
            known = self.over(status, run_id, RunState.FAILED if cause else RunState.SUCCESS)
            history = known.get("versions") or []
            entry = versions.entry_of(history, plan.version)
            counted = float((entry or known.get("run") or {}).get("usd") or 0.0)
            known["usd"] = round(float(known.get("usd") or 0.0) + usd - counted, 6) or None
            if entry:
                open_state = entry.get("state") in (State.TRAINING, State.CANDIDATE)
                failed = {"state": State.FAILED, "reason": message} if cause and open_state else {}
                known["versions"] = versions.with_entry(history, {**entry, **failed, "usd": usd})
                served = str((status.get("adapter") or {}).get("digest") or "")
                known["versions"] = versions.kept(known["versions"], plan.policy.keep, served)
            else:
                known["run"] = {**(known.get("run") or {}), "usd": usd}
            known.pop("approval", None)
            found = retraining.with_retrain(status, known)
            told = condition(status, ConditionType.RETRAIN_READY) or {}
            if cause and told.get("reason") in (Reason.RETRAINING, Reason.AWAITING_APPROVAL):
                found = retraining.told(
                    found, False, Reason.RETRAIN_FAILED, message, plan.generation, datetime.now(UTC)
                )
            return found

        try:
            self.change(plan.workspace, plan.namespace, plan.uid, edit)
        except (ClusterError, StaleWorkspace) as error:
            self.log.warning("The end of the retraining was not recorded: %s", error)

    def _candidate(self, plan: Retraining) -> dict[str, Any]:
        try:
            return self.cluster.find(WORKSPACE, plan.candidate, plan.namespace) or {}
        except ClusterError as error:
            self.log.warning("Candidate %s could not be read: %s", plan.candidate, error)
            return {}

    def _cost(self, plan: Retraining) -> float:
        cost = (self._candidate(plan).get("status") or {}).get("cost")
        return round(records.spent(cost, datetime.now(UTC)), 6)

    def _cause_of(self, plan: Retraining) -> str:
        """What the candidate's own conditions say of its failure."""
        status = self._candidate(plan).get("status")
        told = condition(status, ConditionType.WORKSPACE_SUCCEEDED) or {}
        return str(told.get("message") or "") if told.get("status") == "False" else ""

    def _let_go(self, plan: Retraining) -> None:
        """The candidate has done its work: it goes, with its volume; what it pushed stays."""
        found = self._candidate(plan)
        if found and not found["metadata"].get("deletionTimestamp"):
            self.cluster.delete(WORKSPACE, plan.candidate, plan.namespace, uid=found["metadata"]["uid"])
