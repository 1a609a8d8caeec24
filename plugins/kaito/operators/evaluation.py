"""The step that evaluates a tuned adapter, on the machines that tuned it and before these are released.

It measures, and judges nothing: what becomes of the candidate is the gate's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from include import manifests
from include.contracts import golden_set
from include.contracts.evaluation import Metric, Subject, Summary
from include.contracts.evaluation_policy import EvaluationPolicy, GoldenSource
from include.contracts.results import DatasetResult, EvaluationResult, TuningResult
from include.contracts.yaml_documents.reader import decode
from include.workspace.api import names
from include.workspace.status import conditions
from kaito.hooks.api import CONFIG_MAP
from kaito.operators.workload import WAITING, WorkloadPodOperator
from kaito.settings import manifest_settings, step_timeout
from kaito.tasks import golden_sets
from kaito.tasks.base import Run

if TYPE_CHECKING:
    from airflow.sdk import Context


class EvaluateOperator(WorkloadPodOperator[EvaluationResult]):
    """Measures base model, current and candidate adapter; returns the report's summary, at most 4 KiB.

    Returns {} where the policy wants no evaluation: no pod is made then. Such as
    ``Summary.from_json(ti.xcom_pull(task_ids="evaluate"))`` reads it.

    :param plan_task_id: the task whose result has ``policy``, and in it ``evaluation``.
    :param tuning_task_id: the task whose result says which adapter was made, and from which rows.
    :param dataset_task_id: the task whose result says which dataset that is.
    """

    BASE_CONTAINER_NAME = "evaluation"
    result_type = EvaluationResult
    holds_machines = True
    working = conditions.Phase.TUNING
    done = conditions.Phase.TUNING
    failed = conditions.Phase.TUNING_FAILED
    out_of_memory = (
        "killed for lack of memory (OOMKilled). A lower maxTokens in the policy's evaluation or a larger machine type "
        "helps; the same attempt again does not."
    )

    def __init__(
        self,
        *,
        plan_task_id: str = "plan_candidate",
        tuning_task_id: str = "tune",
        dataset_task_id: str = "fetch_dataset",
        execution_timeout: timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(execution_timeout=execution_timeout or step_timeout() + WAITING, **kwargs)
        self.plan_task_id = plan_task_id
        self.tuning_task_id = tuning_task_id
        self.dataset_task_id = dataset_task_id
        self._policy: EvaluationPolicy | None = None

    def execute(self, context: Context) -> Any:
        planned = context["ti"].xcom_pull(task_ids=self.plan_task_id) or {}
        self._policy = policy_of(planned)
        if self._policy is None:
            self.log.info("The policy wants no evaluation: nothing to do.")
            return {}
        return super().execute(context)

    def prepare(self, run: Run) -> None:
        if self._policy is not None and self._policy.golden_set:
            self._bring_golden_set(run, self._policy.golden_set)

    def _bring_golden_set(self, run: Run, source: GoldenSource) -> None:
        """It may have changed since the preflight, and a pod would say so on a machine that is paid for."""
        try:
            text = golden_sets.text_of(self.cluster, source, run.namespace)
        except golden_sets.GoldenSetNotRead as error:
            raise self._verdict(run, f"{self.task_id}: the golden set ({source}) {error}") from None
        if text is None:
            raise self._verdict(
                run,
                f"{self.task_id}: {source} does not exist, or has no key {golden_set.KEY}: the golden set.",
            )
        try:
            golden_set.read(text)
        except golden_set.GoldenSetInvalid as error:
            raise self._verdict(
                run, f"{self.task_id}: the golden set ({source}) cannot be used: {error}"
            ) from None
        if not source.config_map:
            copy = text if isinstance(text, str) else decode(text)
            self.cluster.apply(CONFIG_MAP, manifests.golden_copy(run.workspace, copy))

    def pod_manifest(self, run: Run, context: Context) -> dict[str, Any]:
        if self._policy is None:
            raise AirflowFailException(f"Task {self.plan_task_id} left no policy: clear it.")
        pull = context["ti"].xcom_pull
        tuned = TuningResult.read(pull(task_ids=self.tuning_task_id))
        evaluated = manifests.Evaluated(
            current=run.workspace.annotations.get(names.RETRAIN_CURRENT),
            weights_sha256=tuned.adapter.sha256 if tuned.adapter else None,
            trained_digest=tuned.trained_rows_digest,
            dataset_digest=DatasetResult.read(pull(task_ids=self.dataset_task_id)).digest,
        )
        return manifests.evaluation_pod(
            run.workspace, run.tuning_plan, manifest_settings(), run.run_id, self._policy, evaluated
        )

    def summary(self, result: EvaluationResult) -> str:
        return f"Evaluated: {sentence(result.to_xcom())}"


def policy_of(planned: Mapping[str, Any]) -> EvaluationPolicy | None:
    """Return what the plan's policy says of the evaluation; None for none."""
    given = (planned.get("policy") or {}).get("evaluation")
    return None if given is None else EvaluationPolicy.model_validate(given)


def sentence(result: Mapping[str, Any]) -> str:
    """Return the numbers that matter most, of the candidate beside those of what it would replace."""
    try:
        found = Summary.from_json(result)
    except ValueError:
        return "without a readable report"
    parts = []
    for metric in (Metric.GOLDEN, Metric.PERPLEXITY, Metric.P50_TTFT):
        known = [
            f"{subject} {interval.value:.3g}"
            for subject in (Subject.CANDIDATE, Subject.CURRENT, Subject.BASE)
            if (interval := found.metrics.get(subject, {}).get(metric))
        ]
        if known:
            parts.append(f"{metric}: {', '.join(known)}")
    return "; ".join(parts) or "nothing measured"
