"""The last step of a tuning, in a pod on a CPU node: the adapter becomes an image, which says where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from include import manifests
from include.workspace.api import names
from include.workspace.status import conditions
from include.workspace.status.kept_adapter import State
from kaito.operators import kept_adapter
from kaito.operators.workload import WAITING, WorkloadPodOperator
from kaito.settings import manifest_settings, step_timeout
from kaito.tasks.base import Run

if TYPE_CHECKING:
    from airflow.sdk import Context


def provenance(run: Run, dataset: Mapping[str, Any], tuning: Mapping[str, Any]) -> dict[str, str]:
    """Return what the adapter image says of its origin, as annotations of its manifest; unknown parts are left out."""
    plan = run.tuning_plan
    known = {
        "base.model": plan.model_id,
        "base.revision": plan.revision,
        "dataset.digest": dataset.get("digest"),
        "dataset.rows": dataset.get("rows"),
        "tuning.method": plan.method,
        "tuning.config-sha256": tuning.get("config_sha256"),
        "tuning.steps": tuning.get("steps"),
        "tuning.loss": tuning.get("loss_last"),
        "tuning.device": tuning.get("device"),
        "tuning.from": tuning.get("from"),
        "run-id": (run.trained or {}).get("run", run.run_id),
        "workspace": f"{run.namespace}/{run.name}",
    }
    return {f"sh.kaito.{key}": str(value) for key, value in known.items() if value is not None}


class PublishAdapterOperator(WorkloadPodOperator):
    """Pushes the adapter as an OCI image and returns its digest.

    :param dataset_task_id: the task whose result says what was learnt from.
    :param tuning_task_id: the task whose result says how.
    :param evaluation_task_id: the task whose result is the report that is pushed beside it; None for none.
    """

    BASE_CONTAINER_NAME = "adapter"
    pending = conditions.Phase.PUBLISHING
    working = conditions.Phase.PUBLISHING
    done = conditions.Phase.PUBLISHED
    failed = conditions.Phase.PUBLISH_FAILED

    def __init__(
        self,
        *,
        dataset_task_id: str,
        tuning_task_id: str,
        evaluation_task_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"execution_timeout": step_timeout() + WAITING, **kwargs})
        self.dataset_task_id = dataset_task_id
        self.tuning_task_id = tuning_task_id
        self.evaluation_task_id = evaluation_task_id

    def execute(self, context: Context) -> Any:
        run = self.this_run(context)
        self._check_the_volume(run)
        output = run.workspace.tuning.output if run.workspace.tuning else None
        if run.adapter is None and (output is None or output.image):
            return super().execute(context)
        result = run.adapter or {"volume": True}
        self.log.info("%s", self.summary(result))
        context["ti"].xcom_push(key="return_value", value=result)
        self.finished(run, result)
        return result

    def _check_the_volume(self, run: Run) -> None:
        """An adapter of an earlier run must still be the one that the preflight saw."""
        if run.adapter or not run.trained:
            return
        known = kept_adapter.seen(self.cluster, run.document)
        same = known is not None and (known.run, known.recipe) == (run.trained["run"], run.trained["recipe"])
        if known is None or not same or known.state is State.TRAINING:
            raise self._verdict(
                run,
                f"{self.task_id}: the adapter of run {run.trained['run']} is no longer on the work volume; set "
                f"{names.RERUN} to a new value to train again.",
            )

    def pod_manifest(self, run: Run, context: Context) -> dict[str, Any]:
        pull = context["ti"].xcom_pull
        tuned = pull(task_ids=self.tuning_task_id) or {}
        made = provenance(run, pull(task_ids=self.dataset_task_id) or {}, tuned)
        weights = (tuned.get("adapter") or {}).get("sha256")
        measured = (pull(task_ids=self.evaluation_task_id) or {}) if self.evaluation_task_id else {}
        report = (measured["report"], measured["report_digest"]) if measured.get("report") else None
        return manifests.adapter_pod(
            run.workspace, run.tuning_plan, manifest_settings(), run.run_id, made, weights, report
        )

    def summary(self, result: dict[str, Any]) -> str:
        return (
            "The adapter is on its output volume."
            if result.get("volume")
            else f"Adapter: {result.get('reference')}"
        )

    def finished(self, run: Run, result: dict[str, Any]) -> None:
        self.report(run, self.done, self.summary(result), adapter=None if result.get("volume") else result)
        if run.serving_plan is None:
            self.report(run, conditions.Phase.SUCCEEDED, self.summary(result))
