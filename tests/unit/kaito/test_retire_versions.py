"""The janitor's look into a registry: it reports, deletes only when told to, and only what a candidate of ours made."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from kaito.hooks.api import CONTROLLER_REVISION, WORKSPACE
from kaito.operators import retention
from kaito.operators.retention import RetireVersionsOperator

from tests.support.fake_cluster import FakeCluster
from tests.support.registry_server import Registry, digest_of, registry

__all__ = ["registry"]
NAME = "workspace-tuning-phi-3"
OLD, KEPT = "20261101.1", "20261128.1"


def image(version: str, maker: str = "", **more: str) -> bytes:
    made = maker or f"default/{NAME}-r{version.replace('.', '-')}"
    return json.dumps({"annotations": {"sh.kaito.workspace": made}, "version": version, **more}).encode()


@pytest.fixture
def pushed(
    registry: Registry, cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """A registry with one version that is kept and one that was let go of, and its report."""
    monkeypatch.setenv("AIRFLOW__KAITO__INSECURE_REGISTRIES", f"127.0.0.1:{registry.port}")
    workspace["tuning"]["output"] = {"image": f"127.0.0.1:{registry.port}/team/phi:1"}
    workspace["status"] = {"retrain": {"versions": [{"version": KEPT}]}}
    registry.manifests = {"1": b"{}", f"1-{OLD}": image(OLD), f"1-{KEPT}": image(KEPT)}
    report = b'{"report": 1}'
    listed = json.dumps({"manifests": [{"digest": digest_of(report)}]}).encode()
    registry.manifests |= {digest_of(report): report, digest_of(image(OLD)).replace(":", "-"): listed}
    return registry


def retire(cluster: FakeCluster, *, delete: bool | None) -> dict[str, Any]:
    task = RetireVersionsOperator(task_id="retire_versions")
    task.cluster = cluster  # type: ignore[assignment]
    return task.execute({"dag_run": SimpleNamespace(conf={}), "params": {"delete": delete}})  # type: ignore[arg-type]


def beside(version: str) -> dict[str, bytes]:
    """What cosign keeps of a version, by its tags."""
    digest = digest_of(image(version)).replace(":", "-")
    return {f"{digest}.{kind}": f'{{"{kind}": "{version}"}}'.encode() for kind in ("sig", "att", "sbom")}


def test_a_version_goes_with_its_signature_and_no_other_s(pushed: Registry, cluster: FakeCluster) -> None:
    pushed.manifests |= {**beside(OLD), **beside(KEPT)}
    found = retire(cluster, delete=True)
    assert [(one["version"], one["deleted"]) for one in found["found"]] == [(OLD, True)]
    assert sorted(pushed.manifests) == sorted(["1", f"1-{KEPT}", *beside(KEPT)])


def test_signatures_do_not_count_among_the_tags_that_are_compared(
    pushed: Registry, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each signed version has two tags of cosign's beside its own: a long history would come to a stop by them."""
    monkeypatch.setattr(retention, "MOST_TAGS", 2)
    pushed.manifests |= beside(KEPT)
    assert [one["version"] for one in retire(cluster, delete=False)["found"]] == [OLD]


@pytest.mark.parametrize("delete", [None, False])
def test_by_default_it_only_reports(pushed: Registry, cluster: FakeCluster, delete: bool | None) -> None:
    before = dict(pushed.manifests)
    found = retire(cluster, delete=delete)
    assert [(one["version"], one["deleted"]) for one in found["found"]] == [(OLD, False)]
    assert pushed.manifests == before


def test_told_to_it_deletes_the_version_with_its_report(pushed: Registry, cluster: FakeCluster) -> None:
    found = retire(cluster, delete=True)
    assert found["found"][0] == {
        "workspace": f"default/{NAME}",
        "version": OLD,
        "image": f"127.0.0.1:{pushed.port}/team/phi:1-{OLD}",
        "deleted": True,
    }
    assert sorted(pushed.manifests) == ["1", f"1-{KEPT}"]


def test_what_is_named_by_anything_or_made_by_others_stays(
    pushed: Registry, cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    cluster.add(
        CONTROLLER_REVISION, {"metadata": {"name": "x"}, "data": {"image": f"r@{digest_of(image(OLD))}"}}
    )
    assert retire(cluster, delete=True)["found"] == []
    pushed.manifests[f"1-{OLD}"] = image(OLD, maker="default/somebody-else")
    assert retire(cluster, delete=True)["found"] == []
    pushed.manifests |= {f"1-{OLD}": image(OLD, note="new"), "prod": image(OLD, note="new")}
    assert retire(cluster, delete=True)["found"] == []
    assert f"1-{OLD}" in pushed.manifests


def test_a_registry_that_refuses_is_told_of_and_nothing_else_stops(
    pushed: Registry, cluster: FakeCluster
) -> None:
    pushed.before = lambda handler: handler.command == "DELETE" and handler.reply(405)
    found = retire(cluster, delete=True)
    assert [one["deleted"] for one in found["found"]] == [False]
    assert "deletion is switched off there" in found["unanswered"][0]
    pushed.before = lambda handler: handler.reply(503)
    assert "answered 503" in retire(cluster, delete=True)["unanswered"][0]


def test_without_versions_there_is_nothing_to_look_at(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    with pytest.raises(AirflowSkipException):
        retire(cluster, delete=True)
    assert cluster.list(WORKSPACE)
