"""The step that evaluates makes a pod only where the policy wants one, and reports numbers in the condition."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import CONFIG_MAP
from kaito.operators.evaluation import EvaluateOperator, policy_of, sentence
from kaito.tasks import golden_sets

from include.contracts.evaluation import AdapterIdentity, Interval, Metric, Subject, Summary
from tests.support.fake_cluster import FakeCluster

NAME = "workspace-tuning-phi-3"
GOLDEN = '- {prompt: "Capital?", expected: Paris}'
SUMMARY = Summary(
    report="evaluation/0/report.json",
    report_digest="sha256:0",
    subjects=[Subject.BASE, Subject.CANDIDATE],
    candidate=AdapterIdentity(weights_sha256="0"),
    metrics={
        subject: {Metric.GOLDEN: Interval(value=value, low=0, high=1, n=9)}
        for subject, value in ((Subject.BASE, 0.25), (Subject.CANDIDATE, 0.75))
    },
    differences={},
    seconds=1,
).to_json()


@pytest.fixture
def evaluate(cluster: FakeCluster, context: dict[str, Any], workspace: dict[str, Any]) -> EvaluateOperator:
    operator = EvaluateOperator(task_id="evaluate")
    operator.cluster = cluster
    context["ti"].xcoms["plan_candidate"] = {"policy": {"evaluation": {"goldenSet": "questions"}}}
    context["ti"].xcoms["tune"] = {"adapter": {"sha256": "abc"}, "trained_rows_digest": "sha256:1"}
    context["ti"].xcoms["fetch_dataset"] = {"digest": "sha256:2"}
    return operator


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The pods that the provider's operator was asked for."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(
        KubernetesPodOperator, "execute", lambda self, context: found.append(self.pod_template_dict)
    )
    return found


def test_without_an_evaluation_in_the_policy_there_is_no_pod(
    evaluate: EvaluateOperator, context: dict[str, Any], asked: list[dict[str, Any]]
) -> None:
    for planned in ({"policy": {"evaluation": None}}, {"policy": {}}, None):
        context["ti"].xcoms["plan_candidate"] = planned
        assert evaluate.execute(context) == {}
    assert asked == []


def test_the_pod_has_what_the_tuning_and_the_dataset_have_reported(
    evaluate: EvaluateOperator, context: dict[str, Any], cluster: FakeCluster, asked: list[dict[str, Any]]
) -> None:
    cluster.add(CONFIG_MAP, _golden(GOLDEN))
    evaluate.execute(context)
    (pod,) = asked
    env = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
    assert env["ADAPTER_SHA256"] == "abc"
    assert env["TRAINED_ROWS_DIGEST"] == "sha256:1"
    assert env["DATASET_DIGEST"] == "sha256:2"


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "does not exist"), ("", "no rows"), ('- {prompt: "?", matcher: exakt}', "did you mean exact")],
)
def test_a_golden_set_that_is_broken_now_ends_it_before_the_pod(
    evaluate: EvaluateOperator,
    context: dict[str, Any],
    cluster: FakeCluster,
    asked: list[dict[str, Any]],
    text: str | None,
    says: str,
) -> None:
    if text is not None:
        cluster.add(CONFIG_MAP, _golden(text))
    with pytest.raises(AirflowFailException, match=says):
        evaluate.execute(context)
    assert asked == []
    assert says in cluster.condition(NAME, "JobStarted")["message"]


def test_a_golden_set_that_lies_elsewhere_is_copied_beside_the_candidate(
    evaluate: EvaluateOperator,
    context: dict[str, Any],
    cluster: FakeCluster,
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = {"goldenSet": {"image": "r.example.com/golden:1"}}
    context["ti"].xcoms["plan_candidate"] = {"policy": {"evaluation": wanted}}
    read = [GOLDEN.encode(), b"- prompt: 3\n"]
    monkeypatch.setattr(golden_sets, "text_of", lambda *_: read.pop(0))
    evaluate.execute(context)
    copy = cluster.find(CONFIG_MAP, f"{NAME}-golden", "default") or {}
    assert copy["data"] == {"golden.yaml": GOLDEN}
    assert copy["metadata"]["ownerReferences"][0]["name"] == NAME
    [volume] = [one for one in asked[0]["spec"]["volumes"] if one["name"] == "golden"]
    assert volume["configMap"]["name"] == f"{NAME}-golden"
    with pytest.raises(AirflowFailException, match=r"image r.example.com/golden:1\) cannot be used: .*\[0\]"):
        evaluate.execute(context)


def test_the_condition_has_the_numbers(
    evaluate: EvaluateOperator,
    context: dict[str, Any],
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = SimpleNamespace(
        name="evaluation",
        state=SimpleNamespace(
            terminated=SimpleNamespace(exit_code=0, message=json.dumps(SUMMARY), reason="")
        ),
    )
    pod = SimpleNamespace(
        metadata=SimpleNamespace(deletion_timestamp=None),
        status=SimpleNamespace(container_statuses=[ended], conditions=[], phase="Succeeded", reason=None),
    )
    monkeypatch.setattr(KubernetesPodOperator, "trigger_reentry", lambda self, *_: setattr(self, "pod", pod))
    event = {"status": "success", "name": "p", "namespace": "default", "message": ""}
    assert evaluate.trigger_reentry(context, event) == SUMMARY
    told = cluster.condition(NAME, "JobStarted")["message"]
    assert told == "Evaluated: golden: candidate 0.75, base 0.25"


def test_what_is_no_report_is_said_so_and_no_policy_is_none() -> None:
    assert sentence({}) == "without a readable report"
    assert policy_of({}) is None


def _golden(text: str) -> dict[str, Any]:
    return {"metadata": {"name": "questions", "namespace": "default"}, "data": {"golden.yaml": text}}
