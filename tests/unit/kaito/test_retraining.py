"""The steps of a retraining: when nothing is trained, what a candidate is, the gate, the promotion, and the end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any, NoReturn, cast
from uuid import UUID

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred
from airflow.triggers.base import TriggerEvent
from kaito import assets
from kaito.hooks.api import CONFIG_MAP, VOLUME_CLAIM, WORKSPACE, ClusterError
from kaito.operators import approval, promotion
from kaito.operators import candidate as steps
from kaito.operators.retraining_end import RecordRetrainingOperator
from kaito.tasks import golden_sets
from kaito.tasks.retraining import Retraining
from kaito.triggers import retraining as retraining_triggers
from kaito.triggers.retraining import ApprovalTrigger, PromotionTrigger, means

from include.contracts import canary
from include.contracts.evaluation import AdapterIdentity, GoldenCount, Interval, Metric, Subject, Summary
from include.retraining.dataset_watch import Mark
from include.workspace.api import names
from include.workspace.status import retraining
from include.workspace.status.conditions import timestamp
from include.workspace.status.kept_adapter import KeptAdapter, State
from tests.support.fake_cluster import FakeCluster

NAME = "workspace-tuning-phi-3"
RUN = "manual__1"
OLD, NEW = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
ADAPTER = {"image": "registry.example.com/adapters/phi:0.0.1", "digest": OLD, "reference": f"r.io/phi@{OLD}"}
PUSHED = {
    "image": "registry.example.com/adapters/phi:0.0.1-20261128.1",
    "digest": NEW,
    "reference": f"r.io/phi@{NEW}",
}
AT = "retrain."


class Outlets(dict[Any, Any]):
    """What tasks emit by aliases."""

    def __missing__(self, key: Any) -> Any:
        self[key] = found = SimpleNamespace(events=[])
        found.add = lambda asset, extra: found.events.append((asset.uri, extra))
        return found


@pytest.fixture
def tuned(cluster: FakeCluster, workspace: dict[str, Any]) -> dict[str, Any]:
    """A Workspace that has published and serves its own tuning's adapter, of 100 rows."""
    told = [
        {
            "type": "AdapterPublished",
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-11-01T00:00:00Z",
        }
    ]
    workspace["status"] = {
        "conditions": told,
        "adapter": dict(ADAPTER),
        "run": {"state": "success", "id": "x", "generation": 1},
    }
    kept = KeptAdapter("r", "x", State.DELIVERED, dataset={"digest": "sha256:rows", "rows": 100})
    claim = {
        "metadata": {
            "name": f"{NAME}-work",
            "annotations": kept.annotation(),
            "ownerReferences": [{"uid": workspace["metadata"]["uid"]}],
        }
    }
    cluster.add(VOLUME_CLAIM, claim)
    return workspace


@pytest.fixture
def context(context: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    context["run_id"] = RUN
    context["ti"].dag_id, context["ti"].run_id = "kaito_retrain", RUN
    context["ti"].task_id, context["ti"].id = "retrain.record", "0190"
    context["ti"].get_task_states = lambda **_: {RUN: dict(context["ti"].states)}
    context["outlet_events"] = Outlets()
    return context


@pytest.fixture(autouse=True)
def quiet_servers(monkeypatch: pytest.MonkeyPatch) -> list[Mark]:
    """What the dataset's server says."""
    said = [Mark(etag='"1"')]
    monkeypatch.setattr(steps, "marks", lambda document, secret: list(said))
    monkeypatch.setattr(steps, "state_of", lambda dag, run: "running")
    return said


def plan_step(cluster: FakeCluster, policy: dict[str, Any] | None = None) -> steps.PlanCandidateOperator:
    made = steps.PlanCandidateOperator(
        task_id="plan_candidate", workspace=NAME, namespace="default", policy=policy
    )
    return at(made, cluster)


def at(task: Any, cluster: FakeCluster) -> Any:
    task.cluster = cluster
    task.run_prefix = AT
    return task


def planned(cluster: FakeCluster, context: dict[str, Any], **policy: Any) -> Retraining:
    found = plan_step(cluster, policy).execute(context)
    context["ti"].xcoms[f"{AT}plan_candidate"] = found
    return Retraining.from_xcom(found)


def status(cluster: FakeCluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.objects["workspaces", "default", NAME]["status"]
    return found


def retrain(cluster: FakeCluster) -> dict[str, Any]:
    return retraining.of(status(cluster))


def ready(cluster: FakeCluster) -> tuple[str, str, str]:
    found = cluster.condition(NAME, "RetrainReady")
    return found["status"], found["reason"], found["message"]


# -- planning ------------------------------------------------------------------------------------------------------


def test_a_plan_takes_the_retraining_for_its_run_and_touches_nothing_else(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    plan = planned(cluster, context)
    assert plan.candidate == f"{NAME}-r{plan.version.replace('.', '-')}"
    assert plan.current.to_xcom() == ADAPTER
    assert plan.marks == [{"etag": '"1"'}]
    assert retrain(cluster)["run"] | {"since": ""} == {
        "id": RUN,
        "dag": "kaito_retrain",
        "since": "",
        "state": "started",
        "version": plan.version,
    }
    assert status(cluster)["adapter"] == ADAPTER
    assert ready(cluster)[:2] == ("False", "Retraining")
    assert cluster.writes == []
    again = plan_step(cluster).execute(context)
    assert again["version"] == plan.version


def test_the_dataset_that_has_not_changed_ends_the_run_and_is_asked_again_as_the_policy_says(
    cluster: FakeCluster, context: dict[str, Any], tuned: dict[str, Any]
) -> None:
    tuned["metadata"]["annotations"] = {names.RETRAIN_SCHEDULE: "@data"}
    tuned["status"]["retrain"] = {
        "dataset": {"marks": [{"etag": '"1"'}]},
        "run": {"id": RUN, "dag": "kaito_retrain", "state": "started"},
    }
    with pytest.raises(AirflowSkipException, match="has not changed"):
        plan_step(cluster, {"watch": {"every": "6h"}}).execute(context)
    found = retrain(cluster)
    assert found["run"]["state"] == "success"
    assert found["next"] > found["dataset"]["checked"]
    assert ready(cluster)[:2] == ("True", "DatasetUnchanged")


@pytest.mark.parametrize(
    ("minutes", "watches", "run_type", "asks"),
    [
        (59, True, "scheduled", False),
        (355, True, "scheduled", False),
        (359.5, True, "scheduled", True),  # the last look began late
        (361, True, "scheduled", True),
        (59, True, "manual", True),
        (59, False, "scheduled", True),
    ],
)
def test_a_dag_that_watches_asks_no_sooner_than_the_policy_says(
    cluster: FakeCluster,
    context: dict[str, Any],
    tuned: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    minutes: float,
    watches: bool,
    run_type: str,
    asks: bool,
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(steps, "marks", lambda document, secret: asked.append(document) or [Mark(etag='"2"')])
    checked = datetime.now(UTC) - timedelta(minutes=minutes)
    known = {"checked": timestamp(checked), "marks": [{"etag": '"1"'}]}
    tuned["status"]["retrain"] = {"dataset": known}
    tuned["metadata"]["annotations"] = {names.RETRAIN_POLICY: "rules"}
    rules = {"retrain_policy.yaml": "watch: {every: 6h}"}
    cluster.add(CONFIG_MAP, {"metadata": {"name": "rules"}, "data": rules})
    context["dag_run"].run_type = run_type
    step = plan_step(cluster)
    step.watches = watches
    if asks:
        assert step.execute(context)["version"]
    else:
        with pytest.raises(AirflowSkipException, match="may be asked again at"):
            step.execute(context)
        assert retrain(cluster)["dataset"] == known
    assert bool(asked) is asks


@pytest.mark.parametrize("reason", ["Promoted", "CandidateRefused", "RolledBack", "RetrainFailed"])
def test_what_the_last_training_came_to_stays_told_while_nothing_is_new(
    cluster: FakeCluster, context: dict[str, Any], tuned: dict[str, Any], reason: str
) -> None:
    tuned["status"]["retrain"] = {"dataset": {"marks": [{"etag": '"1"'}]}}
    verdict = {"type": "RetrainReady", "status": "False", "reason": reason, "message": "so it is"}
    tuned["status"]["conditions"].append(verdict)
    with pytest.raises(AirflowSkipException, match="has not changed"):
        plan_step(cluster).execute(context)
    assert ready(cluster) == ("False", reason, "so it is")


@pytest.mark.parametrize("policy", [{}, {"when": "always"}])
def test_a_changed_mark_or_a_policy_that_always_trains_goes_on(
    cluster: FakeCluster, context: dict[str, Any], tuned: dict[str, Any], policy: dict[str, Any]
) -> None:
    old = '"1"' if policy else '"0"'
    tuned["status"]["retrain"] = {"dataset": {"marks": [{"etag": old}]}}
    assert plan_step(cluster, policy).execute(context)["version"]


def test_two_retrainings_of_one_workspace_wait_for_each_other(
    cluster: FakeCluster, context: dict[str, Any], tuned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned["status"]["retrain"] = {
        "run": {"id": "other", "dag": "weekly", "state": "started", "version": "20261128.1"}
    }
    with pytest.raises(TaskDeferred) as deferred:
        plan_step(cluster).execute(context)
    assert deferred.value.method_name == "waited"
    monkeypatch.setattr(steps, "state_of", lambda dag, run: "failed")
    assert plan_step(cluster).waited(context)["version"]
    assert retrain(cluster)["run"]["id"] == RUN


def test_no_training_begins_before_the_cool_down_or_beyond_the_budget(
    cluster: FakeCluster, context: dict[str, Any], tuned: dict[str, Any]
) -> None:
    tuned["status"]["retrain"] = {"trained": "2999-01-01T00:00:00Z"}
    with pytest.raises(AirflowSkipException, match="may begin at 2999-01-01T06"):
        plan_step(cluster, {"coolDown": "6h"}).execute(context)
    tuned = cluster.objects["workspaces", "default", NAME]
    tuned["metadata"]["annotations"] = {names.BUDGET: "5"}
    tuned["status"]["retrain"] = {"usd": 5.5}
    with pytest.raises(AirflowSkipException, match=r"5\.50 USD are spent"):
        plan_step(cluster).execute(context)
    assert ready(cluster)[:2] == ("False", "BudgetExceeded")


def test_of_two_retrainings_that_begin_at_once_the_slower_one_waits(
    cluster: FakeCluster, context: dict[str, Any], tuned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"id": "other", "dag": "weekly", "state": "started", "version": "20261128.1"}

    def begins_meanwhile(document: Any, secret: Any) -> list[Mark]:
        status(cluster)["retrain"] = {"run": dict(other)}
        return [Mark(etag='"1"')]

    monkeypatch.setattr(steps, "marks", begins_meanwhile)
    with pytest.raises(TaskDeferred) as deferred:
        plan_step(cluster).execute(context)
    assert deferred.value.method_name == "waited"
    assert retrain(cluster)["run"] == other


@pytest.mark.parametrize(("schedule", "looks"), [("@data", "2999-01-01T06:00:00Z"), ("@daily", "soon")])
def test_a_watch_rests_until_the_cool_down_is_over(
    cluster: FakeCluster, context: dict[str, Any], tuned: dict[str, Any], schedule: str, looks: str
) -> None:
    tuned["metadata"]["annotations"] = {names.RETRAIN_SCHEDULE: schedule}
    tuned["status"]["retrain"] = {"trained": "2999-01-01T00:00:00Z", "next": "soon"}
    with pytest.raises(AirflowSkipException, match="may begin at"):
        plan_step(cluster, {"coolDown": "6h", "watch": {"every": "10m"}}).execute(context)
    assert retrain(cluster)["next"] == looks


def test_a_policy_with_faults_is_refused_with_all_of_them(
    cluster: FakeCluster, context: dict[str, Any], tuned: dict[str, Any]
) -> None:
    tuned["metadata"]["annotations"] = {names.RETRAIN_POLICY: "rules"}
    with pytest.raises(AirflowFailException, match="is missing"):
        plan_step(cluster).execute(context)
    text = "coolDwn: 6h\nkeep: 0\n"
    cluster.add(CONFIG_MAP, {"metadata": {"name": "rules"}, "data": {"retrain_policy.yaml": text}})
    with pytest.raises(AirflowFailException, match="did you mean coolDown") as raised:
        plan_step(cluster).execute(context)
    assert "keep" in str(raised.value)
    assert ready(cluster)[:2] == ("False", "RetrainInvalid")


def test_a_gate_with_an_unknown_metric_is_refused_before_anything_runs(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    policy = {"evaluation": {}, "gate": ["candidate.perplexty < current.perplexity"]}
    with pytest.raises(AirflowFailException, match="did you mean perplexity"):
        plan_step(cluster, policy).execute(context)
    assert cluster.writes == []


def test_a_golden_set_that_is_missing_or_broken_is_refused_before_anything_runs(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    policy = {"evaluation": {"goldenSet": "golden"}, "gate": ["golden.all"]}
    with pytest.raises(AirflowFailException, match=r"golden.*does not exist"):
        plan_step(cluster, policy).execute(context)
    cluster.add(
        CONFIG_MAP, {"metadata": {"name": "golden"}, "data": {"golden.yaml": "- prompt: 3\n- oops\n"}}
    )
    with pytest.raises(AirflowFailException, match="E2"):
        plan_step(cluster, policy).execute(context)
    assert cluster.writes == []


def test_a_golden_set_at_a_url_is_read_before_anything_runs(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"url": "https://example.com/golden.jsonl"}
    policy = {"evaluation": {"goldenSet": source}, "gate": ["golden.all"]}
    row = '{"prompt": "?", "expected": "!"}\n'
    texts = [f"{row}{row[:-2]}\n", f'{row}{{"prompt": "?", "matcher": "exakt"}}\n', row]
    monkeypatch.setattr(golden_sets, "text_of", lambda *_: texts.pop(0))
    for says in ("line 2", "line 2.*did you mean exact"):
        with pytest.raises(AirflowFailException, match=says):
            plan_step(cluster, policy).execute(context)
    assert cluster.writes == []
    found = Retraining.from_xcom(plan_step(cluster, policy).execute(context)).policy.evaluation
    assert found is not None
    assert found.golden_set is not None
    assert found.golden_set.url == source["url"]


def test_tasks_of_lm_eval_need_images_that_have_it(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = {"evaluation": {"lmEval": ["arc_easy"]}, "gate": ["candidate.lm_eval >= current.lm_eval"]}
    with pytest.raises(AirflowFailException, match=r"evaluation.lmEval: needs lm-eval.*\[kaito\] lm_eval"):
        plan_step(cluster, policy).execute(context)
    assert ready(cluster)[:2] == ("False", "RetrainInvalid")
    monkeypatch.setenv("AIRFLOW__KAITO__LM_EVAL", "true")
    found = Retraining.from_xcom(plan_step(cluster, policy).execute(context)).policy.evaluation
    assert found is not None
    assert found.lm_eval is not None
    assert found.lm_eval.tasks == ("arc_easy",)


def test_a_golden_set_that_cannot_be_had_is_named(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_big(*_: object) -> NoReturn:
        raise golden_sets.GoldenSetNotRead("has more than 1048576 bytes")

    monkeypatch.setattr(golden_sets, "text_of", too_big)
    policy = {"evaluation": {"goldenSet": {"url": "https://example.com/big.yaml"}}}
    with pytest.raises(AirflowFailException, match=r"goldenSet: has more than 1048576 bytes .*big.yaml"):
        plan_step(cluster, policy).execute(context)
    assert ready(cluster)[:2] == ("False", "RetrainInvalid")


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"status": {}}, AirflowFailException, "published no adapter yet"),
        ({"metadata": {"annotations": {names.PAUSED: "true"}}}, AirflowSkipException, "is paused"),
        ({"metadata": {"labels": {names.RETRAIN_OF: "p"}}}, AirflowFailException, "itself a candidate"),
        ({"tuning": {"output": {}}}, AirflowFailException, "pushes no adapter image"),
    ],
)
def test_what_cannot_be_retrained(
    cluster: FakeCluster,
    context: dict[str, Any],
    tuned: dict[str, Any],
    change: dict[str, Any],
    error: type[Exception],
    told: str,
) -> None:
    for part, value in change.items():
        tuned[part] = {**tuned[part], **value} if value else {}
    with pytest.raises(error, match=told):
        plan_step(cluster).execute(context)


class Noon(datetime):
    """A clock that stands: versions are counted by the day, and a test may run across midnight."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime(2026, 11, 28, 12, tzinfo=tz)


def test_no_version_is_given_twice_while_an_earlier_candidate_is_still_going(
    cluster: FakeCluster, context: dict[str, Any], tuned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "datetime", Noon)
    first = planned(cluster, context)
    context["run_id"] = context["ti"].run_id = "manual__2"
    tuned = cluster.objects["workspaces", "default", NAME]
    tuned["status"]["retrain"]["run"]["state"] = (
        "success"  # it found nothing new, so its version is in no history
    )
    second = planned(cluster, context)
    assert second.version == first.version.replace(".1", ".2")
    del tuned["status"]["retrain"]
    notes = {names.RETRAIN_VERSION: second.version}
    cluster.add(
        WORKSPACE, {"metadata": {"name": "x", "labels": {names.RETRAIN_OF: NAME}, "annotations": notes}}
    )
    assert planned(cluster, context).version == first.version.replace(".1", ".3")


def test_candidates_of_earlier_runs_go(cluster: FakeCluster, context: dict[str, Any]) -> None:
    earlier = {"metadata": {"name": f"{NAME}-r20200101-1", "labels": {names.RETRAIN_OF: NAME}}}
    cluster.add(WORKSPACE, earlier)
    planned(cluster, context)
    assert cluster.deleted == [("workspaces", f"{NAME}-r20200101-1")]


# -- the candidate -------------------------------------------------------------------------------------------------


def test_the_preflight_makes_a_workspace_of_its_own_beside_the_one_that_serves(
    cluster: FakeCluster, context: dict[str, Any], tuned: dict[str, Any]
) -> None:
    tuned["metadata"]["annotations"] = {
        names.BUDGET: "100",
        names.RERUN: "x",
        names.RETRAIN_SCHEDULE: "@daily",
        names.CAPACITY_TYPE: "spot",
        names.TUNING_OBJECTIVE: "kto",
    }
    plan = planned(cluster, context, evaluation={"heldOut": 0.2})
    check = at(steps.CandidatePreflightOperator(task_id="preflight", purpose="tuning"), cluster)
    wanted = check._wanted(context)
    made = wanted.document
    assert (wanted.name, wanted.said) == (plan.candidate, False)
    assert made["metadata"]["labels"] == {names.RETRAIN_OF: NAME}
    assert made["metadata"]["annotations"] == {
        names.ROLLOUT: "false",
        names.BUDGET: "100.0000",
        names.CAPACITY_TYPE: "spot",
        names.TUNING_OBJECTIVE: "kto",
        names.RETRAIN_VERSION: plan.version,
        names.RETRAIN_CURRENT: ADAPTER["reference"],
        names.HELD_OUT: "0.2",
    }
    assert made["metadata"]["ownerReferences"][0]["uid"] == tuned["metadata"]["uid"]
    assert made["tuning"]["output"]["image"] == f"registry.example.com/adapters/phi:0.0.1-{plan.version}"
    assert made["tuning"]["input"]["urls"] == ["https://example.com/train.parquet?sig=SECRET"]
    assert "SECRET" not in str(context["ti"].xcoms)
    assert "ownerReferences" in check.metadata


def test_a_candidate_may_go_on_from_the_adapter_that_answers_with_a_config_of_its_own(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    planned(cluster, context, **{"from": "current", "config": "fewer-passes"})
    check = at(steps.CandidatePreflightOperator(task_id="preflight", purpose="tuning"), cluster)
    made = check._wanted(context).document
    assert made["metadata"]["annotations"][names.RETRAIN_FROM] == ADAPTER["reference"]
    assert made["tuning"]["config"] == "fewer-passes"
    changed(cluster, context)
    assert retrain(cluster)["versions"][0]["from"] == OLD


def test_a_run_may_have_a_dataset_of_its_own(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(steps, "marks", lambda document, secret: asked.append(document) or [Mark(etag='"2"')])
    step = plan_step(cluster, {})
    step.urls = ["https://data.example.com/2026-11-28.parquet"]
    context["ti"].xcoms[f"{AT}plan_candidate"] = step.execute(context)
    assert asked[0]["tuning"] == {"input": {"urls": step.urls}}
    check = at(steps.CandidatePreflightOperator(task_id="preflight", purpose="tuning"), cluster)
    assert check._wanted(context).document["tuning"]["input"] == {"urls": step.urls}


def candidate_of(cluster: FakeCluster, context: dict[str, Any]) -> dict[str, Any]:
    check = at(steps.CandidatePreflightOperator(task_id="preflight", purpose="tuning"), cluster)
    found: dict[str, Any] = check._wanted(context).document["metadata"]["annotations"]
    return found


def test_a_candidate_is_told_which_rows_were_learnt_from_last(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    planned(cluster, context)
    live = status(cluster)
    live["retrain"].pop("dataset", None)
    assert names.RETRAIN_KNOWN not in candidate_of(cluster, context)
    live["adapter"] = {**ADAPTER, "learnt": "r.io/phi@sha256:first"}
    assert candidate_of(cluster, context)[names.RETRAIN_KNOWN] == "r.io/phi@sha256:first"
    live["retrain"] |= {
        "dataset": {"digest": "sha256:b", "rows": 9},
        "versions": [
            {"version": "1", "learnt": "r.io/phi@sha256:one", "dataset": {"digest": "sha256:a"}},
            {"version": "2", "learnt": "r.io/phi@sha256:two", "dataset": {"digest": "sha256:b"}},
            {"version": "3", "state": "failed", "dataset": {"digest": "sha256:c"}},
        ],
    }
    assert candidate_of(cluster, context)[names.RETRAIN_KNOWN] == "r.io/phi@sha256:two"


def test_rows_that_were_added_and_removed_are_in_the_record_of_the_version(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    planned(cluster, context, minimumChange={"rows": 8})
    context["ti"].xcoms[f"{AT}fetch_dataset"] = {
        "digest": "sha256:more",
        "rows": 104,
        "added": 6,
        "removed": 2,
    }
    judge = at(steps.JudgeChangeOperator(task_id="judge_change", dataset_task_id="fetch_dataset"), cluster)
    told = judge.execute(context)
    assert "(+6 \u22122 rows)" in told["why"]
    data = retrain(cluster)["versions"][0]["dataset"]
    assert (data["added"], data["removed"]) == (6, 2)


@pytest.mark.parametrize(
    ("digest", "rows", "policy", "told"),
    [
        ("sha256:rows", 100, {}, "the same 100 rows"),
        ("sha256:more", 104, {"minimumChange": {"rows": 5}}, "the policy asks for 5"),
    ],
)
def test_rows_without_news_end_the_run_before_a_machine_is_asked_for(
    cluster: FakeCluster, context: dict[str, Any], digest: str, rows: int, policy: dict[str, Any], told: str
) -> None:
    planned(cluster, context, **policy)
    context["ti"].xcoms[f"{AT}fetch_dataset"] = {"digest": digest, "rows": rows}
    judge = at(steps.JudgeChangeOperator(task_id="judge_change", dataset_task_id="fetch_dataset"), cluster)
    with pytest.raises(AirflowSkipException, match=told):
        judge.execute(context)
    assert retrain(cluster)["dataset"]["marks"] == [{"etag": '"1"'}]
    assert "versions" not in retrain(cluster)
    assert ready(cluster)[:2] == ("True", "DatasetUnchanged")


def changed(cluster: FakeCluster, context: dict[str, Any]) -> None:
    context["ti"].xcoms[f"{AT}fetch_dataset"] = {"digest": "sha256:more", "rows": 130}
    judge = at(steps.JudgeChangeOperator(task_id="judge_change", dataset_task_id="fetch_dataset"), cluster)
    context["ti"].xcoms[f"{AT}judge_change"] = judge.execute(context)
    context["ti"].xcoms[f"{AT}publish_adapter"] = dict(PUSHED)


def test_new_rows_are_a_version_in_training(cluster: FakeCluster, context: dict[str, Any]) -> None:
    plan = planned(cluster, context)
    changed(cluster, context)
    entry = retrain(cluster)["versions"][0]
    assert (entry["version"], entry["state"]) == (plan.version, "training")
    assert entry["dataset"]["rows"] == 130
    assert retrain(cluster)["trained"]


# -- the verdict ---------------------------------------------------------------------------------------------------


def gate_step(cluster: FakeCluster) -> Any:
    made = promotion.GateOperator(
        task_id="gate",
        publishing_task_id="publish_adapter",
        change_task_id="judge_change",
        evaluation_task_id="evaluate",
    )
    return at(made, cluster)


def gated(cluster: FakeCluster, context: dict[str, Any], **policy: Any) -> Retraining:
    plan = planned(cluster, context, **policy)
    changed(cluster, context)
    context["ti"].xcoms[f"{AT}gate"] = gate_step(cluster).execute(context)
    return plan


def test_a_candidate_is_told_as_an_asset_with_its_digest(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    plan = gated(cluster, context)
    uri, extra = context["outlet_events"][assets.ADAPTERS].events[0]
    assert uri == f"x-kaito://adapters/default/{NAME}"
    assert (extra["digest"], extra["version"], extra["dataset"]) == (NEW, plan.version, "sha256:more")
    assert retrain(cluster)["dataset"]["digest"] == "sha256:more"
    assert retrain(cluster)["versions"][0]["state"] == "candidate"
    assert status(cluster)["adapter"] == ADAPTER


def test_a_candidate_that_should_have_been_measured_and_was_not_is_refused(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    planned(cluster, context, evaluation={})
    changed(cluster, context)
    with pytest.raises(AirflowSkipException, match="it was not measured"):
        gate_step(cluster).execute(context)
    assert retrain(cluster)["versions"][0]["state"] == "refused"
    assert ready(cluster)[:2] == ("False", "CandidateRefused")
    assert status(cluster)["adapter"] == ADAPTER


def one(value: float) -> Interval:
    return Interval(value=value, low=value - 0.01, high=value + 0.01, n=50)


def slower() -> dict[str, Any]:
    """What is measured of a candidate that is as good as what answers, and takes twice as long."""
    return Summary(
        report_digest="sha256:0",
        subjects=[Subject.CURRENT, Subject.CANDIDATE],
        candidate=AdapterIdentity(weights_sha256="0"),
        metrics={
            Subject.CURRENT: {Metric.PERPLEXITY: one(2), Metric.P50_TTFT: one(0.4)},
            Subject.CANDIDATE: {Metric.PERPLEXITY: one(2), Metric.P50_TTFT: one(0.9)},
        },
        differences={Subject.CURRENT: {Metric.PERPLEXITY: one(0), Metric.P50_TTFT: one(0.5)}},
        seconds=1,
    ).to_json()


def test_what_was_measured_goes_with_both_assets(cluster: FakeCluster, context: dict[str, Any]) -> None:
    context["ti"].xcoms[f"{AT}evaluate"] = slower()
    plan = gated(cluster, context, evaluation={"heldOut": 0.2}, gate=["candidate.perplexity < 3"])
    promote_step(cluster).promoted(context, {"ready": True, "message": "ok"})
    measured = {
        "current": {"perplexity": 2, "p50_ttft": 0.4},
        "candidate": {"perplexity": 2, "p50_ttft": 0.9},
    }
    for asset in (assets.ADAPTERS, assets.SERVED):
        [(_, extra)] = context["outlet_events"][asset].events
        assert extra["metrics"] == measured
        assert (extra["digest"], extra["version"], extra["run"]) == (NEW, plan.version, RUN)


def test_a_candidate_that_is_as_good_and_slower_is_refused_for_that_alone(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    planned(cluster, context, evaluation={"heldOut": 0.2})
    changed(cluster, context)
    context["ti"].xcoms[f"{AT}evaluate"] = slower()
    with pytest.raises(AirflowSkipException) as refused:
        gate_step(cluster).execute(context)
    assert "not slower than current: not met (candidate.p50_ttft 0.9" in str(refused.value)
    assert "perplexity" not in str(refused.value)
    assert ready(cluster)[:2] == ("False", "CandidateRefused")
    assert status(cluster)["adapter"] == ADAPTER


def approve_step(cluster: FakeCluster) -> Any:
    return at(approval.ApproveOperator(task_id="approve"), cluster)


def test_without_an_evaluation_a_person_is_asked(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(approval, "upsert_hitl_detail", lambda **given: asked.update(given))
    plan = gated(cluster, context, approval={"by": ["alice"], "timeout": "1d", "onTimeout": "promote"})
    with pytest.raises(TaskDeferred) as deferred:
        approve_step(cluster).execute(context)
    path, arguments = deferred.value.trigger.serialize()
    assert path.endswith("ApprovalTrigger")
    assert (arguments["digest"], arguments["defaults"]) == (NEW, ["Approve"])
    assert asked["assigned_users"] == [{"id": "alice", "name": "alice"}]
    assert OLD in asked["body"]
    assert NEW in asked["body"]
    assert ready(cluster)[1] == "AwaitingApproval"
    assert f"{names.APPROVE}={NEW}" in ready(cluster)[2]
    assert retrain(cluster)["approval"]["version"] == plan.version


def test_who_asks_again_after_a_lost_try_gives_no_more_time(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval, "upsert_hitl_detail", lambda **_: None)
    plan = gated(cluster, context, approval={"timeout": "1d"})
    until = datetime(2026, 11, 28, 12, tzinfo=UTC)
    for version, same in ((plan.version, True), ("20200101.1", False)):
        waits = {"version": version, "digest": NEW, "until": timestamp(until)}
        status(cluster)["retrain"]["approval"] = waits
        with pytest.raises(TaskDeferred) as deferred:
            approve_step(cluster).execute(context)
        assert (deferred.value.trigger.timeout_datetime == until) is same


@pytest.mark.parametrize("yes", [True, False])
def test_who_has_answered_is_not_asked_again_until_the_task_is_cleared(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch, yes: bool
) -> None:
    """Airflow may run a task again that has ended; who clears it gives it more tries."""
    monkeypatch.setattr(approval, "upsert_hitl_detail", lambda **_: None)
    gated(cluster, context)
    event = {"chosen_options": ["Approve" if yes else "Reject"], "responded_by_user": {"name": "bob"}}

    def ends(act: Callable[[], Any]) -> str:
        try:
            return str(act())
        except AirflowSkipException as skipped:
            return str(skipped)

    first = ends(lambda: approve_step(cluster).execute_complete(context, event))
    before = copy.deepcopy(status(cluster))
    assert ends(lambda: approve_step(cluster).execute(context)) == first
    assert status(cluster) == before

    context["ti"].max_tries += 6
    with pytest.raises(TaskDeferred):
        approve_step(cluster).execute(context)
    said_yes = {"chosen_options": ["Approve"], "responded_by_user": {"name": "eve"}}
    assert approve_step(cluster).execute_complete(context, said_yes) == {"by": "eve"}
    [entry] = retrain(cluster)["versions"]
    assert (entry["state"], entry["approvedBy"], entry.get("reason")) == ("candidate", "eve", None)


def test_nobody_is_asked_where_the_policy_decides(cluster: FakeCluster, context: dict[str, Any]) -> None:
    gated(cluster, context, approval={"required": False})
    assert approve_step(cluster).execute(context) == {"by": "the policy"}


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"chosen_options": ["Reject"], "responded_by_user": {"name": "bob"}}, "rejected by bob"),
        (
            {"chosen_options": ["Reject"], "annotation": names.REJECT},
            f"rejected by annotation {names.REJECT}",
        ),
        (
            {"chosen_options": ["Reject"], "responded_by_user": None, "timedout": True},
            "nobody answered in time",
        ),
    ],
)
def test_a_rejected_candidate_is_marked_and_the_service_stays(
    cluster: FakeCluster, context: dict[str, Any], event: dict[str, Any], told: str
) -> None:
    gated(cluster, context)
    with pytest.raises(AirflowSkipException, match=told):
        approve_step(cluster).execute_complete(context, event)
    assert retrain(cluster)["versions"][0]["state"] == "refused"
    assert ready(cluster)[:2] == ("False", "CandidateRefused")


@pytest.mark.parametrize(
    ("event", "by"),
    [
        ({"chosen_options": ["Approve"], "responded_by_user": {"name": "bob"}}, "bob"),
        ({"chosen_options": ["Approve"], "annotation": names.APPROVE}, f"annotation {names.APPROVE}"),
    ],
)
def test_who_approved_is_written_down(
    cluster: FakeCluster, context: dict[str, Any], event: dict[str, Any], by: str
) -> None:
    gated(cluster, context)
    assert approve_step(cluster).execute_complete(context, event) == {"by": by}
    assert retrain(cluster)["versions"][0]["approvedBy"] == by


@pytest.mark.parametrize(
    ("given", "yes"),
    [
        (NEW, True),
        (NEW[:19], True),
        ("b" * 12, True),
        ("b" * 11, False),
        (OLD, False),
        (None, False),
        ("", False),
    ],
)
def test_an_annotation_means_the_digest_that_it_names(given: str | None, yes: bool) -> None:
    assert means(given, NEW) is yes


def approval_trigger(until: datetime | None = None) -> ApprovalTrigger:
    return ApprovalTrigger(
        ti_id=UUID(int=1),
        options=["Approve", "Reject"],
        params={},
        defaults=None,
        multiple=False,
        timeout_datetime=until,
        poke_interval=0.01,
        workspace=NAME,
        namespace="default",
        digest=NEW,
        kubernetes_conn_id="kubernetes_default",
    )


@pytest.mark.parametrize(
    ("annotations", "option"),
    [
        ({names.APPROVE: NEW}, "Approve"),
        ({names.REJECT: NEW[:19]}, "Reject"),
        ({names.APPROVE: NEW, names.REJECT: NEW}, "Reject"),
        ({names.APPROVE: NEW, names.REJECT: OLD}, "Approve"),
        ({names.REJECT: OLD}, None),
        ({}, None),
    ],
)
async def test_an_annotation_answers_for_its_candidate_alone(
    monkeypatch: pytest.MonkeyPatch, annotations: dict[str, str], option: str | None
) -> None:
    made = approval_trigger()

    class Hook:
        looks = 0

        def __init__(self, **_: object) -> None:
            pass

        async def find(self, *_: object) -> dict[str, Any]:
            Hook.looks += 1
            # An answer for nobody leaves it waiting; that is enough after three looks.
            late = {names.APPROVE: NEW} if option is None and Hook.looks > 3 else annotations
            return {"metadata": {"annotations": late}}

    async def too_soon() -> NoReturn:
        raise AssertionError("Airflow resumes the task by itself")

    monkeypatch.setattr(retraining_triggers, "AsyncKaitoClusterHook", Hook)
    monkeypatch.setattr(made, "_answer", too_soon)
    monkeypatch.setattr(made, "_in_airflow", lambda _: too_soon())
    event = await anext(made.run())
    assert event.payload["chosen_options"] == [option or "Approve"]
    assert (Hook.looks > 3) is (option is None)


@pytest.mark.parametrize("late", [True, False])
async def test_an_answer_is_waited_for_while_airflow_s_database_is_away(
    monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    made = approval_trigger(datetime(2020, 1, 1, tzinfo=UTC) if late else None)
    answer = TriggerEvent({"chosen_options": ["Approve"]})
    looks: list[Any] = [OSError("database is locked"), answer]

    async def look() -> TriggerEvent:
        found = looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return cast(TriggerEvent, found)

    async def nobody(_: Any) -> None:
        return None

    monkeypatch.setattr(retraining_triggers, "ASKED_EVERY", timedelta())
    monkeypatch.setattr(made, "_handle_timeout" if late else "_answer", look)
    monkeypatch.setattr(made, "_annotated", nobody)
    assert await anext(made.run()) is answer


# -- the promotion -------------------------------------------------------------------------------------------------


def promote_step(cluster: FakeCluster) -> Any:
    return at(promotion.PromoteOperator(task_id="promote"), cluster)


def test_a_promotion_is_asked_for_once_and_the_way_back_is_kept(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    plan = gated(cluster, context, bake={"time": "90s"})
    for _ in range(2):
        with pytest.raises(TaskDeferred) as deferred:
            promote_step(cluster).execute(context)
    assert isinstance(deferred.value.trigger, PromotionTrigger)
    wanted = retrain(cluster)["promotion"]
    assert (wanted["version"], wanted["state"], wanted["bakeSeconds"]) == (plan.version, "wanted", 90)
    assert wanted["earlier"] == ADAPTER
    assert wanted["reference"] == PUSHED["reference"]
    assert "percent" not in wanted
    assert [one["version"] for one in retrain(cluster)["versions"]] == ["original", plan.version]
    assert status(cluster)["adapter"] == ADAPTER  # the reconciler's to change


def test_a_promotion_may_begin_as_a_canary(cluster: FakeCluster, context: dict[str, Any]) -> None:
    gated(cluster, context, canary={"percent": 10, "time": "90s"})
    with pytest.raises(TaskDeferred) as deferred:
        promote_step(cluster).execute(context)
    wanted = retrain(cluster)["promotion"]
    assert (wanted["percent"], wanted["canarySeconds"], wanted["state"]) == (10, 90, "wanted")
    assert deferred.value.trigger.timeout_seconds > 90 + promotion.ROLLED_OUT_WITHIN.total_seconds()


def test_an_edited_workspace_takes_no_version_of_its_old_spec(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    gated(cluster, context)
    with pytest.raises(TaskDeferred):
        promote_step(cluster).execute(context)
    assert (
        retrain(cluster)["promotion"]["generation"] == 1
    )  # the reconciler gives it up for another generation


def test_a_served_version_is_an_asset_and_one_that_was_taken_back_fails_the_run(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    gated(cluster, context)
    promote_step(cluster).promoted(context, {"ready": True, "message": "ok"})
    assert context["outlet_events"][assets.SERVED].events[0][0] == f"x-kaito://served/default/{NAME}"
    step = promote_step(cluster)
    step.promoted(context, {"ready": True, "message": "ok"})
    assert [one.version for one in (*step.lineage_inputs, *step.lineage_outputs)] == [NEW, NEW]
    with pytest.raises(AirflowFailException, match="taken back"):
        promote_step(cluster).promoted(context, {"ready": False, "message": "it was taken back"})


GOLDEN = """
- {id: one, prompt: "What is 1 + 1?", expected: "2", matcher: contains}
- {id: two, prompt: "What is 2 + 2?", expected: "4", matcher: contains}
"""


@pytest.mark.parametrize(
    ("answers", "breach"),
    [
        (["It is 2.", "It is 4."], ""),
        (["It is 2.", "It is 5."], ""),
        (["It is 3.", "It is 5."], "2 of 2 golden questions wrongly"),
        (
            [
                ClusterError(503, "Unavailable", "nobody answers"),
                ClusterError(503, "Unavailable", "nobody answers"),
            ],
            "2 of 2",
        ),
    ],
)
@pytest.mark.parametrize("percent", [0, 10])
def test_what_has_been_rolled_out_is_asked_what_its_version_knew(
    cluster: FakeCluster, context: dict[str, Any], answers: list[Any], breach: str, percent: float
) -> None:
    golden = {"metadata": {"name": "golden"}, "data": {"golden.yaml": GOLDEN}}
    cluster.add(CONFIG_MAP, golden)
    measured = Summary(
        report_digest="sha256:0",
        subjects=[Subject.CANDIDATE],
        candidate=AdapterIdentity(weights_sha256="0"),
        metrics={Subject.CANDIDATE: {Metric.GOLDEN: Interval(value=1, low=1, high=1, n=2)}},
        differences={},
        golden=GoldenCount(total=2, failed=0),
        seconds=1,
    )
    context["ti"].xcoms[f"{AT}evaluate"] = measured.to_json()
    gated(cluster, context, evaluation={"goldenSet": "golden"}, gate=["candidate.golden == 1"])
    with pytest.raises(TaskDeferred) as deferred:
        promote_step(cluster).execute(context)
    assert deferred.value.trigger.until_it_bakes
    cluster.answers = [one if isinstance(one, Exception) else {"Result": one} for one in answers]
    if percent:
        status(cluster)["retrain"]["promotion"] |= {"state": "canary", "percent": percent}
    asked = []
    answer = cluster.post_to_service
    cluster.post_to_service = lambda *a, **k: asked.append(dict(k["headers"])) or answer(*a, **k)  # type: ignore[method-assign,func-returns-value]
    with pytest.raises(TaskDeferred) as deferred:
        promote_step(cluster).promoted(context, {"ready": True, "message": "it answers", "baking": True})
    assert not deferred.value.trigger.until_it_bakes
    assert len(asked) == 2
    ids = [headers.get("x-request-id", "") for headers in asked]
    assert all(canary.answers(one, percent) for one in ids) if percent else ids == ["", ""]
    assert breach in retrain(cluster)["promotion"].get("breach", "")
    assert bool(retrain(cluster)["promotion"].get("breach")) is bool(breach)


async def test_a_wait_for_the_bake_comes_back_before_its_end() -> None:
    trigger = PromotionTrigger(
        workspace=NAME,
        namespace="default",
        kubernetes_conn_id="k",
        timeout_seconds=1,
        poll_seconds=1,
        version="1",
        until_it_bakes=True,
    )
    known = {"versions": [{"version": "1", "state": "promoted"}]}
    loading, answering = {"state": "canary"}, {"state": "canary", "until": "2026-11-29T00:00:00Z"}
    stages = [(loading, False), (answering, True), ({"state": "rolling"}, False), ({"state": "baking"}, True)]
    for stage, ready_now in stages:
        trigger.live = {"status": {"retrain": {**known, "promotion": {"version": "1", **stage}}}}
        seen = await trigger.observe(None)  # type: ignore[arg-type]
        assert seen.ready is ready_now
    event = trigger.success(seen)
    assert event.payload == {"ready": True, "message": "Version 1 answers.", "baking": True}
    assert trigger.serialize()[1]["until_it_bakes"] is True


@pytest.mark.parametrize(
    ("entry", "on_its_way", "expected"),
    [
        ({"state": "candidate"}, True, (False, False)),
        ({"state": "promoted"}, True, (False, False)),
        ({"state": "promoted"}, False, (True, False)),
        ({"state": "rolledBack", "reason": "it did not become ready"}, False, (False, True)),
        ({"state": "refused", "reason": "edited"}, False, (False, True)),
    ],
)
async def test_the_wait_ends_when_the_reconciler_has_decided(
    entry: dict[str, Any], on_its_way: bool, expected: tuple[bool, bool]
) -> None:
    trigger = PromotionTrigger(
        workspace=NAME,
        namespace="default",
        kubernetes_conn_id="k",
        timeout_seconds=1,
        poll_seconds=1,
        version="1",
    )
    known = {"versions": [{"version": "1", **entry}]}
    trigger.live = {
        "status": {"retrain": {**known, **({"promotion": {"version": "1"}} if on_its_way else {})}}
    }
    seen = await trigger.observe(None)  # type: ignore[arg-type]
    assert (seen.ready, seen.failed) == expected
    assert seen.silent
    if seen.failed:
        assert entry["reason"] in seen.message


# -- the end -------------------------------------------------------------------------------------------------------

STEPS = ["preflight", "fetch_dataset", "judge_change", "create_gpu_pool", "tune", "publish_adapter"]


def record_step(cluster: FakeCluster) -> Any:
    made = RecordRetrainingOperator(
        task_id="record",
        needed=[AT + step for step in STEPS],
        endings=[AT + step for step in ("judge_change", "gate", "approve")],
    )
    return at(made, cluster)


def states(context: dict[str, Any], **changes: str) -> None:
    whole = dict.fromkeys([*STEPS, "gate", "approve", "promote"], "success") | changes
    context["ti"].states = {AT + step: state for step, state in whole.items()}


def with_candidate(cluster: FakeCluster, plan: Retraining, usd: float = 2.5) -> None:
    claims = [
        {"name": "n", "usdPerHour": 1.0, "since": "2026-11-28T00:00:00Z", "until": "2026-11-28T02:30:00Z"}
    ]
    obj = {
        "metadata": {"name": plan.candidate, "labels": {names.RETRAIN_OF: NAME}},
        "status": {"cost": {"claims": claims}},
    }
    cluster.add(WORKSPACE, obj)


def test_a_run_to_the_end_counts_its_cost_once_and_lets_the_candidate_go(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    plan = gated(cluster, context)
    with_candidate(cluster, plan)
    states(context)
    record_step(cluster).execute(context)
    assert retrain(cluster)["run"]["state"] == "success"
    assert retrain(cluster)["usd"] == retrain(cluster)["versions"][0]["usd"]
    assert ("workspaces", plan.candidate) in cluster.deleted
    before = retrain(cluster)["usd"]
    with_candidate(cluster, plan)
    record_step(cluster).execute(context)
    assert retrain(cluster)["usd"] == before


@pytest.mark.parametrize("step", ["judge_change", "gate", "approve"])
def test_a_run_that_ends_early_for_a_reason_is_green(
    cluster: FakeCluster, context: dict[str, Any], step: str
) -> None:
    planned(cluster, context)
    order = [*STEPS, "gate", "approve", "promote"]
    states(context, **dict.fromkeys(order[order.index(step) :], "skipped"))
    record_step(cluster).execute(context)
    assert retrain(cluster)["run"]["state"] == "success"


def test_a_run_that_failed_says_so_and_leaves_everything_as_it_was(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    plan = planned(cluster, context)
    changed(cluster, context)
    with_candidate(cluster, plan)
    states(context, tune="failed", publish_adapter="upstream_failed", gate="upstream_failed")
    with pytest.raises(AirflowFailException, match=r"failed: retrain\.tune"):
        record_step(cluster).execute(context)
    assert retrain(cluster)["versions"][0]["state"] == "failed"
    assert ready(cluster)[:2] == ("False", "RetrainFailed")
    assert status(cluster)["adapter"] == ADAPTER
    assert cluster.deleted == []  # its volume has what a second try goes on from


# -- before anything is applied ------------------------------------------------------------------------------------


def test_a_policy_is_checked_with_the_workspace_that_names_it(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    from kaito.controller import references

    from include.catalog import load_catalog

    workspace["metadata"]["annotations"] = {names.RETRAIN_POLICY: "rules"}
    place = (CONFIG_MAP.plural, "rules")
    missing = references.faults(workspace, {place: None}, None, load_catalog())
    assert [fault.rule for fault in missing] == ["P5"]
    text = "evaluation: {}\ncoolDwn: 1h\n"
    wrong = references.faults(
        workspace, {place: {"data": {"retrain_policy.yaml": text}}}, None, load_catalog()
    )
    assert [(fault.rule, fault.hint) for fault in wrong] == [("D6", "did you mean coolDown?")]
    assert "coolDwn" in wrong[0].path
    text = "evaluation: {}\ngate: [candidate.perplexty < 2.0]\n"
    wrong = references.faults(
        workspace, {place: {"data": {"retrain_policy.yaml": text}}}, None, load_catalog()
    )
    assert [fault.rule for fault in wrong] == ["E1"]
    assert references.user_config(workspace, {place: {"data": {"retrain_policy.yaml": text}}}) == {}


def test_check_on_the_command_line_names_the_line_of_a_wrong_policy() -> None:
    from include.cli.checking import check
    from include.cli.sources import Source
    from include.workspace import Policy

    text = """\
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: w, annotations: {kaito.sh/retrain-policy: rules}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: rules}
data:
  retrain_policy.yaml: |
    keep: 3
    coolDwn: 6h
"""
    report = check([Source("x.yaml", text.encode())], Policy())
    found = [one for file in report.files for document in file.documents for one in document.faults]
    assert [(one.line, one.fault.rule) for one in found if one.fault.rule == "D6"] == [(11, "D6")]


@pytest.mark.usefixtures("established_crd")
def test_the_steps_of_a_dag_of_ones_own_work_on_the_candidate(
    cluster: FakeCluster, context: dict[str, Any], tuned: dict[str, Any]
) -> None:
    from airflow.sdk import DAG
    from kaito.pipelines import retrain as group

    with DAG("weekly", schedule=None) as dag:
        group(NAME, policy={"approval": {"required": False}}, group_id="renew")
    for task in dag.tasks:
        task.cluster = cluster
    xcoms = context["ti"].xcoms = {}
    for step in ("plan_candidate", "preflight"):
        xcoms[f"renew.{step}"] = dag.get_task(f"renew.{step}").execute(context)
    name = xcoms["renew.plan_candidate"]["candidate"]
    made = cluster.objects["workspaces", "default", name]
    assert made["metadata"]["ownerReferences"][0]["uid"] == tuned["metadata"]["uid"]
    assert made["metadata"]["annotations"][names.STARTED_BY] == f"weekly/{RUN}"
    assert made["status"]["run"]["id"] == RUN
    run = dag.get_task("renew.tune").this_run(context)
    assert (run.name, run.serving_plan) == (name, None)
    pod = dag.get_task("renew.fetch_dataset").pod_manifest(run, context)
    assert pod["metadata"]["name"].startswith(f"{name}-g1")
    assert status(cluster)["adapter"] == ADAPTER
    assert "SECRET" not in str(xcoms)
