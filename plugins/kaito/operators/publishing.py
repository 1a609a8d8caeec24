"""The last step of a tuning, in a pod on a CPU node: the adapter becomes an image, which says where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include import manifests
from include.contracts.results import DatasetResult, EvaluationResult, PublishedAdapter, TuningResult
from include.retraining.versions import ORIGINAL
from include.workspace.api import names
from include.workspace.status import conditions
from include.workspace.status.kept_adapter import State
from kaito import assets
from kaito.operators import kept_adapter
from kaito.operators.workload import WAITING, WorkloadPodOperator
from kaito.settings import manifest_settings, step_timeout
from kaito.tasks.base import Run
from kaito.tasks.links import AdapterLink, WorkspaceLink
from kaito.tasks.open_lineage import LineageTask, adapter_place, dataset_places

if TYPE_CHECKING:
    from airflow.sdk import Context


def provenance(run: Run, dataset: DatasetResult, tuning: TuningResult) -> dict[str, str]:
    """Return what the adapter image says of its origin, as annotations of its manifest; unknown parts are left out."""
    plan = run.tuning_plan
    known = {
        "base.model": plan.model_id,
        "base.revision": plan.revision,
        "dataset.digest": dataset.digest,
        "dataset.rows": dataset.rows,
        "tuning.method": plan.method,
        "tuning.objective": tuning.objective,
        "tuning.reward-margin": tuning.reward_margin,
        "tuning.reward-accuracy": tuning.reward_accuracy,
        "tuning.config-sha256": tuning.config_sha256,
        "tuning.steps": tuning.steps,
        "tuning.loss": tuning.loss_last,
        "tuning.device": tuning.device,
        "tuning.from": tuning.origin,
        "run-id": run.trained.run if run.trained else run.run_id,
        "workspace": f"{run.namespace}/{run.name}",
    }
    return {f"sh.kaito.{key}": str(value) for key, value in known.items() if value is not None}


class PublishAdapterOperator(LineageTask, WorkloadPodOperator[PublishedAdapter]):
    """Pushes the adapter as an OCI image and returns its digest.

    With the outlet `assets.ADAPTERS`, what was pushed is an event of the Workspace's asset.

    :param dataset_task_id: the task whose result says what was learnt from.
    :param tuning_task_id: the task whose result says how.
    :param evaluation_task_id: the task whose result is the report that is pushed beside it; None for none.
    """

    BASE_CONTAINER_NAME = "adapter"
    operator_extra_links = (WorkspaceLink(), AdapterLink())
    result_type = PublishedAdapter
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
        self._learnt_from: str | None = None
        self._rows: int | None = None

    def execute(self, context: Context) -> Any:
        run = self.this_run(context)
        self._look_up_the_dataset(context)
        self._check_the_volume(run)
        output = run.workspace.tuning.output if run.workspace.tuning else None
        if run.adapter is None and (output is None or output.image):
            return self._told(context, super().execute(context))
        result = run.adapter or PublishedAdapter(volume=True)
        self.log.info("%s", self.summary(result))
        self.finished(run, result)
        return result.to_xcom()

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        """Come back when the pod has ended."""
        self._look_up_the_dataset(context)
        return self._told(context, super().trigger_reentry(context, event))

    def _told(self, context: Context, value: Any) -> Any:
        """Tell the DAGs that follow the adapters of this Workspace, and return what was pushed."""
        pushed = PublishedAdapter.read(value)
        if pushed.digest and assets.ADAPTERS in self.outlets:
            run = self.this_run(context)
            extra = {**pushed.to_xcom(), "version": ORIGINAL, "run": context["run_id"]}
            extra |= {"dataset": self._learnt_from, "metrics": {}, "verdict": None}
            outlets = context["outlet_events"]
            outlets[assets.ADAPTERS].add(assets.adapter(run.namespace, run.name), extra=extra)
        return value

    def _look_up_the_dataset(self, context: Context) -> None:
        fetched = DatasetResult.read(context["ti"].xcom_pull(task_ids=self.dataset_task_id))
        self._learnt_from, self._rows = fetched.digest, fetched.rows

    def _check_the_volume(self, run: Run) -> None:
        """An adapter of an earlier run must still be the one that the preflight saw."""
        if run.adapter or not run.trained:
            return
        known = kept_adapter.seen(self.cluster, run.document)
        same = known is not None and (known.run, known.recipe) == (run.trained.run, run.trained.recipe)
        if known is None or not same or known.state is State.TRAINING:
            raise self._verdict(
                run,
                f"{self.task_id}: the adapter of run {run.trained.run} is no longer on the work volume; set "
                f"{names.RERUN} to a new value to train again.",
            )

    def pod_manifest(self, run: Run, context: Context) -> dict[str, Any]:
        pull = context["ti"].xcom_pull
        tuned = TuningResult.read(pull(task_ids=self.tuning_task_id))
        made = provenance(run, DatasetResult.read(pull(task_ids=self.dataset_task_id)), tuned)
        weights = tuned.adapter.sha256 if tuned.adapter else None
        measured = EvaluationResult.read(
            pull(task_ids=self.evaluation_task_id) if self.evaluation_task_id else None
        )
        report = (
            (measured.report, measured.report_digest) if measured.report and measured.report_digest else None
        )
        return manifests.adapter_pod(
            run.workspace, run.tuning_plan, manifest_settings(), run.run_id, made, weights, report
        )

    def summary(self, result: PublishedAdapter) -> str:
        return "The adapter is on its output volume." if result.volume else f"Adapter: {result.reference}"

    def finished(self, run: Run, result: PublishedAdapter) -> None:
        adapter = None if result.volume else result.to_xcom()
        if adapter:
            data = dataset_places(run.document, self._learnt_from)
            self.tell_lineage(data, adapter_place(result.image, result.digest))
            if self._learnt_from:
                adapter["dataset"] = {"digest": self._learnt_from, "rows": self._rows}
        self.report(run, self.done, self.summary(result), adapter=adapter)
        if run.serving_plan is None:
            self.report(run, conditions.Phase.SUCCEEDED, self.summary(result))
