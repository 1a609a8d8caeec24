"""Going on from what is there: a service is brought back, and a run that Airflow forgot does not begin anew."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from airflow.triggers.base import TaskSuccessEvent
from kaito.hooks.api import CRD, POD, SERVICE, STATEFUL_SET
from kaito.operators.dataset import FetchDatasetOperator
from kaito.operators.finish import FinishOperator
from kaito.operators.pool import CreateGpuPoolOperator
from kaito.operators.publishing import PublishAdapterOperator
from kaito.operators.rollout import RollOutOperator
from kaito.operators.tuning import TuneOperator
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.triggers import base

from include.workspace import workspace_crd
from include.workspace.status import conditions
from include.workspace.status.adapter import published
from tests.support.fake_cluster import RUN_ID, FakeCalls, FakeCluster
from tests.support.tasks import preflight, release
from tests.support.triggers import ending, in_run

NAME = "workspace-tuning-phi-3"
ADAPTER = {"image": "r/a:1", "digest": "sha256:1", "reference": "r/a@sha256:1"}
BY_NAME = {"workspace": {"metadata": {"name": NAME}}}


@pytest.fixture
def adapter_published(cluster: FakeCluster, workspace: dict[str, Any]) -> dict[str, Any]:
    """The Workspace after its run has published the adapter."""
    definition = workspace_crd()
    definition["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
    cluster.add(CRD, definition)
    stored = cluster.objects["workspaces", "default", NAME]
    now = datetime.now(UTC)
    for phase, more in ((conditions.Phase.ACCEPTED, {}), (conditions.Phase.PUBLISHED, {"adapter": ADAPTER})):
        stored["status"] = conditions.progress(stored, phase, message="m", now=now, **more)
    return stored


def runs(stored: dict[str, Any], run_id: str = RUN_ID) -> None:
    """Record the run as the reconciler does."""
    stored["status"]["run"] = {"id": run_id, "generation": 1}


def test_only_this_generations_adapter_counts(adapter_published: dict[str, Any]) -> None:
    assert published(adapter_published) == ADAPTER
    newer = copy.deepcopy(adapter_published)
    newer["metadata"]["generation"] = 2
    assert published(newer) is None
    without = copy.deepcopy(adapter_published)
    del without["status"]["adapter"]
    assert published(without) is None
    without["tuning"]["output"] = {"volumeSource": {"emptyDir": {}}}
    assert published(without) == {"volume": True}


class TestAForgottenRun:
    """Airflow lost its database, and the reconciler starts the run of the same id again."""

    def test_it_keeps_what_it_reached(self, cluster: FakeCluster, adapter_published: dict[str, Any]) -> None:
        runs(adapter_published)
        assert preflight(cluster, BY_NAME)["adapter"] == ADAPTER
        assert cluster.condition(NAME, "AdapterPublished")["status"] == "True"
        assert adapter_published["status"]["adapter"] == ADAPTER

    @pytest.mark.parametrize("other", [RUN_ID + ".r2", ""])
    def test_another_run_begins_anew(
        self, cluster: FakeCluster, adapter_published: dict[str, Any], other: str
    ) -> None:
        runs(adapter_published, other)
        assert "adapter" not in preflight(cluster, BY_NAME)
        assert cluster.condition(NAME, "AdapterPublished")["status"] == "False"

    def test_a_run_that_is_over_and_started_again_begins_anew(
        self, cluster: FakeCluster, adapter_published: dict[str, Any]
    ) -> None:
        runs(adapter_published)
        failed = conditions.Phase.INFERENCE_FAILED
        told = conditions.progress(adapter_published, failed, message="m", now=datetime.now(UTC))
        adapter_published["status"] = told
        assert "adapter" not in preflight(cluster, BY_NAME)

    def test_the_first_start_is_told_to_the_author(
        self, cluster: FakeCluster, adapter_published: dict[str, Any]
    ) -> None:
        """The reconciler has recorded the run and accepted the Workspace; nothing is reached yet."""
        bare = {**adapter_published, "status": {}}
        accepted = conditions.Phase.ACCEPTED
        adapter_published["status"] = conditions.progress(bare, accepted, message="m", now=datetime.now(UTC))
        runs(adapter_published)
        preflight(cluster, BY_NAME)
        assert "Standard_NC6s_v3" in cluster.condition(NAME, "WorkspaceSucceeded")["message"]

    def test_it_neither_fetches_nor_tunes_nor_pushes_again(
        self, cluster: FakeCluster, adapter_published: dict[str, Any], context: dict[str, Any]
    ) -> None:
        runs(adapter_published)
        context["ti"].xcoms["preflight"] = preflight(cluster, BY_NAME)
        steps = [
            FetchDatasetOperator(task_id="fetch_dataset"),
            CreateGpuPoolOperator(task_id="create_gpu_pool", purpose="tuning"),
            TuneOperator(task_id="tune"),
            PublishAdapterOperator(
                task_id="publish_adapter", dataset_task_id="fetch_dataset", tuning_task_id="tune"
            ),
        ]
        before = list(cluster.writes)
        for step in steps:
            step.cluster = cluster
            last = step.execute(context)
        assert last == ADAPTER
        assert cluster.writes == before

    async def test_it_waits_for_no_tuning_machines(
        self, cluster: FakeCluster, adapter_published: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(base, "AsyncKaitoClusterHook", lambda conn_id: FakeCalls(cluster))
        before = copy.deepcopy(adapter_published["status"])
        assert isinstance(await ending(in_run(RUN_ID)), TaskSuccessEvent)
        assert adapter_published["status"] == before, "machines that nobody has are not reported as ready"


def roll_out(cluster: FakeCluster) -> RollOutOperator:
    operator = RollOutOperator(task_id="roll_out")
    operator.cluster = cluster
    return operator


class TestTheServiceOfATuning:
    """kaito_serve brings back what kaito_tune rolled out."""

    def test_it_is_planned_as_a_service(
        self, cluster: FakeCluster, adapter_published: dict[str, Any]
    ) -> None:
        result = preflight(cluster, BY_NAME, "serving")
        assert result["plan"] == result["serving_plan"]
        assert result["plan"]["purpose"] == "serving"

    def test_without_an_adapter_it_is_refused(self, cluster: FakeCluster, adapter_published: Any) -> None:
        adapter_published["status"] = {}
        with pytest.raises(AirflowFailException, match="published no adapter to serve yet"):
            preflight(cluster, BY_NAME, "serving")

    def test_without_a_rollout_it_is_refused(self, cluster: FakeCluster, adapter_published: Any) -> None:
        adapter_published["metadata"]["annotations"] = {"kaito.sh/rollout": "false"}
        with pytest.raises(AirflowFailException, match="start kaito_tune instead"):
            preflight(cluster, BY_NAME, "serving")

    def test_the_adapter_comes_from_the_status_by_digest(
        self, cluster: FakeCluster, adapter_published: dict[str, Any], context: dict[str, Any]
    ) -> None:
        assert roll_out(cluster).execute(context)["adapters"] == [
            {"name": NAME, "image": ADAPTER["reference"]}
        ]
        assert cluster.find(SERVICE, NAME, "default")

    def test_nothing_to_serve_is_said(self, cluster: FakeCluster, context: dict[str, Any]) -> None:
        with pytest.raises(AirflowFailException, match="no adapter to serve"):
            roll_out(cluster).execute(context)


def run_label(cluster: FakeCluster) -> str:
    template = cluster.find(STATEFUL_SET, NAME, "default")["spec"]["template"]
    return str(template["metadata"]["labels"]["kaito.sh/run-id"])


class TestRepair:
    def test_pods_that_are_what_is_wanted_stay(
        self, cluster: FakeCluster, adapter_published: dict[str, Any], context: dict[str, Any]
    ) -> None:
        """The run's label is in the pod template: another one would replace every pod."""
        roll_out(cluster).execute(context)
        roll_out(cluster).execute({**context, "run_id": RUN_ID + ".r2"})
        assert run_label(cluster) == RUN_ID
        found = cluster.find(STATEFUL_SET, NAME, "default")
        assert found["metadata"]["labels"]["kaito.sh/run-id"] == RUN_ID + ".r2"

    def test_another_adapter_rolls_where_no_sidecar_changes_it(
        self,
        cluster: FakeCluster,
        adapter_published: dict[str, Any],
        context: dict[str, Any],
    ) -> None:
        context["ti"].xcoms["preflight"]["serving_plan"]["node_count"] = 2
        roll_out(cluster).execute(context)
        adapter_published["status"]["adapter"]["reference"] = "r/a@sha256:2"
        roll_out(cluster).execute({**context, "run_id": RUN_ID + ".r2"})
        assert run_label(cluster) == RUN_ID + ".r2"

    def test_a_missing_machine_is_made_and_the_others_stay(
        self, cluster: FakeCluster, context: dict[str, Any]
    ) -> None:
        plan = context["ti"].xcoms["preflight"]["serving_plan"]
        plan["node_count"] = 2
        create = CreateGpuPoolOperator(task_id="create_gpu_pool", purpose="serving")
        create.cluster = cluster
        both = create.execute(context)["made"]
        cluster.objects.pop(("nodeclaims", "", both[0]))
        assert create.execute({**context, "run_id": RUN_ID + ".r2"})["made"] == [both[0]]

    def test_a_repair_that_fails_leaves_a_service_that_answers(
        self, cluster: FakeCluster, context: dict[str, Any]
    ) -> None:
        create = CreateGpuPoolOperator(task_id="create_gpu_pool", purpose="serving")
        create.cluster = cluster
        create.execute(context)
        labels = {"kaito.sh/run-id": RUN_ID}
        cluster.add(
            STATEFUL_SET, {"metadata": {"name": NAME, "labels": labels}, "status": {"readyReplicas": 1}}
        )
        context["ti"].states = {"serve.ask": "failed"}
        release(cluster, "serving", keep="serve.ask").execute(context)
        assert len(cluster.list(NODE_CLAIM)) == len(cluster.list(STATEFUL_SET)) == 1


def test_a_run_that_ends_badly_leaves_no_pod_of_its_own(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    common = {"kaito.sh/workspace": NAME, "kaito.sh/workspacenamespace": "default"}
    for name, run, component in (
        ("mine", RUN_ID, "tuning"),
        ("service", RUN_ID, "serving"),
        ("theirs", "other", "tuning"),
    ):
        labels = {**common, "kaito.sh/run-id": run, "kaito.sh/component": component}
        cluster.add(POD, {"metadata": {"name": name, "namespace": "default", "labels": labels}})
    operator = FinishOperator(task_id="finish", needed=["publish_adapter"])
    operator.cluster = cluster
    context["ti"].states = {"tune": "failed"}
    with pytest.raises(AirflowFailException):
        operator.execute(context)
    assert cluster.deleted == [("pods", "mine")]
