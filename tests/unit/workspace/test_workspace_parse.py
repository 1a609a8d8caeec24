# ruff: noqa: E501 - one case a line, however long: a table is read by its columns
"""The schema: what is refused, in which words, and that nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from include.contracts.faults import CLOSE_LOOKS, HINTS
from include.workspace import WorkspaceInvalid, parse_workspace
from tests.support.quick_start import QUICK_START
from tests.support.workspaces import REMOVE, SERVING, TUNING, changed


def faults_of(document: Any) -> dict[str, str]:
    with pytest.raises(WorkspaceInvalid) as error:
        parse_workspace(document)
    return {fault.path: str(fault) for fault in error.value.faults}


def test_the_quick_start_is_read_as_it_is_written() -> None:
    workspace = parse_workspace(QUICK_START)
    assert workspace.to_dict() == yaml.safe_load(QUICK_START)
    assert (workspace.is_tuning, workspace.rollout, workspace.method) == (True, True, "qlora")
    assert (workspace.namespace, workspace.generation, workspace.node_count) == ("default", 1, 1)


def test_bytes_and_mappings_are_read_too() -> None:
    assert (
        parse_workspace(QUICK_START.encode()).to_dict()
        == parse_workspace(yaml.safe_load(QUICK_START)).to_dict()
    )


@pytest.mark.parametrize("document", [TUNING, SERVING])
def test_a_dump_is_the_document(document: dict[str, Any]) -> None:
    assert parse_workspace(document).to_dict() == document


def test_pod_templates_and_volumes_are_kept_as_they_are() -> None:
    template = {"spec": {"containers": [{"name": "x", "anything": {"goes": [1, None, {"deep": True}]}}]}}
    document = changed(SERVING, {"inference": {"template": template}})
    assert parse_workspace(document).to_dict() == document
    volume = {"persistentVolumeClaim": {"claimName": "c", "readOnly": None}, "futureField": 1}
    document = changed(TUNING, {"tuning.input": {"volumeSource": volume}})
    assert parse_workspace(document).to_dict() == document


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"tuning.metod": "lora"}, "tuning.metod", "did you mean method?"),
        ({"resource.instancetype": "x"}, "resource.instancetype", "did you mean instanceType?"),
        ({"resource.instance_type": "x"}, "resource.instance_type", "did you mean instanceType?"),
        ({"tuning.input.volume": {}}, "tuning.input.volume", "did you mean volumeSource?"),  # KAITO's own docs say it
        ({"spec": {}}, "spec", "a Workspace has no spec"),
        ({"metadata.lables": {}}, "metadata.lables", "did you mean labels?"),
        ({"resource.count": "1"}, "resource.count", "must be a whole number"),
        ({"resource.count": 1.0}, "resource.count", "must be a whole number"),
        ({"resource.count": True}, "resource.count", "must be a whole number"),
        ({"resource.labelSelector": REMOVE}, "resource.labelSelector", "is required"),
        ({"tuning.input": REMOVE}, "tuning.input", "is required"),
        ({"tuning.preset": {}}, "tuning.preset.name", "is required"),
        ({"tuning.input.urls": "https://x"}, "tuning.input.urls", "must be a list"),
        ({"tuning.input.urls": [1]}, "tuning.input.urls[0]", "must be text"),
        ({"tuning": "qlora"}, "tuning", "must be a mapping"),
        ({"metadata.annotations": {"kaito.sh/rollout": False}}, "metadata.annotations.kaito.sh/rollout", 'put it in quotes: "false"'),
        ({"apiVersion": "kaito.sh/v1"}, "apiVersion", "use kaito.sh/v1alpha1 or kaito.sh/v1beta1"),
        ({"kind": "Workspaces"}, "kind", "use kind: Workspace"),
        ({"apiVersion": "kaito.sh/v1alpha1", "resource.partition": {"mode": "mig"}}, "resource.partition", "v1alpha1 has no such field"),
    ],
)  # fmt: skip
def test_the_schema_refuses(changes: dict[str, Any], path: str, words: str) -> None:
    found = faults_of(changed(TUNING, changes))
    assert list(found) == [path]
    assert words in found[path]


@pytest.mark.parametrize("data", ["", "[]", "- a", "text", "1", "null", "a: 1\n---\nb: 2\n", [], None, 3])
def test_what_is_no_workspace_at_all(data: Any) -> None:
    assert list(faults_of(data)) == [""]


def test_several_schema_faults_at_once() -> None:
    assert set(faults_of({"apiVersion": "kaito.sh/v1beta1", "metadata": {"name": 1}})) == {
        "kind",
        "metadata.name",
    }


@pytest.mark.parametrize(
    ("version", "annotation", "rolls_out"),
    [
        ("kaito.sh/v1alpha1", None, True),
        ("kaito.sh/v1alpha1", "true", True),
        ("kaito.sh/v1alpha1", "false", False),
        ("kaito.sh/v1beta1", None, False),
        ("kaito.sh/v1beta1", "true", True),
        ("kaito.sh/v1beta1", "false", False),
    ],
)
def test_a_tuning_is_rolled_out_as_its_dialect_says(
    version: str, annotation: str | None, rolls_out: bool
) -> None:
    notes = {"kaito.sh/rollout": annotation} if annotation else {}
    document = changed(TUNING, {"apiVersion": version, "metadata.annotations": notes})
    assert parse_workspace(document).rollout is rolls_out


@pytest.mark.parametrize(
    "metadata",
    [
        {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": '{"apiVersion":"kaito.sh/v1alpha1"}'}},
        {"managedFields": [
            {"manager": "kaito-airflow", "apiVersion": "kaito.sh/v1beta1", "fieldsV1": {"f:metadata": {}}},
            {"manager": "kaito-airflow", "apiVersion": "kaito.sh/v1beta1", "subresource": "status", "fieldsV1": {"f:tuning": {}}},
            {"manager": "kubectl", "apiVersion": "kaito.sh/v1alpha1", "fieldsV1": {"f:tuning": {}}},
        ]},
    ],
    ids=["kubectl apply", "server-side apply"],
)  # fmt: skip
def test_the_dialect_survives_being_read_as_v1beta1(metadata: dict[str, Any]) -> None:
    document = changed(TUNING, {f"metadata.{key}": value for key, value in metadata.items()})
    workspace = parse_workspace(document)
    assert workspace.api_version == "kaito.sh/v1beta1"
    assert workspace.dialect == "kaito.sh/v1alpha1"
    assert workspace.rollout


@pytest.mark.parametrize("applied", ["", "not json", "[]", '{"apiVersion": "v1"}', "[" * 10_000])
def test_an_odd_annotation_is_no_dialect(applied: str) -> None:
    notes = {"kubectl.kubernetes.io/last-applied-configuration": applied}
    assert parse_workspace(changed(TUNING, {"metadata.annotations": notes})).dialect == "kaito.sh/v1beta1"


def test_v1alpha1_has_a_default_machine_and_v1beta1_has_none() -> None:
    without = changed(TUNING, {"resource.instanceType": REMOVE})
    assert parse_workspace(without).instance_type == ""
    old = changed(without, {"apiVersion": "kaito.sh/v1alpha1"})
    assert parse_workspace(old).instance_type == "Standard_NC24ads_A100_v4"


def test_a_flood_of_unknown_fields_is_told_whole_with_few_comparisons(comparisons: list[str]) -> None:
    document = TUNING | {f"resorce{index}": 1 for index in range(10_000)}
    with pytest.raises(WorkspaceInvalid) as error:
        parse_workspace(document)
    assert len(error.value.faults) == 10_000
    assert error.value.faults[0].hint == "did you mean resource?"
    assert 0 < len(comparisons) <= HINTS * (CLOSE_LOOKS + 1)
