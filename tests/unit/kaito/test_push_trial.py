"""The preflight tries the push Secret: a registry's refusal is a fault before anything is made."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import SECRET, WORKSPACE, ClusterError

from include.workloads.oci import asking, trial
from tests.support.fake_cluster import FakeCluster
from tests.support.tasks import preflight

pytestmark = pytest.mark.usefixtures("established_crd")

NAME = "workspace-tuning-phi-3"
BY_NAME = {"workspace": {"metadata": {"name": NAME}}}


def secret(text: str | None = None) -> dict[str, Any]:
    if text is None:
        entry = {"username": "pusher", "password": "CANARY-password"}
        text = json.dumps({"auths": {"registry.example.com": entry}})
    data = {".dockerconfigjson": base64.b64encode(text.encode()).decode()}
    return {"metadata": {"name": "push"}, "type": "kubernetes.io/dockerconfigjson", "data": data}


@pytest.fixture
def tries(
    cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, str]]:
    """What was asked of registries; none answers badly unless a test says so."""
    asked: list[tuple[str, str]] = []
    monkeypatch.setenv("AIRFLOW__KAITO__CHECK_PUSH", "true")
    monkeypatch.setattr(
        trial,
        "try_push",
        lambda reference, credentials, _: asked.append((str(reference), credentials.password)),
    )
    monkeypatch.setattr(trial, "published_by", lambda *_: "")
    cluster.add(SECRET, secret())
    return asked


def test_the_registry_is_asked_once_with_the_secrets_entry(
    cluster: FakeCluster, tries: list[tuple[str, str]]
) -> None:
    result = preflight(cluster, BY_NAME)
    assert tries == [("registry.example.com/adapters/phi:0.0.1", "CANARY-password")]
    assert "CANARY" not in json.dumps(result)


def test_a_refusal_is_a_fault_and_nothing_is_made(
    cluster: FakeCluster, tries: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise trial.PushRefused("the registry registry.example.com refuses a push (it answered 401)")

    monkeypatch.setattr(trial, "try_push", refuse)
    with pytest.raises(AirflowFailException) as refused:
        preflight(cluster, BY_NAME)
    assert "tuning.output.imagePushSecret: the registry registry.example.com refuses a push" in str(
        refused.value
    )
    assert "[P10]" in cluster.condition(NAME, "ResourceReady")["message"]
    assert cluster.writes == []


def test_a_registry_that_airflow_does_not_reach_is_a_warning(
    cluster: FakeCluster,
    tries: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def silent(*_: Any) -> None:
        raise asking.Unanswered("the registry registry.example.com cannot be reached from Airflow (Timeout)")

    monkeypatch.setattr(trial, "try_push", silent)
    with caplog.at_level(logging.WARNING):
        assert preflight(cluster, BY_NAME)["plan"]
    assert "could not be tried: the registry registry.example.com cannot be reached" in caplog.text


def test_a_secret_that_is_no_docker_configuration_is_a_fault(
    cluster: FakeCluster, tries: list[tuple[str, str]]
) -> None:
    cluster.add(SECRET, secret('{"auths": 3}'))
    with pytest.raises(AirflowFailException, match=r"not a Docker configuration.*\[P10\]"):
        preflight(cluster, BY_NAME)
    assert tries == []


def test_a_secret_that_airflow_may_not_read_stops_nothing(
    cluster: FakeCluster, tries: list[tuple[str, str]]
) -> None:
    cluster.refuse["get", "secrets"] = ClusterError(403, "Forbidden", "secrets is forbidden")
    assert preflight(cluster, BY_NAME)["plan"]
    assert tries == []


def test_the_setting_leaves_the_question_out(
    cluster: FakeCluster, tries: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__CHECK_PUSH", "false")
    assert preflight(cluster, BY_NAME)["plan"]
    assert tries == []


def test_the_secrets_version_is_left_to_the_reconciler_and_nothing_of_its_content(
    cluster: FakeCluster, tries: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    preflight(cluster, BY_NAME)
    seen = cluster.objects["secrets", "default", "push"]["metadata"]
    wanted = {"secrets/push": f"{seen['uid']}.{seen['resourceVersion']}"}
    workspace = cluster.objects["workspaces", "default", NAME]
    assert workspace["status"]["inputs"] == wanted
    cluster.objects.pop(("secrets", "default", "push"))
    workspace["status"] = {"inputs": {"cfg": "digest", "secrets/gone": "u.1"}}
    with pytest.raises(AirflowFailException, match="no such Secret"):
        preflight(cluster, BY_NAME)
    workspace = cluster.objects["workspaces", "default", NAME]
    assert workspace["status"]["inputs"] == {"cfg": "digest", "secrets/push": "absent"}


@pytest.mark.parametrize(
    ("holder", "there", "refused"),
    [
        ("", False, False),
        (f"default/{NAME}", True, False),
        ("default/other", True, True),
        ("default/other", False, False),
        ("elsewhere/../other", True, False),
    ],
)
def test_a_tag_that_another_workspace_holds_is_not_taken_from_it(
    cluster: FakeCluster,
    tries: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    holder: str,
    there: bool,
    refused: bool,
) -> None:
    monkeypatch.setattr(trial, "published_by", lambda *_: holder)
    if there and holder == "default/other":
        cluster.add(WORKSPACE, {"metadata": {"name": "other", "namespace": "default"}})
    if not refused:
        assert preflight(cluster, BY_NAME)["plan"]
        return
    with pytest.raises(AirflowFailException, match=r"holds the adapter of Workspace default/other.*\[P11\]"):
        preflight(cluster, BY_NAME)
    assert cluster.writes == []


def test_a_holder_that_we_may_not_see_counts_as_there(
    cluster: FakeCluster, tries: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "published_by", lambda *_: "theirs/other")
    find = cluster.find

    def closed(kind: Any, name: str, namespace: str | None = None) -> Any:
        if namespace == "theirs":
            raise ClusterError(403, "Forbidden", "workspaces is forbidden")
        return find(kind, name, namespace)

    cluster.find = closed  # type: ignore[method-assign]
    with pytest.raises(AirflowFailException, match=r"theirs/other.*\[P11\]"):
        preflight(cluster, BY_NAME)
