"""Models of the hub: looked up once, by the first task, and carried in the plan."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import CRD, SECRET, WORKSPACE, ClusterError
from kaito.lookup import look_up, token_in

from include.planning import Plan
from include.workspace import workspace_crd
from tests.support.fake_cluster import QUICK_START, FakeCluster
from tests.support.hub_server import COMMIT, CONFIG, HubServer, running
from tests.support.tasks import preflight

pytestmark = pytest.mark.usefixtures("established_crd")

NAME = "acme/Tiny-Llama"
TOKEN = "hf_secret"


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture(autouse=True)
def established_crd(cluster: FakeCluster) -> None:
    definition = workspace_crd()
    definition["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
    cluster.add(CRD, definition)
    cluster.add(SECRET, {"metadata": {"name": "push"}, "type": "kubernetes.io/dockerconfigjson"})
    cluster.add(
        SECRET,
        {"metadata": {"name": "hub"}, "data": {"HF_TOKEN": base64.b64encode(TOKEN.encode()).decode()}},
    )


def tuning(name: str = NAME, machine: str = "Standard_NC24ads_A100_v4", **preset: Any) -> dict[str, Any]:
    document = copy.deepcopy(QUICK_START)
    document["metadata"] = {"name": "tune", "namespace": "default"}
    document["tuning"]["input"]["urls"] = ["https://example.com/train.parquet"]
    document["tuning"]["preset"] = {"name": name, **preset}
    document["resource"]["instanceType"] = machine
    if preset:
        document["apiVersion"] = "kaito.sh/v1beta1"
    return {"workspace": document}


def serving(name: str = NAME) -> dict[str, Any]:
    document = tuning(name)["workspace"]
    del document["tuning"]
    document["inference"] = {"preset": {"name": name}}
    return {"workspace": document}


def test_a_model_of_the_hub_is_planned_at_its_commit(cluster: FakeCluster, hub: HubServer) -> None:
    hub.model(NAME)
    result = preflight(cluster, tuning())
    plan = Plan.from_dict(result["plan"])
    assert (plan.model, plan.model_id, plan.revision) == ("tiny-llama", NAME, COMMIT)
    assert plan.weights_bytes == 2471645608
    assert plan.target_modules
    assert Plan.from_dict(result["serving_plan"]).revision == COMMIT
    assert len(hub.asked) == 3, "one look: the model, its config, and that file's redirect"


def test_a_model_of_the_hub_is_served(cluster: FakeCluster, hub: HubServer) -> None:
    hub.model(NAME, CONFIG | {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]})
    plan = Plan.from_dict(preflight(cluster, serving(), "serving")["plan"])
    assert (plan.purpose, plan.revision) == ("serving", COMMIT)


def test_a_preset_is_never_looked_up(cluster: FakeCluster, hub: HubServer) -> None:
    preflight(cluster, tuning("microsoft/phi-3-mini-128k-instruct"))
    assert hub.asked == []


def test_the_presets_secret_opens_a_gated_model_and_stays_secret(
    cluster: FakeCluster, hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    hub.model(NAME, gated="manual")
    result = preflight(cluster, tuning(presetOptions={"modelAccessSecret": "hub"}))
    assert {headers.get("authorization") for _, headers in hub.asked} == {f"Bearer {TOKEN}"}
    assert TOKEN not in str(result) + caplog.text + str(cluster.objects["workspaces", "default", "tune"])


def test_a_gated_model_without_a_secret_is_refused_as_a_preset_would_be(
    cluster: FakeCluster, hub: HubServer
) -> None:
    hub.model(NAME, gated="manual")
    with pytest.raises(AirflowFailException, match=r"modelAccessSecret: .*gated, so a secret is required"):
        preflight(cluster, tuning(presetOptions={}))


def test_what_the_hub_refuses_is_one_fault_among_all(cluster: FakeCluster, hub: HubServer) -> None:
    with pytest.raises(AirflowFailException) as refused:
        preflight(cluster, tuning(machine="Standard_NC6s_v33"))
    text = str(refused.value)
    assert "The hub has no model acme/Tiny-Llama" in text
    assert "[I4]" in text
    assert "Standard_NC6s_v33" in text
    assert "is not a known preset" not in text
    assert cluster.list(WORKSPACE) == []


def test_a_model_that_cannot_be_tuned_is_refused(cluster: FakeCluster, hub: HubServer) -> None:
    hub.model(NAME, CONFIG | {"quantization_config": {"quant_method": "awq"}})
    with pytest.raises(AirflowFailException, match="cannot be tuned"):
        preflight(cluster, tuning())


def test_a_hub_without_an_answer_is_tried_again_unless_there_are_other_faults(
    cluster: FakeCluster, hub: HubServer
) -> None:
    hub.answer(f"/api/models/{NAME}/revision/main", status=503)
    with pytest.raises(RuntimeError, match="answered 503") as failed:
        preflight(cluster, tuning())
    assert not isinstance(failed.value, AirflowFailException)
    with pytest.raises(AirflowFailException, match=r"(?s)answered 503.*Standard_NC6s_v33"):
        preflight(cluster, tuning(machine="Standard_NC6s_v33"))


def test_an_installation_may_forbid_looking(
    cluster: FakeCluster, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__HUB_LOOKUP", "false")
    hub.model(NAME)
    with pytest.raises(AirflowFailException, match="is not a known preset"):
        preflight(cluster, tuning())
    assert hub.asked == []


def test_a_new_name_of_a_preset_says_so(cluster: FakeCluster, hub: HubServer) -> None:
    hub.answer(
        "/api/models/old/phi/revision/main", status=307, location="/api/models/microsoft/phi-4/revision/main"
    )
    hub.model("microsoft/phi-4")
    with pytest.raises(AirflowFailException, match="microsoft/phi-4 is in the catalogue already"):
        preflight(cluster, tuning("old/phi"))


def test_a_secret_that_may_not_be_read_gives_no_token(cluster: FakeCluster, hub: HubServer) -> None:
    hub.model(NAME)
    cluster.refuse["get", "secrets"] = ClusterError(403, "Forbidden", "secrets is forbidden")
    assert (
        preflight(cluster, tuning(presetOptions={"modelAccessSecret": "hub"}))["plan"]["revision"] == COMMIT
    )
    assert not any("authorization" in headers for _, headers in hub.asked)


@pytest.mark.parametrize(
    "secret",
    [
        None,
        {},
        {"data": None},
        {"data": {"HF_TOKEN": "%%%"}},
        {"data": {"HF_TOKEN": "/w=="}},
        {"data": {"HF_TOKEN": "YQpi"}},
    ],
)
def test_a_secret_without_a_usable_token_gives_none(secret: dict[str, Any] | None) -> None:
    assert token_in(secret) is None


@pytest.mark.parametrize(
    "document", [{}, {"tuning": None}, {"tuning": {"preset": []}}, {"inference": {"preset": {"name": 3}}}]
)
def test_documents_that_name_no_model_are_for_the_rules(document: dict[str, Any]) -> None:
    assert look_up(document, lambda: None).fault is None
