"""The first step of a tuning, in a pod on a CPU node: what it needs on the volume, and its dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include import manifests
from include.contracts import dataset_samples
from include.contracts.results import DatasetResult
from include.workspace.status import conditions
from kaito.hooks.api import CONFIG_MAP, NETWORK_POLICY, SECRET, VOLUME_CLAIM
from kaito.operators import kept_adapter
from kaito.operators.workload import WAITING, WorkloadPodOperator
from kaito.settings import manifest_settings, step_timeout
from kaito.tasks import work_volume
from kaito.tasks.base import Run
from kaito.tasks.links import DataReportLink, WorkspaceLink
from kaito.tasks.preflight_result import Trained

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.planning import Plan
    from include.workspace import Workspace
    from kaito.hooks.kubernetes import KaitoClusterHook


def apply_config(cluster: KaitoClusterHook, run: Run, plan: Plan) -> None:
    """Write the training config that the run's pods read: the user's as it is now, or the method's own.

    :raises AirflowFailException: the user's ConfigMap was deleted since the preflight.
    """
    given = kept_adapter.config_text(cluster, run.document)
    cluster.apply(CONFIG_MAP, manifests.tuning_config(run.workspace, plan, given))


class FetchDatasetOperator(WorkloadPodOperator[DatasetResult]):
    """Downloads and checks the dataset on a CPU node, before any GPU is asked for."""

    BASE_CONTAINER_NAME = "dataset"
    operator_extra_links = (WorkspaceLink(), DataReportLink())
    result_type = DatasetResult
    # Rows of a user's data: only for the page, under Airflow's permission for XComs, and gone with the run.
    apart = (dataset_samples.KEY,)
    pending = conditions.Phase.DATASET_PENDING
    done = conditions.Phase.DATASET_READY
    failed = conditions.Phase.DATASET_FAILED

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"execution_timeout": step_timeout() + WAITING, **kwargs})

    def prepare(self, run: Run) -> None:
        self.cluster.get_or_create(VOLUME_CLAIM, manifests.work_volume(run.workspace, manifest_settings()))
        self.cluster.apply(NETWORK_POLICY, manifests.egress_policy(run.workspace, manifest_settings()))
        if identity := manifests.metadata_policy(run.workspace):
            self.cluster.apply(NETWORK_POLICY, identity)
        apply_config(self.cluster, run, run.tuning_plan)
        if secret := manifests.dataset_urls(self._with_urls(run)):
            self.cluster.get_or_create(SECRET, secret)

    def pod_manifest(self, run: Run, context: Context) -> dict[str, Any]:
        zones = work_volume.zones_to_write_in(self.cluster, run)
        workspace, settings = self._with_urls(run), manifest_settings()
        return manifests.dataset_pod(workspace, run.tuning_plan, settings, run.run_id, zones)

    def _with_urls(self, run: Run) -> Workspace:
        # XCom has no signed URLs: this is the one step that needs them, and it gives them to a Secret only.
        return Run(self.live_workspace(run), run.plan, None, run.run_id).workspace

    def made_before(self, trained: Trained) -> DatasetResult:
        return trained.dataset

    def finished(self, run: Run, result: DatasetResult) -> None:
        if told := kept_adapter.other_data(self.cluster, self.live_workspace(run), result):
            raise self._verdict(run, told)
        super().finished(run, result)

    def summary(self, result: DatasetResult) -> str:
        said = [result.sentence or f"{result.rows} rows", *(result.findings or ())]
        return f"Dataset ready: {'; '.join(said)}; digest {result.digest}"
