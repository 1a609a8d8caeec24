"""Who says whether a candidate is served: a person asked by Airflow, by its API, or by an annotation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.hitl import upsert_hitl_detail
from airflow.sdk.timezone import utcnow

from include.contracts.results import EvaluationResult
from include.retraining import report_text, versions
from include.retraining.policy import OnTimeout
from include.retraining.versions import State
from include.workspace.api import names
from include.workspace.status import retraining
from include.workspace.status.conditions import Reason, moment, timestamp
from kaito.hooks.api import WORKSPACE
from kaito.settings import connection_id
from kaito.tasks.results import Candidate
from kaito.tasks.retraining import Retraining, RetrainTask
from kaito.triggers.retraining import POKE_SECONDS, ApprovalTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


#: With a version: how often the task might be tried that got its answer. Airflow may run a task again that has ended
#: (a worker that is lost at its end; a trigger that fires before the scheduler has heard of the deferral), and nobody
#: is to be asked twice. Who clears the task is asked anew: that gives it more tries.
ANSWERED = "answeredWithin"


class ApproveOperator(RetrainTask, ApprovalOperator):
    """Waits for a person, where the policy wants one: in Airflow's UI, by its API, or by an annotation.

    :param gate_task_id: the task whose result is the candidate.
    :param evaluation_task_id: the task that measured it.
    """

    def __init__(
        self, *, gate_task_id: str = "gate", evaluation_task_id: str = "evaluate", **kwargs: Any
    ) -> None:
        kwargs.setdefault("subject", "Promote a new version of the adapter?")
        super().__init__(**kwargs)
        self.gate_task_id = gate_task_id
        self.evaluation_task_id = evaluation_task_id

    def execute(self, context: Context) -> Any:
        plan, candidate = self.retraining(context), self.pull(context, self.gate_task_id, Candidate)
        if not plan.policy.needs_approval:
            self.log.info("The policy asks for nobody's approval.")
            return {"by": "the policy"}
        known = self._known(plan)
        entry = versions.entry_of(known.get("versions"), plan.version)
        if entry.get(ANSWERED) == context["ti"].max_tries:
            self.log.info("Version %s has its answer: an earlier try was lost after it.", plan.version)
            return _end(entry)
        rule, digest = plan.policy.approval, str(candidate.digest)
        until = _asked_until(known, plan) or (utcnow() + rule.timeout if rule.timeout else None)
        default = self.APPROVE if rule.on_timeout is OnTimeout.PROMOTE else self.REJECT
        upsert_hitl_detail(
            ti_id=context["ti"].id,
            options=self.options,
            subject=f"Serve version {plan.version} of {plan.namespace}/{plan.workspace}?",
            body=_body(plan, candidate, self.pull(context, self.evaluation_task_id, EvaluationResult)),
            defaults=[default],
            multiple=False,
            params={},
            assigned_users=[{"id": one, "name": one} for one in rule.by] or None,
        )
        waits = {"version": plan.version, "digest": digest, "until": timestamp(until) if until else None}
        which = f"{plan.workspace} -n {plan.namespace}"
        command = f"kubectl annotate workspace {which} --overwrite {names.APPROVE}={digest}"
        message = f"Version {plan.version} waits for approval in Airflow (Required actions), or by: {command}"
        self.tell(plan, False, Reason.AWAITING_APPROVAL, message, approval=waits)
        self.defer(
            trigger=ApprovalTrigger(
                ti_id=context["ti"].id,
                options=self.options,
                params={},
                defaults=[default],
                multiple=False,
                timeout_datetime=until,
                poke_interval=POKE_SECONDS,
                workspace=plan.workspace,
                namespace=plan.namespace,
                digest=digest,
                kubernetes_conn_id=self.kubernetes_conn_id or connection_id(),
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Come back with an answer."""
        plan = self.retraining(context)
        if "error" in event:
            raise AirflowFailException(f"Nobody could be asked: {event['error']}")
        approved = list(event["chosen_options"]) == [self.APPROVE]
        who = (event.get("responded_by_user") or {}).get("name")
        annotation = event.get("annotation")
        by = f"annotation {annotation}" if annotation else who or "nobody in time"
        entry: dict[str, Any] = {ANSWERED: context["ti"].max_tries}
        if approved:
            self.log.info("Approved by %s.", by)
            before = versions.entry_of(self._known(plan).get("versions"), plan.version).get("state")
            # A person who cleared this task after a no may say yes now.
            again = {"state": State.CANDIDATE, "reason": None} if before == State.REFUSED else {}
            self.tell(plan, approval=None, entry={**entry, "approvedBy": by, **again})
            return {"by": by}
        why = f"rejected by {by}" if who or annotation else "nobody answered in time"
        told = f"Version {plan.version} is not promoted: {why}"
        entry |= {"state": State.REFUSED, "reason": told}
        self.tell(plan, False, Reason.CANDIDATE_REFUSED, told, approval=None, entry=entry)
        return _end(entry)

    def _known(self, plan: Retraining) -> dict[str, Any]:
        """Return what the status says of the Workspace's retrainings."""
        live = self.cluster.find(WORKSPACE, plan.workspace, plan.namespace) or {}
        return retraining.of(live.get("status"))


def _asked_until(known: Mapping[str, Any], plan: Retraining) -> datetime | None:
    """When the time is over that an earlier try gave: a try that is lost with its worker adds none."""
    waits = known.get("approval") or {}
    return moment(waits.get("until")) if waits.get("version") == plan.version else None


def _end(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task's result for a version that has its answer; a no skips what comes after."""
    if entry["state"] == State.REFUSED:
        raise AirflowSkipException(entry["reason"])
    return {"by": entry["approvedBy"]}


def _body(plan: Retraining, candidate: Candidate, report: EvaluationResult) -> str:
    """What a person sees before deciding, as Markdown."""
    lines = [
        f"* candidate `{candidate.reference}`",
        f"* answers today `{plan.current.reference or 'nothing'}`",
        f"* learnt from {candidate.rows} rows",
        f"* {candidate.verdict}",
    ]
    return "\n".join([*lines, "", *report_text.markdown(report.to_xcom())]).rstrip()
