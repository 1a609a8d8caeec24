"""A finished adapter is pushed, not made again: no data is fetched, no machine asked for, nothing trained."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import CONFIG_MAP, VOLUME_CLAIM, WORKSPACE, ClusterError
from kaito.operators import kept_adapter
from kaito.operators.dataset import FetchDatasetOperator
from kaito.operators.finish import FinishOperator
from kaito.operators.pool import CreateGpuPoolOperator, ReleaseGpuPoolOperator
from kaito.operators.publishing import PublishAdapterOperator
from kaito.operators.tuning import TuneOperator
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.tasks.base import Run
from kaito.tasks.preflight_result import PreflightResult

from include.workspace.api import names
from include.workspace.status import conditions
from include.workspace.status.adapter import kept
from include.workspace.status.kept_adapter import KeptAdapter, State
from tests.support.fake_cluster import RUN_ID, FakeCluster
from tests.support.tasks import preflight
from tests.support.workload_pods import ended_pod, started

pytestmark = pytest.mark.usefixtures("established_crd")

NAME = "workspace-tuning-phi-3"
BY_NAME = {"workspace": {"metadata": {"name": NAME}}}
SHA = "5" * 64
TUNED = {"steps": 3, "loss_last": 0.5, "config_sha256": "c", "adapter": {"sha256": SHA, "bytes": 9}}
KEY = ("persistentvolumeclaims", "default", f"{NAME}-work")
TOO_MANY = ClusterError(403, "Forbidden", 'pods "x-tuning" is forbidden: exceeded quota')


@pytest.fixture
def claim(cluster: FakeCluster, workspace: dict[str, Any]) -> dict[str, Any]:
    owner = {"kind": "Workspace", "name": NAME, "uid": workspace["metadata"]["uid"], "controller": True}
    return cluster.add(VOLUME_CLAIM, {"metadata": {"name": f"{NAME}-work", "ownerReferences": [owner]}})


def record(cluster: FakeCluster) -> KeptAdapter | None:
    return KeptAdapter.of(cluster.objects.get(KEY), "0123abcd-0000")


def live(cluster: FakeCluster) -> dict[str, Any]:
    return cluster.objects["workspaces", "default", NAME]


@pytest.fixture
def tuned(
    cluster: FakeCluster,
    claim: dict[str, Any],
    context: dict[str, Any],
    comes_back: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> KeptAdapter:
    """A run has trained, and its push has failed."""
    context["ti"].xcoms["fetch_dataset"] = {"digest": "sha256:d", "rows": 8}
    train(cluster, context, comes_back, monkeypatch)
    found = record(cluster)
    assert found is not None
    return found


def train(cluster: FakeCluster, context: dict[str, Any], back: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tune = TuneOperator(task_id="tune")
    tune.cluster = cluster
    started(tune, context, monkeypatch)
    taken = record(cluster)
    assert taken is not None
    assert taken.state is State.TRAINING, "before its pod may write, the volume is the training's"
    back(tune, ended_pod(0, json.dumps(TUNED)))
    tune.trigger_reentry(context, {"name": "p", "namespace": "default", "status": "success"})


def next_run(cluster: FakeCluster, **edit: Any) -> dict[str, Any]:
    """The context of the run after an edit or a request."""
    result = preflight(cluster, BY_NAME)
    ti = SimpleNamespace(try_number=1, max_tries=0, xcoms={"preflight": result})
    ti.xcom_pull = lambda task_ids: ti.xcoms.get(task_ids)
    ti.xcom_push = lambda key, value: ti.xcoms.__setitem__(f"pushed:{key}", value)
    return {"ti": ti, "run_id": RUN_ID + ".r2", "params": {}, "dag_run": SimpleNamespace(conf={})}


def operator(kind: type, cluster: FakeCluster, **kwargs: Any) -> Any:
    made = kind(**kwargs)
    made.cluster = cluster
    return made


def ask_again(cluster: FakeCluster, value: str) -> None:
    live(cluster)["metadata"].setdefault("annotations", {})[names.RERUN] = value


def test_a_rerun_after_a_failed_push_only_pushes(
    cluster: FakeCluster, tuned: KeptAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_again(cluster, "1")
    cluster.refuse["dry run", "pods"] = TOO_MANY  # there is no room for a GPU, and none is needed
    with pytest.raises(AirflowFailException, match="-adapter"):
        preflight(cluster, BY_NAME)
    del cluster.refuse["dry run", "pods"]
    live(cluster)["status"] = {}
    after = next_run(cluster)
    assert kept(live(cluster)), "the wait for machines looks here"
    assert "it is only pushed" in cluster.condition(NAME, "JobStarted")["message"]
    monkeypatch.setattr(KubernetesPodOperator, "execute", lambda *_: pytest.fail("a pod was made"))
    fetch = operator(FetchDatasetOperator, cluster, task_id="fetch_dataset")
    assert fetch.execute(after) == {"digest": "sha256:d", "rows": 8}
    pool = operator(CreateGpuPoolOperator, cluster, task_id="create_gpu_pool", purpose="tuning")
    assert pool.execute(after)["made"] == []
    assert cluster.list(NODE_CLAIM) == []
    assert operator(TuneOperator, cluster, task_id="tune").execute(after) == TUNED
    operator(ReleaseGpuPoolOperator, cluster, task_id="release", purpose="tuning").execute(after)
    assert cluster.condition(NAME, "ResourceReady")["reason"] == "AdapterKept"
    assert record(cluster) == tuned


def test_the_push_says_whose_adapter_it_is_and_takes_no_other(
    cluster: FakeCluster, tuned: KeptAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_again(cluster, "1")
    after = next_run(cluster)
    after["ti"].xcoms |= {"fetch_dataset": dict(tuned.dataset), "tune": dict(tuned.tuning)}
    publish = operator(
        PublishAdapterOperator,
        cluster,
        task_id="publish",
        dataset_task_id="fetch_dataset",
        tuning_task_id="tune",
    )
    pod = started(publish, after, monkeypatch)
    told = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
    assert told["ADAPTER_SHA256"] == SHA
    origin = json.loads(told["ADAPTER_ANNOTATIONS"])
    assert origin["sh.kaito.run-id"] == tuned.run
    assert origin["sh.kaito.dataset.digest"] == "sha256:d"


def test_what_another_training_took_meanwhile_is_not_pushed(
    cluster: FakeCluster, tuned: KeptAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_again(cluster, "1")
    after = next_run(cluster)
    begun = KeptAdapter.begun(tuned.recipe, "by-hand", "", {})
    cluster.objects[KEY]["metadata"]["annotations"] = begun.annotation()
    publish = operator(
        PublishAdapterOperator,
        cluster,
        task_id="publish",
        dataset_task_id="fetch_dataset",
        tuning_task_id="tune",
    )
    with pytest.raises(AirflowFailException, match="no longer on the work volume"):
        started(publish, after, monkeypatch)
    assert cluster.condition(NAME, "AdapterPublished")["status"] == "False"


def test_an_edit_of_the_output_alone_only_pushes_also_after_a_success(
    cluster: FakeCluster, tuned: KeptAdapter, context: dict[str, Any]
) -> None:
    finish(cluster, context)
    document = live(cluster)
    document["tuning"]["output"]["image"] = "registry.example.com/adapters/phi:0.0.2"
    document["metadata"]["generation"], document["status"] = 2, {}
    again = preflight(cluster, BY_NAME, run_id=RUN_ID.replace(".g1", ".g2"))
    assert again["trained"]["run"] == tuned.run


def finish(cluster: FakeCluster, context: dict[str, Any]) -> None:
    end = operator(FinishOperator, cluster, task_id="finish", needed=("tune",))
    context["ti"].states["tune"] = "success"
    end.execute(context)


def test_a_rerun_after_a_success_trains_again(
    cluster: FakeCluster, tuned: KeptAdapter, context: dict[str, Any]
) -> None:
    finish(cluster, context)
    ask_again(cluster, "1")
    live(cluster)["status"] = {}
    assert "trained" not in preflight(cluster, BY_NAME)


@pytest.mark.parametrize("what", ["url", "config", "volume", "owner", "output"])
def test_another_question_trains_again(cluster: FakeCluster, tuned: KeptAdapter, what: str) -> None:
    document = live(cluster)
    if what == "url":
        document["tuning"]["input"]["urls"] = ["https://example.com/train.parquet?sig=OTHER"]
    elif what == "config":
        text = "training_config: {QuantizationConfig: {load_in_4bit: true}}"
        cluster.add(CONFIG_MAP, {"metadata": {"name": "mine"}, "data": {"training_config.yaml": text}})
        document["tuning"]["config"] = "mine"
    elif what == "volume":
        cluster.objects.pop(KEY)
    elif what == "owner":
        cluster.objects[KEY]["metadata"]["ownerReferences"][0]["uid"] = "another"
    else:
        document["tuning"]["output"] = {"volumeSource": {"persistentVolumeClaim": {"claimName": "mine"}}}
    assert "trained" not in preflight(cluster, BY_NAME)


def test_a_training_that_dies_leaves_nothing_to_push(
    cluster: FakeCluster, tuned: KeptAdapter, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started(operator(TuneOperator, cluster, task_id="tune"), context, monkeypatch)
    assert "trained" not in preflight(cluster, BY_NAME)


def test_a_run_that_lost_the_volume_does_not_claim_it(
    cluster: FakeCluster, claim: dict[str, Any], context: dict[str, Any]
) -> None:
    run = Run.of(PreflightResult.from_xcom(context["ti"].xcoms["preflight"]), RUN_ID)
    cluster.objects[KEY]["metadata"]["annotations"] = KeptAdapter.begun("r", "newer", "", {}).annotation()
    before = copy.deepcopy(record(cluster))
    kept_adapter.change(cluster, run.document, lambda known: known and known.finished(run.run_id, TUNED))
    assert record(cluster) == before


def test_of_two_writers_one_looks_again(
    cluster: FakeCluster, claim: dict[str, Any], workspace: dict[str, Any]
) -> None:
    asked: list[KeptAdapter | None] = []

    def judge(known: KeptAdapter | None) -> KeptAdapter:
        asked.append(known)
        if len(asked) == 1:  # somebody else writes after we have looked
            cluster.objects[KEY]["metadata"] |= {
                "resourceVersion": "7",
                "annotations": KeptAdapter.begun("r", "other", "", {}).annotation(),
            }
        return KeptAdapter.begun("r", "mine", "", {})

    assert kept_adapter.change(cluster, cluster.find(WORKSPACE, NAME, "default") or {}, judge)
    assert [known and known.run for known in asked] == [None, "other"]


@pytest.mark.parametrize("ended", ["well", "badly"])
def test_a_run_whose_push_was_cleared_keeps_what_it_has_reached(
    cluster: FakeCluster, tuned: KeptAdapter, context: dict[str, Any], ended: str
) -> None:
    """Somebody has cleared publish_adapter in Airflow after the end: its setup runs again, and plans nothing."""
    run = Run.of(PreflightResult.from_xcom(context["ti"].xcoms["preflight"]), RUN_ID)
    push = operator(
        PublishAdapterOperator, cluster, task_id="publish_adapter", dataset_task_id="d", tuning_task_id="t"
    )
    push.report(run, conditions.Phase.DATASET_READY, "All rows are fine.")
    push.report(run, conditions.Phase.RELEASED, "The machines were released.")
    if ended == "well":
        push.report(run, conditions.Phase.PUBLISHED, "Adapter: there.")
        push.report(run, conditions.Phase.SUCCEEDED, "Adapter: there.")
    else:
        push.report(run, conditions.Phase.PUBLISH_FAILED, "The registry is full.")
    status = live(cluster)["status"]
    status["run"] = {
        "id": RUN_ID,
        "dag": "kaito_tune",
        "generation": 1,
        "state": "success" if ended == "well" else "failed",
    }
    before = {c["type"]: c for c in status["conditions"]}

    assert preflight(cluster, BY_NAME)["trained"]["run"] == tuned.run
    status = live(cluster)["status"]
    after = {c["type"]: c for c in status["conditions"]}
    assert not [c for c in after.values() if "The plan is" in c["message"]]
    for kind in ("DatasetReady", "JobStarted", "ResourceReady", "NodesReady"):
        assert after[kind] == before[kind]
    pushed = (after["AdapterPublished"]["status"], after["AdapterPublished"]["reason"])
    assert pushed == (("True", "AdapterPushed") if ended == "well" else ("False", "AdapterPending"))
    assert "cleared" in after["WorkspaceReady"]["message"]
    assert (status["run"]["state"], status["state"]) == ("started", "Pending")


def test_another_share_of_held_out_rows_and_another_objective_are_other_trainings(
    cluster: FakeCluster, workspace: dict[str, Any], context: dict[str, Any]
) -> None:
    plan = TuneOperator(task_id="tune").this_run(context).tuning_plan  # type: ignore[arg-type]
    known = set()
    notes = (None, {names.HELD_OUT: "0.1"}, {names.HELD_OUT: "0.2"}, {names.TUNING_OBJECTIVE: "dpo"})
    for asked in notes:
        document = copy.deepcopy(live(cluster))
        if asked:
            document["metadata"]["annotations"] = asked
        known.add(kept_adapter.recipe(cluster, document, plan))  # type: ignore[arg-type]
    assert len(known) == len(notes)


def test_another_model_image_is_another_training(
    cluster: FakeCluster, workspace: dict[str, Any], context: dict[str, Any]
) -> None:
    plan = TuneOperator(task_id="tune").this_run(context).tuning_plan  # type: ignore[arg-type]
    images = (
        "",
        f"r.example.com/kaito-phi:1@sha256:{'1' * 64}",
        f"r.example.com/kaito-phi:1@sha256:{'2' * 64}",
    )
    plans = [replace(plan, model_image=image) for image in images]
    known = {kept_adapter.recipe(cluster, live(cluster), one) for one in plans}  # type: ignore[arg-type]
    assert len(known) == 3
