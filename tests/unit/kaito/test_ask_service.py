"""What `kaito_ask` runs: a question to every model of a service that is ready, and never to another one."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kaito.hooks.api import SECRET, WORKSPACE, ClusterError
from kaito.operators.asking import AskServiceOperator
from kaito.params import ask_params

from tests.support.fake_cluster import FakeCluster
from tests.support.fleet import SERVING, TRAINING, reached

DEFAULTS = {key: param.value for key, param in ask_params().items()}
MODELS = {"data": [{"id": "base"}, {"id": "served"}]}


def said(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}}]}


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    made.add(WORKSPACE, reached(*SERVING, name="served"))
    made.add(WORKSPACE, reached(*TRAINING, name="training"))
    made.said = [MODELS]
    made.answers = [said("I am base."), said("I am tuned.")]
    return made


def ask(cluster: FakeCluster, **conf: Any) -> dict[str, str]:
    given = {"name": "served", "namespace": "team", "question": "Who are you?", **conf}
    operator = AskServiceOperator(
        task_id="ask", workspace=given["name"], namespace=given["namespace"], question=given["question"]
    )
    operator.cluster = cluster  # type: ignore[misc, assignment]
    context: Any = {"dag_run": SimpleNamespace(conf=given), "params": {**DEFAULTS, **given}}
    return operator.execute(context)


def test_every_model_answers(cluster: FakeCluster) -> None:
    assert ask(cluster) == {"base": "I am base.", "served": "I am tuned."}


@pytest.mark.parametrize(
    ("conf", "sentence"),
    [
        ({"name": "gone"}, "There is no Workspace team/gone"),
        ({"name": "training"}, "is not ready"),
        ({"name": "No/Name"}, "is not a valid name"),
        ({"namespace": "kube-system"}, "kube-system"),
        ({"question": "  "}, "question: is empty"),
        ({"qestion": "x"}, "did you mean question"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words_and_unasked(
    cluster: FakeCluster, conf: dict[str, str], sentence: str
) -> None:
    with pytest.raises(AirflowFailException, match=sentence):
        ask(cluster, **conf)
    assert len(cluster.answers) == 2


def test_a_model_that_embeds_is_asked_no_question_and_said_where_it_answers(cluster: FakeCluster) -> None:
    cluster.models = {"data": [{"id": "minilm", "task": "embed"}]}
    with pytest.raises(
        AirflowFailException, match="minilm embeds texts and writes none: ask it at POST /v1/emb"
    ):
        ask(cluster)
    assert len(cluster.answers) == 2


def test_the_setting_turns_it_off(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__UI_ASK", "false")
    with pytest.raises(AirflowFailException, match="ui_ask"):
        ask(cluster)
    assert len(cluster.answers) == 2


def test_an_answer_that_fails_fails_the_task_and_may_be_tried_again(cluster: FakeCluster) -> None:
    cluster.answers = [said("I am base."), ClusterError(500, "InternalError", "out of memory")]
    with pytest.raises(AirflowException, match=r"Model served does not answer: .*out of memory"):
        ask(cluster)
    cluster.answers = [{"choices": []}]
    with pytest.raises(AirflowException, match="not as the OpenAI API"):
        ask(cluster)
    cluster.models = {"data": []}
    with pytest.raises(AirflowException, match="names no model"):
        ask(cluster)


def test_the_service_s_key_goes_along(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    beta = {**reached(*SERVING, name="beta"), "apiVersion": "kaito.sh/v1beta1"}
    beta["metadata"]["annotations"] = {"kaito.sh/rollout": "true"}
    cluster.add(WORKSPACE, beta)
    key = base64.b64encode(b"key-of-the-service-0123").decode()
    cluster.add(SECRET, {"metadata": {"name": "beta-api-key", "namespace": "team"}, "data": {"API_KEY": key}})
    headers = []

    def answered(*_: Any, **given: Any) -> Any:
        headers.append(given["headers"])
        return said("Yes.")

    monkeypatch.setattr(cluster, "post_to_service", answered)
    ask(cluster, name="beta")
    assert headers == [{"X-Api-Key": "key-of-the-service-0123"}] * 2
