"""What a new service is asked before its Workspace is ready: its models, one question, and nothing of a template's."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException
from kaito.operators.rollout import AskOperator
from kaito.tasks import served_adapters

from tests.support.fake_cluster import FakeCluster
from tests.support.rollouts import NAME


def asked(cluster: FakeCluster, context: dict[str, Any]) -> dict[str, str]:
    operator = AskOperator(task_id="ask", question="What is KAITO?")
    operator.cluster = cluster
    return operator.execute(context)


def serving(context: dict[str, Any], **inference: Any) -> None:
    """Make the run's Workspace one that only serves."""
    document = context["ti"].xcoms["preflight"]["workspace"]
    document.pop("tuning", None)
    document["inference"] = {"preset": {"name": "phi-3-mini-128k-instruct"}, **inference}


def listing(*names: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name} for name in names]}


@pytest.mark.parametrize("said", [listing("phi-3"), listing(), {"error": "x"}, "nonsense", {}, {"data": [1]}])
def test_a_service_that_does_not_list_its_adapter_is_not_ready(
    cluster: FakeCluster, context: dict[str, Any], said: Any
) -> None:
    cluster.models, cluster.answers = said, [{"Result": "42"}]
    with pytest.raises(AirflowException, match="at /v1/models"):
        asked(cluster, context)
    assert cluster.condition(NAME, "WorkspaceReady")["status"] == "False"
    told = cluster.condition(NAME, "InferenceReady")["message"]
    assert "is ready but does not answer: it lists" in told


def test_every_adapter_is_looked_for_also_those_of_volumes(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    claim = {"persistentVolumeClaim": {"claimName": "c"}}
    sources = [{"name": "one", "volumeSource": claim}, {"name": "two", "volumeSource": claim}]
    serving(context, adapters=[{"source": source} for source in sources])
    cluster.models, cluster.answers = listing("phi-3", "one"), [{"Result": "42"}]
    with pytest.raises(AirflowException, match="lists phi-3, one at /v1/models, and not two"):
        asked(cluster, context)
    cluster.models = listing("phi-3", "one", "two")
    assert asked(cluster, context)["answer"] == "42"
    assert cluster.condition(NAME, "WorkspaceReady")["status"] == "True"


def test_a_service_without_adapters_lists_its_model() -> None:
    assert served_adapters.check_listed(listing("phi-3"), ()) == ["phi-3"]


def test_a_pod_template_is_ready_by_its_own_probes_and_is_not_asked(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    """It may answer to anything: one without /chat was failed, and its machines went."""
    serving(context, template={"spec": {"containers": [{"name": "x", "image": "nginx:1"}]}})
    context["ti"].xcoms["preflight"]["workspace"]["inference"].pop("preset")
    assert asked(cluster, context) == {"question": "", "answer": ""}
    assert cluster.condition(NAME, "WorkspaceReady")["status"] == "True"
    assert "by the probes of their template" in cluster.condition(NAME, "WorkspaceReady")["message"]
