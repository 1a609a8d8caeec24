# ruff: noqa: E501 - one case a line, however long: a table is read by its columns
"""Every rule by its id: a Workspace that breaks it and only it, and one beside it that does not."""

from __future__ import annotations

from typing import Any

import pytest
from workspaces import QUICK_START, REMOVE, SERVING, TUNING, changed

from include.catalog import load_catalog
from include.workspace import (
    Policy,
    WorkspaceInvalid,
    admit_workspace,
    examine_workspace,
    parse_workspace,
    validate,
)

CATALOG = load_catalog()
ADAPTER = {"source": {"name": "a", "image": "r.example.com/a:1"}}
VOLUME = {"persistentVolumeClaim": {"claimName": "data"}}


def broken(document: dict[str, Any], policy: Policy | None = None) -> list[tuple[str, str]]:
    """(rule, path) of each fault."""
    _, faults = examine_workspace(document, CATALOG, policy)
    return [(fault.rule, fault.path) for fault in faults]


@pytest.mark.parametrize("document", [QUICK_START, TUNING, SERVING], ids=["quick start", "tuning", "serving"])
def test_good_workspaces_have_no_faults(document: Any) -> None:
    assert validate(parse_workspace(document), CATALOG) == []


TUNING_RULES: list[tuple[str, dict[str, Any], str]] = [
    ("G1", {"metadata.name": "Tune_Phi"}, "metadata.name"),
    ("G1", {"metadata.name": "x" * 64}, "metadata.name"),
    ("G1", {"metadata.name": REMOVE, "metadata.generateName": "x-"}, "metadata.name"),
    ("F1", {"metadata.name": "x" * 53, "metadata.annotations": {"kaito.sh/rollout": "true"}}, "metadata.name"),
    ("F1", {"metadata.name": "3d", "metadata.annotations": {"kaito.sh/rollout": "true"}}, "metadata.name"),
    ("F2", {"metadata.annotations": {"kaito.sh/rollout": "yes"}}, "metadata.annotations[kaito.sh/rollout]"),
    ("C1", {"tuning": REMOVE}, ""),
    ("C2", {"inference": {"preset": {"name": "phi-4"}}}, ""),
    ("C4", {"resource.instanceType": REMOVE}, "resource.instanceType"),
    ("C5", {"metadata.annotations": {"kaito.sh/node-image-family": "windows"}}, "metadata.annotations[kaito.sh/node-image-family]"),
    ("C6", {"metadata.annotations": {"kaito.sh/performance-mode": "fast"}}, "metadata.annotations[kaito.sh/performance-mode]"),
    ("C7", {"metadata.annotations": {"kaito.sh/use-local-weights": "True"}}, "metadata.annotations[kaito.sh/use-local-weights]"),
    ("R3", {"resource.labelSelector.matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, "resource.labelSelector.matchExpressions[0]"),
    ("R3", {"resource.labelSelector.matchExpressions": [{"key": "a", "operator": "Exists"}]}, "resource.labelSelector.matchExpressions[0]"),
    ("R5", {"resource.labelSelector": {"matchLabels": {"kaito.sh/workspace": "x"}}}, "resource.labelSelector"),
    ("F6", {"resource.labelSelector.matchLabels": {"app": "no spaces"}}, "resource.labelSelector.matchLabels[app]"),
    ("F6", {"resource.labelSelector.matchLabels": {"-x": "a"}}, "resource.labelSelector.matchLabels[-x]"),
    ("R12", {"resource.partition": {"mode": "mig"}, "tuning": REMOVE, "inference": {"preset": {"name": "phi-4"}}}, "resource.partition"),
    ("R13", {"resource.instanceType": "Standard_NC6s_v9"}, "resource.instanceType"),
    ("F8", {"resource.instanceType": "Standard_NG32ads_V620_v1"}, "resource.instanceType"),
    ("T1", {"resource.count": 2}, "resource.count"),
    ("F7", {"resource.count": 0}, "resource.count"),
    ("T2", {"resource.partition": {"mode": "mig"}}, "resource.partition"),
    ("F9", {"tuning.preset.name": "phi-4", "tuning.method": "lora", "resource.instanceType": "Standard_NV36ads_A10_v5"}, "resource.instanceType"),
    ("F9", {"resource.instanceType": "Standard_NV12s_v3"}, "resource.instanceType"),  # M60: no 4-bit kernels
    ("R16", {"tuning.preset.name": "phi-4", "resource.instanceType": "Standard_NC6s_v3", "metadata.annotations": {"kaito.sh/rollout": "true"}}, "resource.instanceType"),
    ("U1", {"tuning.method": "dora"}, "tuning.method"),
    ("U1", {"tuning.method": REMOVE}, "tuning.method"),
    ("U3", {"tuning.config": "Not A Name"}, "tuning.config"),
    ("U5", {"tuning.input": {}}, "tuning.input"),
    ("U5", {"tuning.input.image": "r.example.com/data:1"}, "tuning.input"),
    ("U5", {"tuning.input.urls": []}, "tuning.input"),
    ("U6", {"tuning.input": {"image": "R.example.com/Data"}}, "tuning.input.image"),
    ("U7", {"tuning.input.urls": ["https://ok.example.com/a", "file:///etc/passwd"]}, "tuning.input.urls[1]"),
    ("U8", {"tuning.output": {}}, "tuning.output"),
    ("U8", {"tuning.output.volumeSource": VOLUME}, "tuning.output"),
    ("U9", {"tuning.output.image": "registry.example.com/adapters/PHI:1"}, "tuning.output.image"),
    ("U9", {"tuning.output.image": "registry.example.com/a@sha256:" + "0" * 64}, "tuning.output.image"),
    ("U10", {"tuning.output.imagePushSecret": REMOVE}, "tuning.output.imagePushSecret"),
    ("F5", {"tuning.output.imagePushSecret": "ACR_SECRET"}, "tuning.output.imagePushSecret"),
    ("F5", {"tuning.input": {"image": "r.example.com/d:1", "imagePullSecrets": ["A B"]}}, "tuning.input.imagePullSecrets[0]"),
    ("F5", {"tuning.preset.accessMode": "secret"}, "tuning.preset.accessMode"),
    ("F4", {"tuning.input": {"volumeSource": {}}}, "tuning.input.volumeSource"),
    ("F4", {"tuning.input": {"volumeSource": {"hostPath": {"path": "/etc"}}}}, "tuning.input.volumeSource"),
    ("U11", {"tuning.preset": REMOVE}, "tuning.preset"),
    ("U12", {"tuning.preset.name": "phi-33"}, "tuning.preset.name"),
    ("F10", {"tuning.preset.name": "gpt-oss-20b"}, "tuning.preset.name"),
]  # fmt: skip

SERVING_RULES: list[tuple[str, dict[str, Any], str]] = [
    ("I1", {"inference": {}}, "inference"),
    ("I2", {"inference.template": {"spec": {}}}, "inference"),
    ("I3", {"inference.preset.name": "phi-44"}, "inference.preset.name"),
    ("I8", {"inference.preset.name": "llama-3.1-8b-instruct"}, "inference.preset.presetOptions.modelAccessSecret"),
    ("V1", {"inference.config": "Not A Name"}, "inference.config"),
    ("R16", {"inference.preset.name": "gpt-oss-120b"}, "resource.instanceType"),
    ("I10", {"inference.adapters": [{"source": {"name": f"a{i}", "image": "r.example.com/a:1"}} for i in range(11)]}, "inference.adapters"),
    ("I11", {"inference.adapters": [ADAPTER, ADAPTER]}, "inference.adapters[1].source.name"),
    ("I7", {"inference.adapters": [{**ADAPTER, "strength": "0.5"}]}, "inference.adapters[0].strength"),
    ("A1", {"inference.adapters": [{}]}, "inference.adapters[0].source"),
    ("A3", {"inference.adapters": [{"source": {"image": "r.example.com/a:1"}}]}, "inference.adapters[0].source.name"),
    ("A3", {"inference.adapters": [{"source": {"name": "../x", "image": "r.example.com/a:1"}}]}, "inference.adapters[0].source.name"),
    ("A4", {"inference.adapters": [{"source": {"name": "a"}}]}, "inference.adapters[0].source"),
    ("A5", {"inference.adapters": [{"source": {"name": "a", "urls": ["https://x.example.com/a"]}}]}, "inference.adapters[0].source.urls"),
    ("A6", {"inference.adapters": [{**ADAPTER, "strength": "much"}]}, "inference.adapters[0].strength"),
    ("A6", {"inference.adapters": [{**ADAPTER, "strength": "1.5"}]}, "inference.adapters[0].strength"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "changes", "path"), TUNING_RULES)
def test_tuning_rule(rule: str, changes: dict[str, Any], path: str) -> None:
    assert broken(changed(TUNING, changes)) == [(rule, path)]


@pytest.mark.parametrize(("rule", "changes", "path"), SERVING_RULES)
def test_serving_rule(rule: str, changes: dict[str, Any], path: str) -> None:
    assert broken(changed(SERVING, changes)) == [(rule, path)]


def test_rules_of_clusters_where_nodes_are_brought_along() -> None:
    byo = Policy(byo=True)
    assert broken(TUNING, byo) == [("C3", "resource.instanceType")]
    assert broken(changed(TUNING, {"resource.instanceType": REMOVE}), byo) == []
    partition = {"resource.instanceType": REMOVE, "resource.partition": {"mode": "mig", "profile": "1g.10gb"}}
    assert broken(changed(SERVING, partition), byo) == []


def test_node_class_must_be_a_managed_one() -> None:
    document = changed(TUNING, {"metadata.annotations": {"kaito.sh/node-class-name": "mine"}})
    assert broken(document) == []
    assert broken(document, Policy(node_classes=("theirs",)))[0][0] == "C8"
    assert broken(document, Policy(node_classes=("theirs", "mine"))) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"tuning.method": "QLoRA"},  # KAITO admits it and then finds no default config
        {"tuning.preset.name": "Microsoft/PHI-3-mini-128k-INSTRUCT"},
        {"resource.instanceType": "standard_nc24ads_a100_V4"},
        {"resource.labelSelector.matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]},
        {"tuning.preset.name": "mistral-7b"},  # upstream panics: metadata under another name
        {"tuning.output": {"volumeSource": VOLUME}},
        {"tuning.input": {"volumeSource": {**VOLUME, "name": "data"}}},
        {"tuning.input": {"image": "library/data"}},
        {"metadata.annotations": {"kaito.sh/node-image-family": " AzureLinux "}},
        # 131 GiB do not fit one A10, but the author asks for trust.
        {"tuning.preset.name": "phi-4", "tuning.method": "lora", "resource.instanceType": "Standard_NV36ads_A10_v5",
         "metadata.annotations": {"kaito.sh/bypass-resource-checks": ""}},
    ],
)  # fmt: skip
def test_what_looks_odd_but_is_allowed(changes: dict[str, Any]) -> None:
    assert broken(changed(TUNING, changes)) == []


def test_a_private_address_needs_the_allow_list() -> None:
    document = changed(TUNING, {"tuning.input.urls": ["http://127.0.0.1:8080/train.parquet"]})
    workspace = parse_workspace(document)
    assert [fault.rule for fault in validate(workspace, CATALOG)] == ["U7"]
    assert validate(workspace, CATALOG, ["127.0.0.0/8"]) == []


def test_gated_models_need_no_token_where_the_weights_are_local() -> None:
    document = changed(SERVING, {"inference.preset.name": "llama-3.1-8b-instruct"})
    assert broken(document) == [("I8", "inference.preset.presetOptions.modelAccessSecret")]
    assert broken(document, Policy(local_weights=True)) == []
    assert broken(changed(document, {"metadata.annotations": {"kaito.sh/use-local-weights": "true"}})) == []
    secret = {"inference.preset.presetOptions": {"modelAccessSecret": "hf"}}
    assert broken(changed(document, secret)) == []


def test_gated_models_of_v1alpha1_have_no_field_for_a_secret() -> None:
    document = changed(
        SERVING, {"apiVersion": "kaito.sh/v1alpha1", "inference.preset.name": "llama-3.1-8b-instruct"}
    )
    assert broken(document) == []


def test_all_faults_come_at_once_from_schema_and_rules() -> None:
    document = changed(
        TUNING,
        {
            "tuning.method": "qlorra",
            "tuning.inputs": {},
            "tuning.preset.name": "phi-3-mini-128-instruct",
            "resource.instanceType": "Standard_NC6x_v3",
            "resource.count": "two",
            "tuning.input.urls": ["ftp://example.com/a"],
            "tuning.output": {"image": "r.example.com/UPPER"},
        },
    )
    with pytest.raises(WorkspaceInvalid) as error:
        admit_workspace(document, CATALOG)
    rules = {fault.path: fault.rule for fault in error.value.faults}
    assert rules == {
        "tuning.inputs": "S6",
        "resource.count": "S5",
        "tuning.method": "U1",
        "tuning.preset.name": "U12",
        "resource.instanceType": "R13",
        "tuning.input.urls[0]": "U7",
        "tuning.output.image": "U9",
        "tuning.output.imagePushSecret": "U10",
    }
    lines = str(error.value).splitlines()
    assert len(lines) == 8
    assert any("did you mean phi-3-mini-128k-instruct?" in line for line in lines)
    assert any("did you mean Standard_NC6s_v3?" in line for line in lines)
    assert any("did you mean qlora?" in line for line in lines)


def test_hints_name_machines_that_would_do() -> None:
    document = changed(
        TUNING,
        {
            "tuning.preset.name": "phi-4",
            "tuning.method": "lora",
            "resource.instanceType": "Standard_NV36ads_A10_v5",
        },
    )
    _, faults = examine_workspace(document, CATALOG)
    assert "needs about 29.8 GiB on a GPU, but one NVIDIA A10 has 24.0 GiB" in faults[0].message
    assert faults[0].hint == "Standard_NC24ads_A100_v4 or Standard_NC40ads_H100_v5 would do"


def test_a_fault_never_shows_a_token() -> None:
    url = "http://user:hunter2@10.0.0.1/a.parquet?sig=SECRET#SECRET"
    _, faults = examine_workspace(changed(TUNING, {"tuning.input.urls": [url]}), CATALOG)
    text = "\n".join(map(str, faults))
    assert "10.0.0.1/a.parquet" in text
    assert "hunter2" not in text
    assert "SECRET" not in text
