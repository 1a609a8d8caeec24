"""The last steps of a retraining: is the candidate good enough, who says so, and is it served.

A candidate that is refused stays in the registry, marked; the one that answers is not touched. A promotion is asked for
in the status and carried out by the reconciler, which also takes it back when it fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include.contracts import golden_set
from include.contracts.evaluation import Summary
from include.contracts.golden_set import GoldenPrompt
from include.contracts.results import EvaluationResult, PublishedAdapter
from include.retraining import gate, live_questions, versions
from include.retraining.versions import State
from include.workspace.api import names
from include.workspace.api.dialect import as_written
from include.workspace.status import retraining
from include.workspace.status.conditions import ConditionType, Reason, condition
from include.workspace.status.runs import RunCause
from kaito import assets
from kaito.hooks.api import CONFIG_MAP, WORKSPACE
from kaito.hooks.kubernetes import StaleWorkspace
from kaito.settings import connection_id
from kaito.tasks import golden_questions
from kaito.tasks.open_lineage import LineageTask, adapter_place, service_place
from kaito.tasks.results import Candidate, ChangeJudged
from kaito.tasks.retraining import Retraining, RetrainTask
from kaito.triggers.retraining import PromotionTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

#: How long a rollout may take, besides its bake time.
ROLLED_OUT_WITHIN = timedelta(hours=2)
BACKSTOP = timedelta(minutes=1)
PROMOTION_POLL = 2.0


class GateOperator(RetrainTask, BaseOperator):
    """Judges the candidate by the policy's gate; a refused one ends the run here, green, with the reason told.

    :param publishing_task_id: the task that pushed it.
    :param change_task_id: the task that judged the data.
    :param evaluation_task_id: the task that measured it.
    """

    def __init__(
        self, *, publishing_task_id: str, change_task_id: str, evaluation_task_id: str, **kwargs: Any
    ) -> None:
        kwargs.setdefault("outlets", [assets.ADAPTERS])
        super().__init__(**kwargs)
        self.publishing_task_id = publishing_task_id
        self.change_task_id = change_task_id
        self.evaluation_task_id = evaluation_task_id

    def execute(self, context: Context) -> dict[str, Any]:
        plan = self.retraining(context)
        pushed, report = (
            self.pull(context, self.publishing_task_id, PublishedAdapter).to_xcom(),
            self.pull(context, self.evaluation_task_id, EvaluationResult).to_xcom(),
        )
        data = self.pull(context, self.change_task_id, ChangeJudged).dataset.to_xcom()
        adapter = {key: pushed[key] for key in retraining.ADAPTER if pushed.get(key)}
        verdict = gate.judge(plan.policy.gate, report) if report else None
        passed, why = (verdict.passed, verdict.sentence) if verdict else _unmeasured(plan)
        entry = {
            "state": State.CANDIDATE if passed else State.REFUSED,
            "reason": None if passed else why,
            **adapter,
        }
        self._record(plan, entry, data)
        extra = {"dataset": data.get("digest"), "verdict": verdict.to_json() if verdict else None}
        self._emit(context, plan, {**adapter, "metrics": _metrics(report), **extra})
        if not passed:
            told = f"Version {plan.version} ({adapter.get('digest', '')[:19]}) is refused. {why}"
            self.tell(plan, False, Reason.CANDIDATE_REFUSED, told)
            raise AirflowSkipException(told)
        self.log.info("%s", why)
        return Candidate(**adapter, verdict=why, rows=data.get("rows")).to_xcom()

    def _record(self, plan: Retraining, entry: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        live = self.cluster.find(WORKSPACE, plan.workspace, plan.namespace) or {}
        known = retraining.of(live.get("status")).get("dataset") or {}
        learnt = {key: data[key] for key in ("digest", "rows") if data.get(key) is not None}
        self.tell(plan, entry=entry, dataset={**known, **learnt})

    def _emit(self, context: Context, plan: Retraining, extra: Mapping[str, Any]) -> None:
        outlets = context["outlet_events"]
        told = {**extra, "version": plan.version, "run": context["run_id"]}
        outlets[assets.ADAPTERS].add(assets.adapter(plan.namespace, plan.workspace), extra=told)


def _metrics(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return what was measured, by subject and metric, {} where nothing was."""
    return Summary.from_json(report).values() if report else {}


def _unmeasured(plan: Retraining) -> tuple[bool, str]:
    """What becomes of a candidate without a report: a policy that wants one lets it pass nowhere."""
    if plan.policy.evaluation is None:
        return True, "Nothing was measured, as the policy has no evaluation"
    return False, "The candidate is refused: it was not measured"


class PromoteOperator(LineageTask, RetrainTask, BaseOperator):
    """Asks for the candidate to be served, and waits until it is, or was taken back.

    In between it asks the service golden questions, where the policy has some.

    :param gate_task_id: the task whose result is the candidate.
    :param evaluation_task_id: the task that measured it.
    """

    def __init__(
        self, *, gate_task_id: str = "gate", evaluation_task_id: str = "evaluate", **kwargs: Any
    ) -> None:
        kwargs.setdefault("outlets", [assets.SERVED])
        super().__init__(**kwargs)
        self.gate_task_id = gate_task_id
        self.evaluation_task_id = evaluation_task_id

    def execute(self, context: Context) -> Any:
        plan, candidate = self.retraining(context), self.pull(context, self.gate_task_id, Candidate)
        bake, canary = plan.policy.bake, plan.policy.canary
        share = {"percent": canary.percent, "canarySeconds": canary.time.total_seconds()} if canary else None

        def edit(status: dict[str, Any]) -> dict[str, Any]:
            known = retraining.of(status)
            entry = versions.entry_of(known.get("versions"), plan.version)
            if (known.get("promotion") or {}).get("version") == plan.version or entry.get(
                "state"
            ) != State.CANDIDATE:
                return status  # an earlier try has asked
            known["versions"] = _with_the_first(known.get("versions") or [], status)
            wanted = {"version": plan.version, **{key: getattr(candidate, key) for key in retraining.ADAPTER}}
            return retraining.wanted(
                retraining.with_retrain(status, known),
                wanted,
                cause=RunCause.PROMOTE,
                bake_seconds=bake.time.total_seconds(),
                limits={"errors": bake.errors, "latency": bake.latency},
                canary=share,
                generation=plan.generation,
            )

        try:
            self.change(plan.workspace, plan.namespace, plan.uid, edit)
        except StaleWorkspace as stale:
            raise AirflowFailException(str(stale)) from None
        self._wait(plan, until_it_bakes=bool(self._questions(context, plan)))

    def _wait(self, plan: Retraining, *, until_it_bakes: bool) -> NoReturn:
        canary = plan.policy.canary
        within = ROLLED_OUT_WITHIN + plan.policy.bake.time + (canary.time if canary else timedelta())
        self.defer(
            trigger=PromotionTrigger(
                workspace=plan.workspace,
                namespace=plan.namespace,
                kubernetes_conn_id=self.kubernetes_conn_id or connection_id(),
                timeout_seconds=within.total_seconds(),
                poll_seconds=PROMOTION_POLL,
                version=plan.version,
                until_it_bakes=until_it_bakes,
            ),
            method_name="promoted",
            timeout=within + BACKSTOP,
        )

    def promoted(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Come back when it is served, or is not."""
        plan, candidate = self.retraining(context), self.pull(context, self.gate_task_id, Candidate)
        if not event.get("ready"):
            raise AirflowFailException(str(event.get("message")))
        self.log.info("%s", event.get("message"))
        if event.get("baking"):
            self._ask(context, plan)
            self._wait(plan, until_it_bakes=False)
        report = self.pull(context, self.evaluation_task_id, EvaluationResult).to_xcom()
        extra: dict[str, Any] = {
            "version": plan.version,
            "run": context["run_id"],
            "metrics": _metrics(report),
        }
        extra |= {key: part for key in retraining.ADAPTER if (part := getattr(candidate, key))}
        outlets = context["outlet_events"]
        outlets[assets.SERVED].add(assets.served(plan.namespace, plan.workspace), extra=extra)
        service = service_place(plan.namespace, plan.workspace, candidate.digest)
        self.tell_lineage(adapter_place(candidate.image, candidate.digest), [service])
        return extra

    def _questions(self, context: Context, plan: Retraining) -> list[GoldenPrompt]:
        """The golden questions that the service is to be asked, [] where the policy has none that could be."""
        wanted = plan.policy.evaluation
        if not plan.policy.bake.questions or wanted is None or not wanted.golden_set:
            return []
        name = wanted.golden_set.config_map or names.golden_config_map(plan.candidate)
        found = self.cluster.find(CONFIG_MAP, name, plan.namespace) or {}
        try:
            known = golden_set.read((found.get("data") or {}).get(golden_set.KEY) or "")
        except golden_set.GoldenSetInvalid as error:
            self.log.warning(
                "No golden question is asked, since the set has changed for the worse: %s", error
            )
            return []
        report = self.pull(context, self.evaluation_task_id, EvaluationResult).to_xcom()
        return live_questions.chosen(known, report, plan.policy.bake.questions)

    def _ask(self, context: Context, plan: Retraining) -> None:
        """Ask the service, and say in the status why it has to be taken back; the reconciler does that."""
        live = self.cluster.find(WORKSPACE, plan.workspace, plan.namespace)
        wanted, rows = plan.policy.evaluation, self._questions(context, plan)
        if live is None or wanted is None or not rows:
            return
        percent = float(retraining.canary(live.get("status"), plan.generation).get("percent") or 0.0)
        why = live_questions.breach(
            golden_questions.ask(self.cluster, as_written(live), rows, wanted.max_tokens, percent)
        )
        if not why:
            return
        self.log.warning("Version %s is to be taken back: %s", plan.version, why)

        def edit(status: dict[str, Any]) -> dict[str, Any]:
            known = retraining.of(status)
            found = known.get("promotion") or {}
            if found.get("version") != plan.version:
                return status
            return retraining.with_retrain(status, {**known, "promotion": {**found, "breach": why}})

        self.change(plan.workspace, plan.namespace, plan.uid, edit)


def _with_the_first(history: Sequence[Mapping[str, Any]], status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The history with the adapter of the Workspace's own tuning in it, so that there is a way back to it."""
    adapter = status.get("adapter") or {}
    if not adapter.get("digest") or any(one.get("digest") == adapter["digest"] for one in history):
        return [dict(one) for one in history]
    told = condition(status, ConditionType.ADAPTER_PUBLISHED) or {}
    first = {
        "version": versions.ORIGINAL,
        "state": State.PROMOTED,
        "promotedAt": told.get("lastTransitionTime"),
        **adapter,
    }
    return [first, *(dict(one) for one in history)]
