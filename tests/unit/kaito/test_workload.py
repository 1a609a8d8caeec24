"""The pods of a run: the exit code decides, the pod's own sentence is the error, results travel as small dicts."""

from __future__ import annotations

import base64
import json
import logging
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from kaito import assets
from kaito.hooks.api import CONFIG_MAP, POD, ClusterError
from kaito.hooks.api import EVENT as KUBERNETES_EVENT
from kaito.operators.dataset import FetchDatasetOperator
from kaito.operators.publishing import PublishAdapterOperator, provenance
from kaito.operators.tuning import TuneOperator
from kaito.operators.workload import WorkloadPodOperator
from kaito.tasks import base
from kaito.tasks.base import Run
from kaito.tasks.preflight_result import PreflightResult
from kaito.triggers.workload import STUCK, SUPERSEDED, WorkloadPodTrigger
from kubernetes.client.exceptions import ApiException

from include.contracts.results import DatasetResult, TuningResult
from include.workspace.status.conditions import Phase
from tests.support.fake_cluster import RUN_ID, FakeCluster
from tests.support.workload_pods import EVENT, NAME, ended_pod, have_machine, started


@pytest.fixture
def tune(cluster: FakeCluster) -> TuneOperator:
    operator = TuneOperator(task_id="tune")
    operator.cluster = cluster
    return operator


def test_the_termination_message_is_the_result(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any], cluster: FakeCluster
) -> None:
    comes_back(tune, ended_pod(0, json.dumps({"steps": 3, "loss_first": 2.0, "loss_last": 0.5})))
    assert tune.trigger_reentry(context, EVENT)["steps"] == 3
    assert context["ti"].xcoms["pushed:return_value"]["loss_last"] == 0.5
    assert cluster.condition(NAME, "JobStarted")["message"] == "Tuned in 3 steps, loss 2.0 to 0.5"


def test_rows_that_were_dropped_or_cut_stand_in_the_condition(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any], cluster: FakeCluster
) -> None:
    fetch = FetchDatasetOperator(task_id="fetch_dataset")
    fetch.cluster = cluster
    said = "2 of 8 rows used: 6 x text is empty"
    found = {
        "rows": 2,
        "sentence": said,
        "digest": "sha256:0",
        "findings": ["1 of 2 rows repeat an earlier row"],
    }
    comes_back(fetch, ended_pod(0, json.dumps(found)))
    fetch.trigger_reentry(context, EVENT)
    message = f"Dataset ready: {said}; 1 of 2 rows repeat an earlier row; digest sha256:0"
    assert cluster.condition(NAME, "DatasetReady")["message"] == message
    cut = "3 of 8 rows cut to 512 tokens"
    result = {
        "steps": 3,
        "loss_first": 2.0,
        "loss_last": 0.5,
        "data": cut,
        "memory": "Memory ran out before.",
    }
    comes_back(tune, ended_pod(0, json.dumps(result)))
    tune.trigger_reentry(context, EVENT)
    assert cluster.condition(NAME, "JobStarted")["message"] == (
        f"Tuned in 3 steps, loss 2.0 to 0.5; {cut}; Memory ran out before"
    )


def test_rows_of_a_dataset_are_an_xcom_of_their_own_and_in_no_log(
    comes_back: Any, context: dict[str, Any], cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    fetch = FetchDatasetOperator(task_id="fetch_dataset")
    fetch.cluster = cluster
    rows = [[["Who is Anna Example?", False], ["A customer.", True]]]
    comes_back(fetch, ended_pod(0, json.dumps({"rows": 2, "digest": "sha256:0", "samples": rows})))
    with caplog.at_level(logging.INFO):
        assert "samples" not in fetch.trigger_reentry(context, EVENT)
    assert context["ti"].xcoms["pushed:samples"] == rows
    assert context["ti"].xcoms["pushed:return_value"] == {"rows": 2, "digest": "sha256:0"}
    assert "Anna Example" not in caplog.text
    assert "Anna Example" not in json.dumps(cluster.objects["workspaces", "default", NAME])


@pytest.mark.parametrize("exit_code", [64, 65])
def test_an_error_of_the_author_is_final_and_said_in_the_pods_words(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any], cluster: FakeCluster, exit_code: int
) -> None:
    said = json.dumps({"error": "lora r must be positive, not -1", "class": "config"})
    comes_back(tune, ended_pod(exit_code, said), AirflowException("Pod returned a failure: " + "x" * 999))
    with pytest.raises(AirflowFailException, match="lora r must be positive, not -1"):
        tune.trigger_reentry(context, {**EVENT, "status": "failed"})
    assert cluster.condition(NAME, "JobStarted")["reason"] == "WorkspaceTuningJobStatusFailed"
    told = cluster.condition(NAME, "WorkspaceSucceeded")["message"]
    assert told.startswith("lora r must be positive, not -1. Next: ")
    assert "kaito.sh/rerun" in told


@pytest.mark.parametrize("exit_code", [75, 1, 137])
def test_anything_else_is_tried_again(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any], exit_code: int
) -> None:
    comes_back(tune, ended_pod(exit_code, "not json"), AirflowException("pod failed"))
    with pytest.raises(AirflowException, match=f"exit code {exit_code}") as failed:
        tune.trigger_reentry(context, {**EVENT, "status": "failed"})
    assert not isinstance(failed.value, AirflowFailException)


@pytest.mark.parametrize(("tried", "reason"), [(1, "workspacePending"), (3, "workspaceFailed")])
def test_a_workspace_has_not_failed_while_its_step_is_tried_again(
    tune: TuneOperator,
    comes_back: Any,
    context: dict[str, Any],
    cluster: FakeCluster,
    tried: int,
    reason: str,
) -> None:
    context["ti"].try_number, context["ti"].max_tries = tried, 2
    comes_back(tune, ended_pod(137, "The node went away"), AirflowException("pod failed"))
    with pytest.raises(AirflowException):
        tune.trigger_reentry(context, {**EVENT, "status": "failed"})
    assert cluster.condition(NAME, "JobStarted")["reason"] == "WorkspaceTuningJobStatusFailed"
    assert cluster.condition(NAME, "WorkspaceSucceeded")["reason"] == reason
    state = cluster.objects["workspaces", "default", NAME]["status"].get("state")
    assert (state == "Failed") == (tried == 3)
    told = cluster.condition(NAME, "WorkspaceSucceeded")["message"]
    assert told.endswith("; trying again") == (tried == 1)


@pytest.mark.parametrize("exit_code", [64, 65])
def test_a_fault_of_the_author_fails_the_workspace_at_the_first_try(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any], cluster: FakeCluster, exit_code: int
) -> None:
    context["ti"].try_number, context["ti"].max_tries = 1, 2
    comes_back(tune, ended_pod(exit_code, json.dumps({"error": "no"})), AirflowException("pod failed"))
    with pytest.raises(AirflowFailException):
        tune.trigger_reentry(context, {**EVENT, "status": "failed"})
    assert cluster.condition(NAME, "WorkspaceSucceeded")["reason"] == "workspaceFailed"


def test_lack_of_memory_is_not_tried_again(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any]
) -> None:
    comes_back(tune, ended_pod(137, reason="OOMKilled"), AirflowException("pod failed"))
    with pytest.raises(AirflowFailException, match="lack of memory"):
        tune.trigger_reentry(context, {**EVENT, "status": "failed"})


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (ended_pod(137, reason="OOMKilled"), r"OOMKilled.*memory_limit"),
        (ended_pod(137, pod_reason="DeadlineExceeded"), "not done within its time.*step_timeout_minutes"),
    ],
)
def test_a_step_that_met_its_pods_limit_names_the_setting_and_is_not_tried_again(
    cluster: FakeCluster, comes_back: Any, context: dict[str, Any], ended: Any, words: str
) -> None:
    fetch = FetchDatasetOperator(task_id="fetch_dataset")
    fetch.cluster = cluster
    comes_back(fetch, ended, AirflowException("pod failed"))
    with pytest.raises(AirflowFailException, match=words):
        fetch.trigger_reentry(context, {**EVENT, "status": "failed"})


@pytest.mark.parametrize("pod", [None, ended_pod(143, deleted="2026-11-23T00:00:00Z")])
def test_a_pod_that_somebody_deleted_is_an_order_to_stop(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any], cluster: FakeCluster, pod: Any
) -> None:
    have_machine(cluster)
    comes_back(tune, pod, AirflowException("not found"))
    with pytest.raises(AirflowFailException, match="the pod was deleted while it worked"):
        tune.trigger_reentry(context, {**EVENT, "status": "error"})


def test_an_evicted_pod_is_tried_again(tune: TuneOperator, comes_back: Any, context: dict[str, Any]) -> None:
    pod = ended_pod(143, deleted="2026-11-23T00:00:00Z", marks=["DisruptionTarget"])
    comes_back(tune, pod, AirflowException("evicted"))
    with pytest.raises(AirflowException) as failed:
        tune.trigger_reentry(context, {**EVENT, "status": "failed"})
    assert not isinstance(failed.value, AirflowFailException)


@pytest.mark.parametrize("pod", [None, ended_pod(143, deleted="2026-11-23T00:00:00Z")])
def test_a_pod_that_went_with_its_machine_is_tried_again(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any], pod: Any
) -> None:
    comes_back(tune, pod, AirflowException("not found"))
    with pytest.raises(AirflowException) as failed:
        tune.trigger_reentry(context, {**EVENT, "status": "error"})
    assert not isinstance(failed.value, AirflowFailException)


def test_waiting_again_is_no_failure(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any], cluster: FakeCluster
) -> None:
    comes_back(tune, ended_pod(0), TaskDeferred(trigger=None, method_name="trigger_reentry"))
    with pytest.raises(TaskDeferred):
        tune.trigger_reentry(context, EVENT)
    assert cluster.condition(NAME, "JobStarted") == {}


def test_work_that_is_done_is_not_done_again_because_its_pod_does_not_go(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any], cluster: FakeCluster
) -> None:
    comes_back(tune, ended_pod(0, json.dumps({"steps": 3})), ApiException(status=503, reason="no leader"))
    assert tune.trigger_reentry(context, dict(EVENT))["steps"] == 3
    told = cluster.objects["workspaces", "default", NAME]["status"]["conditions"]
    assert not [c for c in told if "no leader" in c["message"]]


def test_a_success_without_a_pod_to_read_is_not_a_result(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any]
) -> None:
    comes_back(tune, None)
    with pytest.raises(AirflowException):
        tune.trigger_reentry(context, EVENT)


def test_a_lost_status_write_does_not_hide_the_error(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any], cluster: FakeCluster
) -> None:
    cluster.objects.pop(("workspaces", "default", NAME))
    comes_back(tune, ended_pod(65, json.dumps({"error": "no rows"})), AirflowException("pod failed"))
    with pytest.raises(AirflowFailException, match="no rows"):
        tune.trigger_reentry(context, {**EVENT, "status": "failed"})


def test_the_dataset_pod_gets_the_signed_url_and_its_volume(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = FetchDatasetOperator(task_id="fetch_dataset")
    operator.cluster = cluster
    pod = started(operator, context, monkeypatch)
    assert "sig=" not in json.dumps(pod)
    environment = {e["name"]: e.get("valueFrom") for e in pod["spec"]["containers"][0]["env"]}
    reference = environment["DATASET_URLS"]["secretKeyRef"]
    secret = cluster.objects["secrets", "default", reference["name"]]
    content = base64.b64decode(secret["data"][reference["key"]]).decode()
    assert json.loads(content) == ["https://example.com/train.parquet?sig=SECRET"]
    assert secret["metadata"]["ownerReferences"][0]["kind"] == "Workspace"
    assert ("persistentvolumeclaims", f"{NAME}-work") in cluster.writes
    assert ("networkpolicies", f"{NAME}-tuning") in cluster.writes
    [config] = [volume["configMap"]["name"] for volume in pod["spec"]["volumes"] if "configMap" in volume]
    assert ("configmaps", config) in cluster.writes
    assert operator.log_pod_spec_on_failure is False
    assert ("networkpolicies", f"{NAME}-dataset-identity") not in cluster.writes


def test_a_dataset_that_an_identity_reads_may_ask_its_cloud_for_it(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = FetchDatasetOperator(task_id="fetch_dataset")
    operator.cluster = cluster
    run = operator.this_run(context)
    run.document["metadata"].setdefault("annotations", {})["kaito.sh/dataset-identity"] = "kaito-dataset"
    monkeypatch.setattr(operator, "this_run", lambda _: run)
    started(operator, context, monkeypatch)
    assert ("networkpolicies", f"{NAME}-dataset-identity") in cluster.writes


@pytest.mark.parametrize(
    "operator",
    [
        FetchDatasetOperator(task_id="fetch_dataset"),
        TuneOperator(task_id="tune"),
        PublishAdapterOperator(
            task_id="publish_adapter", dataset_task_id="fetch_dataset", tuning_task_id="tune"
        ),
    ],
)
def test_a_task_that_comes_back_knows_its_container(
    operator: WorkloadPodOperator, cluster: FakeCluster, context: dict[str, Any]
) -> None:
    """Logs and results are read in another process than the one that made the pod."""
    operator.cluster = cluster
    run = operator.this_run(context)
    assert (
        operator.pod_manifest(run, context)["spec"]["containers"][0]["name"] == operator.base_container_name
    )


def test_tuning_takes_the_authors_config(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    context["ti"].xcoms["preflight"]["workspace"]["tuning"]["config"] = "mine"
    cluster.add(CONFIG_MAP, {"metadata": {"name": "mine"}, "data": {"training_config.yaml": "mine: true"}})
    pod = started(tune, context, monkeypatch)
    assert cluster.find(CONFIG_MAP, f"{NAME}-g1-tuning")["data"] == {"training_config.yaml": "mine: true"}
    assert pod["metadata"]["labels"]["kaito.sh/component"] == "tuning"
    assert cluster.condition(NAME, "JobStarted")["reason"] == "WorkspaceTuningJobStatusPending"


def test_a_workspace_that_was_edited_stops_its_old_run(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any]
) -> None:
    cluster.objects["workspaces", "default", NAME]["metadata"]["generation"] = 2
    with pytest.raises(AirflowFailException, match="generation 2"):
        tune.execute(context)


def test_a_wait_that_found_its_workspace_superseded_stops_the_pod_and_writes_nothing(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any]
) -> None:
    mine = cluster.add(POD, {"metadata": {"name": "p", "labels": {"kaito.sh/run-id": RUN_ID}}})
    event = {**EVENT, "status": SUPERSEDED, "message": "superseded by generation 2"}
    with pytest.raises(AirflowFailException, match="superseded by generation 2"):
        tune.trigger_reentry(context, event)
    assert cluster.find(POD, "p") is None
    assert "status" not in cluster.objects["workspaces", "default", NAME]
    cluster.add(POD, {"metadata": {**mine["metadata"], "labels": {"kaito.sh/run-id": "another"}}})
    with pytest.raises(AirflowFailException):
        tune.trigger_reentry(context, event)
    assert cluster.find(POD, "p") is not None, "a pod of that name that is another run's"


@pytest.mark.parametrize("pod", [None, ended_pod(143, deleted="2026-11-23T00:00:00Z")])
def test_a_pod_that_was_deleted_for_a_newer_generation_says_so(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any], cluster: FakeCluster, pod: Any
) -> None:
    cluster.objects["workspaces", "default", NAME]["metadata"]["generation"] = 2
    comes_back(tune, pod, AirflowException("not found"))
    with pytest.raises(AirflowFailException, match="superseded by generation 2"):
        tune.trigger_reentry(context, {**EVENT, "status": "error"})


def test_an_api_server_that_is_away_is_waited_for(
    tune: TuneOperator,
    comes_back: Any,
    context: dict[str, Any],
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pod goes on meanwhile: to call it lost would end a training for a restart of the control plane."""
    monkeypatch.setattr(base, "API_AWAY_POLL", 0)
    find, away = cluster.find, [ClusterError(0, "ConnectionFailed", "refused")] * 3

    def sometimes(*which: Any) -> Any:
        if away:
            raise away.pop()
        return find(*which)

    monkeypatch.setattr(cluster, "find", sometimes)
    comes_back(tune, ended_pod(0, json.dumps({"steps": 3})))
    assert tune.trigger_reentry(context, {**EVENT, "status": "error"})["steps"] == 3
    assert away == [], "it was asked until it answered, before the provider asked it"


def test_a_verdict_waits_for_the_api_server_and_other_news_do_not(
    tune: TuneOperator, context: dict[str, Any], cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push whose digest was never told would leave a Workspace that failed "without telling its result"."""
    monkeypatch.setattr(base, "API_AWAY_POLL", 0)
    write, away = cluster.patch_status, [ClusterError(503, "ServiceUnavailable", "etcd has no leader")] * 3

    def sometimes(*which: Any, **fence: Any) -> Any:
        if away:
            raise away.pop()
        return write(*which, **fence)

    monkeypatch.setattr(cluster, "patch_status", sometimes)
    run = tune.this_run(context)
    tune.report(run, Phase.TUNING, "tuning")
    assert len(away) == 2, "news of what goes on are not worth a wait"
    tune.report(run, Phase.PUBLISHED, "pushed", adapter={"digest": "sha256:1"})
    assert away == []
    assert cluster.objects["workspaces", "default", NAME]["status"]["adapter"] == {"digest": "sha256:1"}


def test_a_verdict_that_is_refused_is_not_repeated(
    tune: TuneOperator, context: dict[str, Any], cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "API_AWAY_POLL", 0)
    asked: list[int] = []

    def refuse(*which: Any, **fence: Any) -> None:
        asked.append(1)
        raise ClusterError(403, "Forbidden", "no")

    monkeypatch.setattr(cluster, "patch_status", refuse)
    tune.report(tune.this_run(context), Phase.SUCCEEDED, "done")
    assert asked == [1]


def test_a_pod_that_was_not_seen_but_is_there_is_taken_up_by_the_next_try(
    tune: TuneOperator, comes_back: Any, context: dict[str, Any], cluster: FakeCluster
) -> None:
    cluster.add(POD, {"metadata": {"name": "p"}})
    comes_back(tune, None, AirflowException("connection reset"))
    with pytest.raises(AirflowException) as failed:
        tune.trigger_reentry(context, {**EVENT, "status": "error"})
    assert not isinstance(failed.value, AirflowFailException)


def test_the_wait_for_a_pod_is_fenced(
    tune: TuneOperator, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = SimpleNamespace(extra_dejson={})
    monkeypatch.setattr(BaseHook, "get_connection", lambda _: known)
    tune.hook = SimpleNamespace()
    context["ti"].start_date = datetime.now(UTC)
    tune.pod = pod_in("Pending")
    tune.pod.status.container_statuses = None
    with pytest.raises(TaskDeferred) as deferred:
        tune.invoke_defer_method(context=context)
    path, arguments = deferred.value.trigger.serialize()
    assert path == "kaito.triggers.workload.WorkloadPodTrigger"
    assert (arguments["workspace"], arguments["generation"], arguments["pod_name"]) == (NAME, 1, "p")
    assert WorkloadPodTrigger(**arguments).serialize() == (path, arguments)


@pytest.fixture
def publish(cluster: FakeCluster) -> PublishAdapterOperator:
    operator = PublishAdapterOperator(
        task_id="publish_adapter", dataset_task_id="fetch_dataset", tuning_task_id="tune"
    )
    operator.cluster = cluster
    return operator


def test_the_adapter_says_where_it_comes_from(
    publish: PublishAdapterOperator, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    context["ti"].xcoms |= {
        "fetch_dataset": {"digest": "sha256:d", "rows": 9},
        "tune": {"steps": 4, "loss_last": 0.1},
    }
    pod = started(publish, context, monkeypatch)
    environment = {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}
    annotations = json.loads(environment["ADAPTER_ANNOTATIONS"])
    assert annotations["sh.kaito.dataset.digest"] == "sha256:d"
    assert annotations["sh.kaito.tuning.steps"] == "4"
    assert annotations["sh.kaito.run-id"] == RUN_ID


def test_provenance_leaves_out_what_is_not_known(context: dict[str, Any]) -> None:
    run = Run.of(PreflightResult.from_xcom(context["ti"].xcoms["preflight"]), RUN_ID)
    assert "sh.kaito.tuning.loss" not in provenance(run, DatasetResult(), TuningResult())


def test_the_pushed_digest_reaches_the_status(
    publish: PublishAdapterOperator, comes_back: Any, context: dict[str, Any], cluster: FakeCluster
) -> None:
    pushed = {"image": "r/a:1", "digest": "sha256:1", "reference": "r/a@sha256:1"}
    comes_back(publish, ended_pod(0, json.dumps(pushed)))
    publish.trigger_reentry(context, EVENT)
    assert cluster.objects["workspaces", "default", NAME]["status"]["adapter"]["digest"] == "sha256:1"
    assert cluster.condition(NAME, "WorkspaceSucceeded") == {}, "the rollout is still to come"
    context["ti"].xcoms["preflight"]["serving_plan"] = None
    publish.trigger_reentry(context, EVENT)
    assert cluster.condition(NAME, "WorkspaceSucceeded")["status"] == "True"


def test_what_the_adapter_has_learnt_from_reaches_the_status_and_stays(
    publish: PublishAdapterOperator, comes_back: Any, context: dict[str, Any], cluster: FakeCluster
) -> None:
    context["ti"].xcoms["fetch_dataset"] = {"digest": "sha256:d", "rows": 9}
    for _ in range(2):
        comes_back(publish, ended_pod(0, json.dumps({"image": "r/a:1", "digest": "sha256:1"})))
        publish.trigger_reentry(context, EVENT)
        adapter = cluster.objects["workspaces", "default", NAME]["status"]["adapter"]
        assert adapter["dataset"] == {"digest": "sha256:d", "rows": 9}
        context["ti"].xcoms["fetch_dataset"] = {}  # of steps done again, the first ones have nothing to do
    comes_back(publish, ended_pod(0, json.dumps({"image": "r/a:1", "digest": "sha256:2"})))
    publish.trigger_reentry(context, EVENT)
    assert "dataset" not in cluster.objects["workspaces", "default", NAME]["status"]["adapter"]


@pytest.mark.parametrize("follows", [True, False])
def test_who_follows_the_adapters_is_told_of_the_first_one(
    publish: PublishAdapterOperator, comes_back: Any, context: dict[str, Any], follows: bool
) -> None:
    publish.outlets = [assets.ADAPTERS] if follows else []
    told: list[tuple[str, Any]] = []
    context["outlet_events"][assets.ADAPTERS].add = lambda asset, extra: told.append((asset.uri, extra))
    context["ti"].xcoms["fetch_dataset"] = {"digest": "sha256:d", "rows": 9}
    comes_back(publish, ended_pod(0, json.dumps({"image": "r/a:1", "digest": "sha256:1"})))
    publish.trigger_reentry(context, EVENT)
    assert [uri for uri, _ in told] == [f"x-kaito://adapters/default/{NAME}"] * follows
    for _, extra in told:
        assert (extra["digest"], extra["version"], extra["run"]) == ("sha256:1", "original", RUN_ID)
        assert extra["dataset"] == "sha256:d"


def test_an_adapter_for_a_volume_is_not_pushed(
    publish: PublishAdapterOperator, context: dict[str, Any], cluster: FakeCluster
) -> None:
    output = {"volumeSource": {"persistentVolumeClaim": {"claimName": "mine"}}}
    context["ti"].xcoms["preflight"]["workspace"]["tuning"]["output"] = output
    assert publish.execute(context) == {"volume": True}
    assert cluster.condition(NAME, "AdapterPublished")["status"] == "True"


class Deferred(Exception):
    """The provider's operator went on to its own deferral."""


@pytest.fixture
def defers(monkeypatch: pytest.MonkeyPatch) -> None:
    def go(self: Any, **_: Any) -> None:
        raise Deferred(getattr(self.pod.status, "phase", None))

    monkeypatch.setattr(KubernetesPodOperator, "invoke_defer_method", go)


def pod_in(phase: str) -> SimpleNamespace:
    return SimpleNamespace(
        metadata=SimpleNamespace(name="p", namespace="n"), status=SimpleNamespace(phase=phase)
    )


def fetch_that_sees(*phases: str) -> FetchDatasetOperator:
    operator, seen = FetchDatasetOperator(task_id="fetch_dataset"), list(phases)
    operator.pod = pod_in("Pending")
    hook = SimpleNamespace(get_pod=lambda name, namespace: pod_in(seen.pop(0) if len(seen) > 1 else seen[0]))
    operator.hook = hook
    return operator


@pytest.mark.parametrize("end", ["Succeeded", "Failed"])
def test_a_short_pod_never_goes_to_the_triggerer(defers: None, end: str) -> None:
    with pytest.raises(Deferred, match=end):
        fetch_that_sees("Pending", end).invoke_defer_method()


def test_a_long_pod_goes_to_the_triggerer_after_a_moment(
    defers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FetchDatasetOperator, "patience", 0.05)
    with pytest.raises(Deferred, match="Pending"):
        fetch_that_sees("Running").invoke_defer_method()


def test_tuning_goes_to_the_triggerer_at_once() -> None:
    assert TuneOperator.patience == 0


@pytest.mark.parametrize("lost", [False, True])
def test_a_pod_that_cannot_start_is_a_verdict_unless_its_machines_are_gone(
    tune: TuneOperator,
    cluster: FakeCluster,
    context: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    lost: bool,
) -> None:
    mine = cluster.add(POD, {"metadata": {"name": "p", "labels": {"kaito.sh/run-id": RUN_ID}}})
    monkeypatch.setattr(tune, "_lost_machines", lambda run: lost)
    context["ti"].max_tries = 20
    event = {**EVENT, "status": STUCK, "message": "Pod p waits for a node: 0/1 nodes are available"}
    with pytest.raises(AirflowException, match="0/1 nodes are available") as ended:
        tune.trigger_reentry(context, event)
    assert isinstance(ended.value, AirflowFailException) is not lost
    assert cluster.find(POD, mine["metadata"]["name"], "default") is None
    assert "0/1 nodes" in cluster.condition(NAME, "JobStarted")["message"]
    over = cluster.condition(NAME, "WorkspaceSucceeded")["reason"]
    assert over == ("workspacePending" if lost else "workspaceFailed")


def test_what_a_pod_mounts_and_the_api_server_refuses_is_a_verdict(
    tune: TuneOperator, cluster: FakeCluster, context: dict[str, Any]
) -> None:
    context["ti"].max_tries = 20
    cluster.refuse["apply", "configmaps"] = ClusterError(403, "Forbidden", "exceeded quota: configmaps")
    with pytest.raises(AirflowFailException, match="exceeded quota"):
        tune.execute(context)
    assert cluster.condition(NAME, "WorkspaceSucceeded")["reason"] == "workspaceFailed"


@pytest.mark.parametrize(
    ("reason", "uid", "again"),
    [
        ("Evicted", "u", True),
        ("TaintManagerEviction", "u", True),
        ("Preempted", "u", True),
        ("Killing", "u", False),
        ("Evicted", "an earlier pod of that name", False),
    ],
)
def test_a_pod_that_the_cluster_took_away_is_told_apart_from_one_that_a_person_deleted(
    comes_back: Any,
    cluster: FakeCluster,
    context: dict[str, Any],
    reason: str,
    uid: str,
    again: bool,
) -> None:
    said = "The node was low on resource: ephemeral-storage."
    event = {
        "metadata": {"name": "p.1", "namespace": EVENT["namespace"]},
        "involvedObject": {"kind": "Pod", "name": EVENT["name"], "uid": uid},
        "reason": reason,
        "message": said,
    }
    cluster.add(KUBERNETES_EVENT, event)
    fetch = FetchDatasetOperator(task_id="fetch_dataset")
    fetch.cluster = cluster
    gone = AirflowException("(404)\nReason: Not Found\nHTTP response headers: x\nHTTP response body: {}\n")
    comes_back(fetch, None, gone)
    with pytest.raises(AirflowException) as ended:
        fetch.trigger_reentry(context, {**EVENT, "status": "failed", "uid": "u"})
    assert isinstance(ended.value, AirflowFailException) is not again
    told = cluster.condition(NAME, "DatasetReady")["message"]
    assert (said in told) is again
    assert "HTTP response" not in told
