"""The CRD: structural, in step with the models and with the committed manifest, and with the quick start's columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from workspaces import QUICK_START, REMOVE, SERVING, TUNING, changed

from include.workspace import parse_workspace, workspace_crd
from include.workspace.cli import CRD_FILE, crd_text
from include.workspace.names import STORED_VERSION

CRD = workspace_crd()
VERSIONS: dict[str, dict[str, Any]] = {version["name"]: version for version in CRD["spec"]["versions"]}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


def accepts(version: str, document: Any) -> bool:
    schema = VERSIONS[version]["schema"]["openAPIV3Schema"]
    return bool(jsonschema.Draft202012Validator(schema).is_valid(document))


def test_the_committed_manifest_is_up_to_date() -> None:
    committed = (Path(__file__).parents[3] / CRD_FILE).read_text()
    assert committed == crd_text(), "run: python -m include.workspace crd > " + CRD_FILE
    assert yaml.safe_load(committed) == CRD


def test_identity() -> None:
    spec = CRD["spec"]
    assert CRD["metadata"]["name"] == "workspaces.kaito.sh"
    assert (spec["group"], spec["scope"], spec["names"]["shortNames"]) == (
        "kaito.sh",
        "Namespaced",
        ["wk", "wks"],
    )
    assert {name: (v["served"], v["storage"]) for name, v in VERSIONS.items()} == {
        "v1alpha1": (True, False),
        "v1beta1": (True, True),
    }
    assert STORED_VERSION == "v1beta1"
    assert all(version["subresources"] == {"status": {}} for version in VERSIONS.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_kubectl_get_shows_the_quick_start_s_columns(version: str) -> None:
    columns = VERSIONS[version]["additionalPrinterColumns"]
    narrow = [column["name"].upper() for column in columns if not column.get("priority")]
    assert narrow == ["INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY", "AGE"]
    wide = [column["name"] for column in columns if column.get("priority")]
    assert wide == ["JobStarted", "WorkspaceSucceeded", "TargetNodeCount", "State"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schema_is_structural(version: str) -> None:
    for path, node in nodes(VERSIONS[version]["schema"]["openAPIV3Schema"]):
        assert node.get("type") in {"object", "array", "string", "integer", "boolean", "number"}, path
        assert not {"$ref", "$defs", "anyOf", "title"} & set(node), path
        assert not ("properties" in node and "additionalProperties" in node), path
        if node["type"] == "array":
            assert "items" in node, path
        if node["type"] == "object" and path not in (".metadata",):
            kinds = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"}
            assert kinds & set(node), f"{path} would be pruned to nothing"
        for rule in node.get("x-kubernetes-validations", []):
            assert set(rule) == {"rule", "message"}


def test_kubernetes_own_types_are_not_pruned() -> None:
    opaque = {
        path
        for path, node in nodes(VERSIONS["v1beta1"]["schema"]["openAPIV3Schema"])
        if node.get("x-kubernetes-preserve-unknown-fields")
    }
    assert opaque == {
        ".inference.template",
        ".inference.adapters[].source.volumeSource",
        ".tuning.input.volumeSource",
        ".tuning.output.volumeSource",
        ".status.performance",
    }


def test_rules_name_fields_that_exist() -> None:
    """A CEL rule with an unknown field makes the API server refuse the whole CRD."""
    for version in VERSIONS.values():
        for path, node in nodes(version["schema"]["openAPIV3Schema"]):
            for rule in node.get("x-kubernetes-validations", []):
                for chain in re.findall(r"\b(?:self|oldSelf)((?:\.[a-zA-Z]+)+)(?!\w*\()", rule["rule"]):
                    place: Any = node
                    for step in chain.strip(".").split("."):
                        if path == "" and chain.startswith(".metadata"):
                            break
                        if step in ("lowerAscii", "matches"):
                            break
                        assert step in place.get("properties", {}), f"{path}: {rule['rule']}"
                        place = place["properties"][step]


def test_versions_differ_as_kaitos_do() -> None:
    alpha = {path: node for path, node in nodes(VERSIONS["v1alpha1"]["schema"]["openAPIV3Schema"])}
    beta = {path: node for path, node in nodes(VERSIONS["v1beta1"]["schema"]["openAPIV3Schema"])}
    assert {path for path in set(beta) - set(alpha) if not path.startswith(".resource.partition.")} == {
        ".resource.partition",
        ".tuning.preset.presetOptions.modelAccessSecret",
        ".inference.preset.presetOptions.modelAccessSecret",
    }
    assert set(alpha) <= set(beta)
    assert alpha[".resource.instanceType"]["default"] == "Standard_NC24ads_A100_v4"
    assert "default" not in beta[".resource.instanceType"]
    assert beta[".resource.count"]["default"] == 1


@pytest.mark.parametrize("document", [yaml.safe_load(QUICK_START), TUNING, SERVING])
def test_good_workspaces_pass_the_schema(document: dict[str, Any]) -> None:
    assert accepts(document["apiVersion"].partition("/")[2], document)
    assert parse_workspace(document)


@pytest.mark.parametrize(
    "changes",
    [
        {"tuning.method": "dora"},
        {"tuning.input": REMOVE},
        {"tuning.preset": {}},
        {"tuning.input.urls": ["ftp://example.com"]},
        {"resource.count": "1"},
        {"resource.count": 0},
        {"resource.labelSelector": REMOVE},
        {"tuning.preset.accessMode": "secret"},
    ],
)
def test_the_schema_alone_refuses(changes: dict[str, Any]) -> None:
    assert not accepts("v1beta1", changed(TUNING, changes))


@pytest.mark.parametrize("method", ["lora", "QLoRA", "qlora", "LORA"])
def test_methods_pass_in_any_letter_case(method: str) -> None:
    assert accepts("v1beta1", changed(TUNING, {"tuning.method": method}))


def test_a_status_that_we_write_passes_the_schema() -> None:
    from datetime import UTC, datetime

    from include.workspace import Phase, conditions

    status = conditions.progress(
        TUNING,
        Phase.ACCEPTED,
        message="m",
        now=datetime.now(UTC),
        nodes=["n"],
        target_nodes=1,
        adapter={"image": "a", "digest": "d", "reference": "r"},
    )
    assert accepts("v1beta1", {**TUNING, "status": status})
    known = set(VERSIONS["v1beta1"]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"])
    assert set(status) <= known
