"""The preflight looks at the model image once: all of a run keeps to what it was then, and a bad one costs nothing."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import SECRET, STATEFUL_SET, WORKSPACE, ClusterError

from include.workloads.oci import asking
from tests.support.fake_cluster import FakeCluster
from tests.support.tasks import preflight

pytestmark = pytest.mark.usefixtures("established_crd")

NAME = "workspace-tuning-phi-3"
BY_NAME = {"workspace": {"metadata": {"name": NAME}}}
TAGGED = "registry.example.com/kaito-phi-3:1"
FIRST, SECOND = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
MODEL = {"annotations": {"sh.kaito.model.format": "1"}}


class Registry:
    """What stands under the tag, and who asked."""

    def __init__(self) -> None:
        self.holds: Any = asking.Described(FIRST, MODEL)
        self.asked: list[tuple[str, str | None]] = []

    def describe(self, reference: Any, credentials: Any, _policy: Any) -> asking.Described:
        self.asked.append((str(reference), credentials.password if credentials else None))
        if isinstance(self.holds, Exception):
            raise self.holds
        return self.holds


@pytest.fixture
def registry(cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry()
    monkeypatch.setattr(asking, "describe", made.describe)
    workspace["apiVersion"] = "kaito.sh/v1beta1"
    workspace["metadata"]["annotations"] = {
        "kaito.sh/model-image": TAGGED,
        "kaito.sh/runtime": "transformers",
        "kaito.sh/rollout": "true",
    }
    workspace["tuning"]["preset"]["presetOptions"] = {"imagePullSecrets": ["models"]}
    text = json.dumps({"auths": {"registry.example.com": {"username": "u", "password": "CANARY-models"}}})
    data = {".dockerconfigjson": base64.b64encode(text.encode()).decode()}
    cluster.add(
        SECRET,
        {"metadata": {"name": "models"}, "type": "kubernetes.io/dockerconfigjson", "data": data},
    )
    return made


def images(result: dict[str, Any]) -> set[tuple[str, bool]]:
    plans = (result["plan"], result["serving_plan"])
    return {(plan.get("model_image", ""), plan.get("image_volume", False)) for plan in plans}


def test_both_halves_of_a_run_take_the_digest_that_the_tag_means_now(
    cluster: FakeCluster, registry: Registry
) -> None:
    result = preflight(cluster, BY_NAME)
    assert images(result) == {(f"{TAGGED}@{FIRST}", False)}
    assert registry.asked == [(TAGGED, "CANARY-models")]
    assert "CANARY" not in json.dumps(result)


def test_a_service_keeps_what_it_was_rolled_out_with_when_its_tag_moves(
    cluster: FakeCluster, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    notes = {"kaito.sh/model-image": f"{TAGGED}@{FIRST}"}
    cluster.add(STATEFUL_SET, {"metadata": {"name": NAME, "annotations": notes}})
    registry.holds = asking.Described(SECOND, MODEL)
    with caplog.at_level(logging.WARNING):
        assert images(preflight(cluster, BY_NAME)) == {(f"{TAGGED}@{FIRST}", False)}
    assert f"means {SECOND} now, but the service keeps" in caplog.text
    notes["kaito.sh/model-image"] = f"registry.example.com/kaito-phi-3:0@{FIRST}"
    cluster.add(STATEFUL_SET, {"metadata": {"name": NAME, "annotations": notes}})
    assert images(preflight(cluster, BY_NAME)) == {(f"{TAGGED}@{SECOND}", False)}


@pytest.mark.parametrize(
    ("version", "setting", "mounted"),
    [
        ({"major": "1", "minor": "35+"}, "", True),
        ({"major": "1", "minor": "34"}, "", False),
        ({"major": "1", "minor": "34"}, "image", True),
        ({"major": "1", "minor": "36"}, "download", False),
        ({"major": "", "minor": None}, "", False),
        (ClusterError(403, "Forbidden", "no"), "", False),
    ],
)
def test_nodes_mount_it_by_the_cluster_s_version_or_the_setting(
    version: Any,
    setting: str,
    mounted: bool,
    cluster: FakeCluster,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster.version = version
    monkeypatch.setenv("AIRFLOW__KAITO__MODEL_VOLUMES", setting)
    assert images(preflight(cluster, BY_NAME)) == {(f"{TAGGED}@{FIRST}", mounted)}


def test_an_unknown_setting_is_named(
    cluster: FakeCluster, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__MODEL_VOLUMES", "mount")
    with pytest.raises(ValueError, match="model_volumes must be one of auto, image, download, not 'mount'"):
        preflight(cluster, BY_NAME)


@pytest.mark.parametrize(
    ("holds", "words"),
    [
        (asking.NotToBeHad("the registry r has no image kaito-phi-3 with 1"), "has no image kaito-phi-3"),
        (asking.Described(FIRST, {"layers": []}), "holds no model's files"),
    ],
)
def test_what_is_not_there_or_no_model_is_a_fault_and_nothing_is_made(
    holds: Any, words: str, cluster: FakeCluster, registry: Registry
) -> None:
    registry.holds = holds
    with pytest.raises(AirflowFailException, match=rf"{words}.*\[P13\]"):
        preflight(cluster, BY_NAME)
    assert cluster.writes == []


def test_a_registry_that_airflow_does_not_reach_leaves_it_to_the_pods(
    cluster: FakeCluster, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.version = {"major": "1", "minor": "36"}
    registry.holds = asking.Unanswered("the registry r cannot be reached from Airflow (Timeout)")
    with caplog.at_level(logging.WARNING):
        assert images(preflight(cluster, BY_NAME)) == {(TAGGED, False)}
    assert "could not be looked at" in caplog.text


def test_a_refusal_without_the_secret_s_content_is_no_verdict(
    cluster: FakeCluster, registry: Registry
) -> None:
    cluster.refuse["get", "secrets"] = ClusterError(403, "Forbidden", "secrets is forbidden")
    registry.holds = asking.NotToBeHad("the registry r does not give the image (it answered 401)")
    assert images(preflight(cluster, BY_NAME)) == {(TAGGED, False)}


def test_a_pull_secret_that_is_not_there_is_a_fault(cluster: FakeCluster, registry: Registry) -> None:
    cluster.objects.pop(("secrets", "default", "models"))
    with pytest.raises(AirflowFailException, match=r"presetOptions.imagePullSecrets\[0\].*no such Secret"):
        preflight(cluster, BY_NAME)


def test_without_an_image_no_registry_is_asked(
    cluster: FakeCluster, registry: Registry, workspace: dict[str, Any]
) -> None:
    del workspace["metadata"]["annotations"]["kaito.sh/model-image"]
    cluster.add(WORKSPACE, workspace)
    assert images(preflight(cluster, BY_NAME)) == {("", False)}
    assert registry.asked == []
