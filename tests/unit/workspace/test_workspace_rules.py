"""Every rule by its id: a Workspace that breaks it and only it, and one beside it that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from include.catalog import load_catalog
from include.workspace import (
    Policy,
    WorkspaceInvalid,
    admit_workspace,
    examine_workspace,
    parse_workspace,
    validate,
)
from tests.support.quick_start import QUICK_START
from tests.support.rule_cases import ADAPTER, BETA_TEMPLATE, SERVING_RULES, TUNING_RULES, VOLUME
from tests.support.workspaces import REMOVE, SERVING, TUNING, changed

CATALOG = load_catalog()
EXAMPLE = "ACR_REPO_HERE.azurecr.io/ADAPTER_HERE:0.0.1"  # KAITO's examples of adapters


def broken(document: dict[str, Any], policy: Policy | None = None) -> list[tuple[str, str]]:
    """(rule, path) of each fault."""
    _, faults = examine_workspace(document, CATALOG, policy)
    return [(fault.rule, fault.path) for fault in faults]


@pytest.mark.parametrize("document", [QUICK_START, TUNING, SERVING], ids=["quick start", "tuning", "serving"])
def test_good_workspaces_have_no_faults(document: Any) -> None:
    assert validate(parse_workspace(document), CATALOG) == []


@pytest.mark.parametrize(("rule", "changes", "path"), TUNING_RULES)
def test_tuning_rule(rule: str, changes: dict[str, Any], path: str) -> None:
    assert broken(changed(TUNING, changes)) == [(rule, path)]


@pytest.mark.parametrize(("rule", "changes", "path"), SERVING_RULES)
def test_serving_rule(rule: str, changes: dict[str, Any], path: str) -> None:
    assert broken(changed(SERVING, changes)) == [(rule, path)]


@pytest.mark.parametrize("strength", ["1", "1.0"])
def test_full_strength_is_what_vllm_does_with_an_adapter(strength: str) -> None:
    """KAITO's own example of adapters says it, on the default runtime."""
    changes = {"inference.adapters": [{**ADAPTER, "strength": strength}]}
    assert broken(changed(SERVING, changes)) == []


@pytest.mark.parametrize(
    ("document", "changes", "path"),
    [
        (
            SERVING,
            {"inference.adapters": [{"source": {"name": "a", "image": EXAMPLE}}]},
            "adapters[0].source",
        ),
        (TUNING, {"tuning.input": {"image": EXAMPLE}}, "tuning.input"),
        (TUNING, {"tuning.output.image": EXAMPLE}, "tuning.output"),
    ],
)
def test_what_an_example_leaves_to_be_filled_in_is_told_as_that(
    document: Any, changes: dict[str, Any], path: str
) -> None:
    _, [fault] = examine_workspace(changed(document, changes), CATALOG)
    assert fault.path.endswith(f"{path}.image")
    assert "still has the example's ACR_REPO_HERE and ADAPTER_HERE" in str(fault)


def test_rules_of_clusters_with_byo_nodes() -> None:
    byo = Policy(byo=True)
    assert broken(TUNING, byo) == [("C3", "resource.instanceType")]
    assert broken(changed(TUNING, {"resource.instanceType": REMOVE}), byo) == []
    partition = {"resource.instanceType": REMOVE, "resource.partition": {"mode": "mig", "profile": "1g.10gb"}}
    assert broken(changed(SERVING, partition), Policy(byo=True, mig=True)) == []


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


def test_a_page_about_a_file_is_refused_with_the_link_to_the_file() -> None:
    page = "https://huggingface.co/datasets/a/b/blob/main/x.parquet?sig=SECRET"
    [fault] = validate(parse_workspace(changed(TUNING, {"tuning.input.urls": [page]})), CATALOG)
    assert (fault.rule, fault.path) == ("U7", "tuning.input.urls[0]")
    assert "write https://huggingface.co/datasets/a/b/resolve/main/x.parquet" in str(fault)
    assert "SECRET" not in str(fault)


def test_gated_models_need_no_token_where_the_weights_are_local() -> None:
    document = changed(SERVING, {"inference.preset.name": "llama-3.1-8b-instruct"})
    assert broken(document) == [("I8", "inference.preset.presetOptions.modelAccessSecret")]
    assert broken(document, Policy(local_weights=True)) == []
    assert broken(changed(document, {"metadata.annotations": {"kaito.sh/use-local-weights": "true"}})) == []
    secret = {"inference.preset.presetOptions": {"modelAccessSecret": "hf"}}
    assert broken(changed(document, secret)) == []
    local = {"metadata.annotations": {"kaito.sh/use-local-weights": "true"}}
    tuning = changed(TUNING, {"tuning.preset.name": "llama-3.1-8b-instruct", **local})
    assert ("I8", "tuning.preset.presetOptions.modelAccessSecret") in broken(tuning), "it downloads the model"


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


@pytest.mark.parametrize(
    "label",
    [
        {"kubernetes.io/os": "linux"},
        {"node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4"},
        {"node.kubernetes.io/team": "ml"},
        {"my-kubernetes.io/team": "ml"},
        {"kubernetes.azure.com/mode": "user"},
    ],
)
def test_labels_that_a_new_machine_has_anyway_are_no_fault(label: dict[str, str]) -> None:
    document = changed(TUNING, {"resource.labelSelector.matchLabels": {"app": "w", **label}})
    assert examine_workspace(document, CATALOG)[1] == []


def test_byo_nodes_are_chosen_by_any_label() -> None:
    selector = {"matchLabels": {"kubernetes.azure.com/agentpool": "gpu"}}
    document = changed(SERVING, {"resource.instanceType": REMOVE, "resource.labelSelector": selector})
    assert examine_workspace(document, CATALOG, Policy(byo=True))[1] == []


@pytest.mark.parametrize(
    ("machine", "told"),
    [
        ("Standard_D8s_v5", []),
        ("standard_d2as_v4", []),
        ("Standard_NC96ads_H300_v7", []),  # newer than the table
        ("Standard_NG32ads_V620_v1", []),  # AMD: the template says what it runs
        ("Standard_E8s_v5", ["R13"]),
        ("Standard_D8s_v5; rm", ["R13"]),
        ("p9.large", ["R13"]),
    ],
)
def test_a_template_takes_any_machine_that_kaito_admits(machine: str, told: list[str]) -> None:
    document = changed(BETA_TEMPLATE, {"resource.instanceType": machine})
    assert [fault.rule for fault in examine_workspace(document, CATALOG)[1] if fault.rule != "F32"] == told
    if not told:
        budget = {"metadata.annotations": {"kaito.sh/budget-usd": "25"}}
        faults = examine_workspace(changed(document, budget), CATALOG)[1]
        assert "F19" in [fault.rule for fault in faults], "its price is not known"
        preset = changed(SERVING, {"resource.instanceType": machine})
        assert {fault.rule for fault in examine_workspace(preset, CATALOG)[1]} & {"R13", "F8"}


@pytest.mark.parametrize(("count", "told"), [(1000, []), (1001, ["F7"]), (10**9, ["F7"])])
def test_more_machines_than_a_pool_can_have_are_refused(count: int, told: list[str]) -> None:
    template = {"template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}}
    document = changed(SERVING, {"inference": template, "resource.count": count})
    assert [fault.rule for fault in examine_workspace(document, CATALOG)[1]] == told


def test_the_quick_start_as_printed_says_what_to_fill_in() -> None:
    """README's first YAML, as people paste it: upstream's schema takes it, and so does ours."""
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    document = yaml.safe_load(readme.partition("```yaml\n")[2].partition("```")[0])
    _, faults = examine_workspace(document, load_catalog())
    assert [(fault.path, fault.rule) for fault in faults] == [
        ("tuning.output.image", "U9"),
        ("tuning.output.imagePushSecret", "F5"),
    ]
    assert "put your registry and repository there" in str(faults[0])
    assert "name your own: kubectl create secret docker-registry" in str(faults[1])


def test_where_signed_adapters_alone_are_served_a_tuning_names_its_key() -> None:
    signing = "metadata.annotations[kaito.sh/signing-secret]"
    policy = Policy(signed_adapters=True)
    assert broken(TUNING, policy) == [("F61", signing)]
    key = {"metadata.annotations": {"kaito.sh/signing-secret": "adapter-key"}}
    assert broken(changed(TUNING, key), policy) == []
    assert broken(changed(TUNING, key)) == [], "signed also where nobody asks for it"
    assert broken(SERVING, policy) == [], "its adapters are judged by who serves them"
    assert broken(changed(SERVING, key)) == [("F61", signing)]
    volume = changed(
        TUNING, {"tuning.output": {"volumeSource": {"persistentVolumeClaim": {"claimName": "out"}}}}
    )
    assert broken(volume, policy) == [], "what stays on a volume has no signature"
