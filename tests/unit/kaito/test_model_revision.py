"""A model that follows a branch of its repository is pinned when a Workspace's first run begins, and stays so."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import WORKSPACE

from include import manifests
from tests.support.fake_cluster import QUICK_START, FakeCluster
from tests.support.hub_server import COMMIT, HubServer, model_info, running
from tests.support.tasks import preflight

pytestmark = pytest.mark.usefixtures("established_crd")

PRESET, HF_ID = "qwen3-8b-awq", "Qwen/Qwen3-8B-AWQ"
NEWER = "0123abcd" * 5
BY_NAME = {"name": "serve"}
MAIN = f"/api/models/{HF_ID}/revision/main"


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        server.answer(MAIN, model_info(HF_ID))
        yield server


@pytest.fixture(autouse=True)
def live(cluster: FakeCluster) -> dict[str, Any]:
    return _add(cluster, PRESET)


def _add(cluster: FakeCluster, preset: str) -> dict[str, Any]:
    document = copy.deepcopy(QUICK_START)
    document |= {"apiVersion": "kaito.sh/v1beta1", "inference": {"preset": {"name": preset}}}
    del document["tuning"]
    document["metadata"] = {"name": "serve", "namespace": "default", "uid": "0123abcd-0000", "generation": 1}
    document["resource"]["instanceType"] = "Standard_NC24ads_A100_v4"
    return cluster.add(WORKSPACE, document)


def revision(cluster: FakeCluster, generation: int = 1) -> str:
    """What the next run of this generation takes, once the one before is over."""
    stored = cluster.objects["workspaces", "default", "serve"]
    stored["metadata"]["generation"] = generation
    stored.get("status", {}).pop("run", None)
    run_id = f"default.serve.0123abcd.g{generation}"
    return str(preflight(cluster, BY_NAME, "serving", run_id)["plan"]["revision"])


def model(cluster: FakeCluster) -> dict[str, Any]:
    return dict(cluster.objects["workspaces", "default", "serve"]["status"]["model"])


def test_a_branch_is_the_commit_that_it_is_now_and_the_status_says_so(
    cluster: FakeCluster, hub: HubServer
) -> None:
    assert revision(cluster) == COMMIT
    assert model(cluster) == {"name": PRESET, "id": HF_ID, "revision": COMMIT, "generation": 1}
    assert len(hub.asked) == 1


def test_the_commit_stays_when_the_branch_moves(
    cluster: FakeCluster, hub: HubServer, live: dict[str, Any]
) -> None:
    revision(cluster)
    hub.answer(MAIN, model_info(HF_ID, sha=NEWER))
    asked = len(hub.asked)
    assert revision(cluster) == COMMIT
    assert revision(cluster, 2) == COMMIT
    assert len(hub.asked) == asked, "what is known is not asked again"


def test_a_revision_that_is_asked_for_takes_its_place(
    cluster: FakeCluster, hub: HubServer, live: dict[str, Any]
) -> None:
    revision(cluster)
    live["metadata"]["annotations"] = {"kaito.sh/model-revision": NEWER}
    assert revision(cluster) == NEWER
    live["metadata"]["annotations"] = {"kaito.sh/model-revision": "v1.0"}
    hub.answer(f"/api/models/{HF_ID}/revision/v1.0", model_info(HF_ID, sha="5" * 40))
    assert revision(cluster) == "5" * 40
    assert (model(cluster)["asked"], model(cluster)["revision"]) == ("v1.0", "5" * 40)


def test_a_revision_that_the_hub_does_not_have_is_refused(
    cluster: FakeCluster, hub: HubServer, live: dict[str, Any]
) -> None:
    live["metadata"]["annotations"] = {"kaito.sh/model-revision": "v9"}
    hub.answer(f"/api/models/{HF_ID}/revision/v9", status=404, x_error_code="RevisionNotFound")
    with pytest.raises(AirflowFailException, match=r"(?s)kaito.sh/model-revision.*has no revision v9"):
        revision(cluster)


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_hub_without_an_answer_refuses_nothing_and_changes_nothing_later(
    cluster: FakeCluster, hub: HubServer, live: dict[str, Any], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    hub.answer(MAIN, status=status)
    assert revision(cluster) == "main"
    assert "each pod takes what main is then" in caplog.text
    hub.answer(MAIN, model_info(HF_ID))
    assert revision(cluster) == "main", "the service runs and nobody edited it"
    assert revision(cluster, 2) == COMMIT


def test_nothing_is_asked_where_the_hub_is_not_to_be_asked_or_has_no_part(
    cluster: FakeCluster, hub: HubServer, live: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    live["metadata"]["annotations"] = {"kaito.sh/use-local-weights": "true"}
    assert revision(cluster) == "main"
    assert "model" not in cluster.objects["workspaces", "default", "serve"]["status"]
    del live["metadata"]["annotations"]
    monkeypatch.setenv("AIRFLOW__KAITO__HUB_LOOKUP", "false")
    assert revision(cluster) == "main"
    assert hub.asked == []


def test_a_model_of_the_hub_alone_keeps_its_commit_too(cluster: FakeCluster, hub: HubServer) -> None:
    _add(cluster, "acme/Tiny-Llama")
    hub.model("acme/Tiny-Llama")
    assert revision(cluster) == COMMIT
    hub.model("acme/Tiny-Llama", sha=NEWER)
    hub.answer(f"/api/models/acme/Tiny-Llama/revision/{COMMIT}", model_info("acme/Tiny-Llama"))
    assert revision(cluster) == COMMIT


def test_a_preset_that_is_pinned_stays_where_it_was_when_its_record_changes(
    cluster: FakeCluster, hub: HubServer
) -> None:
    _add(cluster, "phi-4-mini-instruct")
    now = revision(cluster)
    cluster.objects["workspaces", "default", "serve"]["status"]["model"]["revision"] = NEWER
    assert revision(cluster) == NEWER != now
    assert hub.asked == []


def test_a_candidate_of_a_retraining_is_trained_on_the_services_own_commit() -> None:
    document = copy.deepcopy(QUICK_START)
    name = document["tuning"]["preset"]["name"]
    document["metadata"] |= {"uid": "1", "namespace": "default"}
    document["status"] = {"model": {"name": name, "id": "x/y", "revision": NEWER, "generation": 1}}
    made = manifests.candidate(document, "20261129.1")
    assert made["metadata"]["annotations"]["kaito.sh/model-revision"] == NEWER
