"""The report is pushed beside the adapter, and found again by the adapter's digest, on old registries and new ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from include.contracts import adapter_record
from include.contracts.evaluation import REPORT_ARTIFACT_TYPE, digest_of
from include.workloads.adapter.referrer import push_record, push_report
from include.workloads.contract import UserDataError
from tests.support.registry_server import Handler, Registry

SUBJECT = {
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "digest": "sha256:" + "a" * 64,
    "size": 7,
}
TAG = "sha256-" + "a" * 64


@pytest.fixture
def report(tmp_path: Path) -> Path:
    (tmp_path / "report.json").write_bytes(b'{"schema_version":"kaito.sh/evaluation/v1"}')
    (tmp_path / "report.html").write_bytes(b"<!doctype html>")
    return tmp_path


def test_a_registry_without_referrers_has_them_under_the_tag(registry: Registry, report: Path) -> None:
    client = registry.client()
    digest = push_report(client, report, SUBJECT)
    manifest = json.loads(registry.manifests[digest])
    assert manifest["subject"] == SUBJECT
    assert manifest["artifactType"] == REPORT_ARTIFACT_TYPE
    for layer in (manifest["config"], *manifest["layers"]):
        assert len(registry.blobs[layer["digest"]]) == layer["size"]
    index = json.loads(registry.manifests[TAG])
    assert [entry["digest"] for entry in index["manifests"]] == [digest]

    assert push_report(client, report, SUBJECT) == digest, "again changes nothing"
    assert json.loads(registry.manifests[TAG]) == index
    (report / "report.json").write_bytes(b"{}")
    second = push_report(client, report, SUBJECT)
    listed = json.loads(registry.manifests[TAG])["manifests"]
    assert [entry["digest"] for entry in listed] == [digest, second], "an earlier report stays"


def test_a_registry_that_knows_referrers_needs_no_tag(registry: Registry, report: Path) -> None:
    def notes_the_subject(handler: Handler) -> bool:
        if handler.command != "PUT" or "manifests" not in handler.path:
            return False
        subject: dict[str, Any] = json.loads(handler.body)["subject"]
        return handler.reply(201, OCI_Subject=subject["digest"])

    registry.before = notes_the_subject
    push_report(registry.client(), report, SUBJECT)
    assert registry.manifests == {}


def test_only_the_report_that_was_made_is_pushed(registry: Registry, report: Path, tmp_path: Path) -> None:
    expected = digest_of((report / "report.json").read_bytes())
    push_report(registry.client(), report, SUBJECT, expected)
    with pytest.raises(UserDataError, match="another evaluation"):
        push_report(registry.client(), report, SUBJECT, "sha256:other")
    with pytest.raises(UserDataError, match="cannot be read"):
        push_report(registry.client(), tmp_path / "none", SUBJECT)


def record_of(folder: Path, weights: str, *, dataset: bool) -> Path:
    files = [*adapter_record.TUNING.files, *(adapter_record.DATASET.files if dataset else ())]
    for name in files:
        (folder / name).write_text(json.dumps({"adapter_sha256": weights}))
    return folder


@pytest.mark.parametrize("dataset", [True, False])
def test_the_record_of_a_training_is_found_by_the_adapters_digest(
    dataset: bool, registry: Registry, tmp_path: Path
) -> None:
    folder = record_of(tmp_path, "abc", dataset=dataset)
    pushed = push_record(registry.client(), folder, SUBJECT, "abc")
    assert sorted(pushed) == (["dataset_report", "record"] if dataset else ["record"])
    kinds = [entry["artifactType"] for entry in json.loads(registry.manifests[TAG])["manifests"]]
    assert kinds == [adapter_record.TUNING.artifact_type, adapter_record.DATASET.artifact_type][: len(pushed)]
    manifest = json.loads(registry.manifests[pushed["record"]])
    titles = [layer["annotations"]["org.opencontainers.image.title"] for layer in manifest["layers"]]
    assert titles == ["README.md", "reproduce.json", "metrics.json"]


def test_the_digests_of_the_rows_lie_beside_it_too_and_are_sent_as_they_are(
    registry: Registry, tmp_path: Path
) -> None:
    folder = record_of(tmp_path, "abc", dataset=True)
    content = bytes(range(256)) * 8
    (folder / adapter_record.ROW_DIGESTS).write_bytes(content)
    manifest = json.loads(registry.manifests[push_record(registry.client(), folder, SUBJECT, "abc")["rows"]])
    assert manifest["artifactType"] == "application/vnd.kaito.dataset.rows.v2"
    [layer] = manifest["layers"]
    assert registry.blobs[layer["digest"]] == content


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"adapter_sha256": "other"}'])
def test_a_record_of_another_adapter_is_left_alone(
    content: str | None, registry: Registry, tmp_path: Path
) -> None:
    folder = record_of(tmp_path, "abc", dataset=True)
    if content is None:
        (folder / adapter_record.REPRODUCE).unlink()
    else:
        (folder / adapter_record.REPRODUCE).write_text(content)
    assert push_record(registry.client(), folder, SUBJECT, "abc") == {}
    assert registry.manifests == {}
