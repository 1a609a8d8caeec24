"""One test per rule of KAITO's contract, by its number, and one per upstream defect that this layer must not have."""

from __future__ import annotations

from typing import Any

import pytest

from include.catalog import load_catalog
from include.workspace import Policy, byo_faults, examine_update, examine_workspace, parse_workspace, validate
from include.workspace.api.dialect import V1ALPHA1
from include.workspace.validation.inference_config import inference_config_faults
from include.workspace.validation.notices import notices
from include.workspace.validation.training_config import config_faults
from tests.support.quick_start import QUICK_START
from tests.support.rule_cases import (
    CREATES,
    ELSEWHERE,
    NODES,
    NUMBERS,
    SERVER,
    SERVING_RULES,
    TRAINING,
    TUNING_RULES,
    UPDATES,
    Create,
    Node,
    Update,
)
from tests.support.workspaces import REMOVE, SERVING, TUNING, changed

CATALOG = load_catalog()
BYO_SERVING = changed(SERVING, {"resource.instanceType": REMOVE})


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(rule, case, id=rule) for rule, found in table.items() for case in found]


def test_every_rule_of_the_contract_has_a_case_or_a_reason() -> None:
    by_changes = {rule for rule, _, _ in (*TUNING_RULES, *SERVING_RULES)}
    tested = by_changes | {*CREATES, *UPDATES, *TRAINING, *SERVER, *NODES}
    assert [rule for rule in NUMBERS if rule not in tested and rule not in ELSEWHERE] == []
    assert sorted(tested & set(ELSEWHERE)) == [], "a rule with a case needs no excuse"
    assert set(ELSEWHERE) <= set(NUMBERS)
    assert all(len(reason.split(": ")[1]) > 20 for reason in ELSEWHERE.values())


@pytest.mark.parametrize(("rule", "case"), cases(UPDATES))
def test_update(rule: str, case: Update) -> None:
    _, faults = examine_update(changed(case.before, case.changes), case.before, CATALOG, case.policy)
    assert (case.told_as or rule, case.path) in [(fault.rule, fault.path) for fault in faults]


@pytest.mark.parametrize(("rule", "case"), cases(CREATES))
def test_create(rule: str, case: Create) -> None:
    document = changed(case.document, case.changes)
    _, faults = examine_workspace(document, CATALOG, case.policy)
    assert [(fault.rule, fault.path) for fault in faults] == [(case.told_as or rule, case.path)]


@pytest.mark.parametrize(("rule", "case"), cases(TRAINING))
def test_training_config(rule: str, case: tuple[str, str, str]) -> None:
    text, method, path = case
    assert [(fault.rule, fault.path) for fault in config_faults(text, method)] == [(rule, path)]


@pytest.mark.parametrize(("rule", "case"), cases(SERVER))
def test_inference_config(rule: str, case: tuple[str, str]) -> None:
    text, path = case
    nodes, dialect = (2, V1ALPHA1) if rule == "V7" else (1, "kaito.sh/v1beta1")
    model, machine = CATALOG.model("phi-4-mini-instruct"), CATALOG.machine("Standard_NC24ads_A100_v4")
    found = inference_config_faults(text, model, machine, nodes, dialect)
    assert rule in [fault.rule for fault in found]
    assert path in [fault.path for fault in found]


def node(index: int, facts: Node, **labels: str) -> dict[str, Any]:
    keys = ("nvidia.com/gpu.count", "nvidia.com/gpu.product", "nvidia.com/gpu.memory")
    said = {key: value for key, value in zip(keys, facts, strict=True) if value}
    return {"metadata": {"name": f"node-{index}", "labels": {"app": "serve", **said, **labels}}}


@pytest.mark.parametrize(("rule", "facts"), cases(NODES))
def test_byo_nodes(rule: str, facts: list[Node] | None) -> None:
    nodes = None if facts is None else [node(index, each) for index, each in enumerate(facts)]
    found = byo_faults(parse_workspace(BYO_SERVING), nodes, CATALOG)
    assert {fault.rule for fault in found} == {rule}
    assert {fault.path for fault in found} == {"resource.labelSelector"}


def test_nodes_that_would_do() -> None:
    ws = parse_workspace(BYO_SERVING)
    a100 = ("1", "NVIDIA-A100-SXM4-80GB", "81920")
    other = node(9, ("8", "Tesla-T4", "15360"), app="other")
    assert byo_faults(ws, [node(0, a100), node(1, a100), other], CATALOG) == []
    template = parse_workspace(changed(BYO_SERVING, {"inference": {"template": {}}}))
    assert byo_faults(template, [], CATALOG) == [], "what a template needs nobody knows"


def test_nodes_that_are_too_small_for_the_weights_or_for_one_server() -> None:
    large = parse_workspace(
        changed(BYO_SERVING, {"inference.preset.name": "deepseek-v4-flash-0731", "resource.count": 2})
    )
    a100, t4 = ("1", "NVIDIA-A100-SXM4-80GB", "81920"), ("1", "Tesla-T4", "15360")
    assert [f.rule for f in byo_faults(large, [node(0, t4)], CATALOG)] == ["R15"]
    assert [f.rule for f in byo_faults(large, [node(0, a100), node(1, a100)], CATALOG)] == ["R16"]
    three = parse_workspace(changed(large.to_dict(), {"resource.count": 3}))
    assert byo_faults(three, [node(n, a100) for n in range(3)], CATALOG) == []
    lone = parse_workspace(
        changed(three.to_dict(), {"metadata.annotations": {"kaito.sh/runtime": "transformers"}})
    )
    assert [f.rule for f in byo_faults(lone, [node(n, a100) for n in range(3)], CATALOG)] == ["R16"]
    trust = {"metadata.annotations": {"kaito.sh/bypass-resource-checks": ""}}
    assert byo_faults(parse_workspace(changed(large.to_dict(), trust)), [node(0, t4)], CATALOG) == []


def test_a_slice_that_is_large_enough_or_trusted() -> None:
    policy = Policy(byo=True, mig=True)
    wide = {"inference.preset.name": "phi-4", "resource.partition": {"mode": "mig", "profile": "3g.40gb"}}
    narrow = {**wide, "resource.partition": {"mode": "mig", "profile": "1g.10gb"},
              "metadata.annotations": {"kaito.sh/bypass-resource-checks": ""}}  # fmt: skip
    for changes in (wide, narrow):
        assert examine_workspace(changed(BYO_SERVING, changes), CATALOG, policy)[1] == []


def test_streaming_that_is_possible_or_not_wished() -> None:
    on = Policy(model_streaming=True, csi_drivers=("blob.csi.azure.com",))
    assert validate(parse_workspace(SERVING), CATALOG, policy=on) == []
    off = changed(SERVING, {"metadata.annotations": {"kaito.sh/model-streaming": "disabled"}})
    assert validate(parse_workspace(off), CATALOG, policy=Policy(model_streaming=True, cloud="aws")) == []
    assert validate(parse_workspace(TUNING), CATALOG, policy=Policy(model_streaming=True, cloud="aws")) == []


def test_a_half_that_cannot_be_read_is_not_called_missing() -> None:
    assert faults_of(changed(TUNING, {"tuning": 3})) == ["S5"]
    both = changed(TUNING, {"tuning.inputs": {}, "inference": SERVING["inference"]})
    assert faults_of(both) == ["S6", "C2"], "two halves are two halves, whatever is wrong in them"


# Upstream defects (kaito-api.md#known-defects) that live in this layer.


def faults_of(document: dict[str, Any]) -> list[str]:
    return [fault.rule for fault in examine_workspace(document, CATALOG)[1]]


def test_defect_t3_no_count_is_no_nil_dereference() -> None:
    assert faults_of(changed(TUNING, {"resource.count": REMOVE})) == []


def test_defect_i11_an_adapter_without_source_is_a_fault_and_no_panic() -> None:
    assert faults_of(changed(SERVING, {"inference.adapters": [{}, {}]})) == ["A1", "A1"]


def test_defect_adapter_fields_are_checked_on_create_too() -> None:
    adapter = {"source": {"name": "A_B", "image": "r.example.com/a:1"}, "strength": "2"}
    assert faults_of(changed(SERVING, {"inference.adapters": [adapter]})) == ["A3", "A6"]


def test_defect_10_1_8_a_method_in_mixed_case_is_understood() -> None:
    assert faults_of(changed(TUNING, {"tuning.method": "QLoRA"})) == []
    assert parse_workspace(changed(TUNING, {"tuning.method": "QLoRA"})).method == "qlora"


@pytest.mark.parametrize("folder", ["/mnt/../x", "/mntfoo", "/mnt", "../etc"])
def test_defect_10_1_9_an_output_folder_outside_mnt_is_refused(folder: str) -> None:
    text = f"training_config: {{TrainingArguments: {{output_dir: {folder}}}}}"
    assert [fault.rule for fault in config_faults(text, "lora")] == ["M9"]


def test_defect_10_1_10_a_wrongly_cased_machine_type_is_the_same_machine() -> None:
    assert faults_of(changed(TUNING, {"resource.instanceType": "standard_NC24ADS_a100_V4"})) == []


def test_defect_10_1_11_match_expressions_are_honoured_or_refused() -> None:
    one = {"key": "a", "operator": "In", "values": ["1"]}
    assert faults_of(changed(TUNING, {"resource.labelSelector.matchExpressions": [one]})) == []
    exists = {"key": "a", "operator": "Exists"}
    assert faults_of(changed(TUNING, {"resource.labelSelector.matchExpressions": [exists]})) == ["R3"]


def test_defect_10_2_15_alias_presets_work_in_v1alpha1() -> None:
    assert examine_workspace(QUICK_START, CATALOG)[1] == []


def test_defect_an_unknown_machine_of_a_tuning_is_refused_at_once() -> None:
    assert faults_of(changed(TUNING, {"resource.instanceType": "Standard_NC6s_v99"})) == ["R13"]


def test_defect_8_a_preset_that_cannot_be_tuned_or_does_not_fit_is_refused() -> None:
    assert faults_of(changed(TUNING, {"tuning.preset.name": "gpt-oss-20b"})) == ["F10"]
    small = {"tuning.preset.name": "qwen2.5-coder-32b-instruct", "resource.instanceType": "Standard_NC6s_v3"}
    assert faults_of(changed(TUNING, small)) == ["F9"]


def test_a_model_that_one_gpu_does_not_hold_is_tuned_on_several() -> None:
    def told(machine: str) -> list[str]:
        preset = {"name": "llama-3.3-70b-instruct", "presetOptions": {"modelAccessSecret": "hub"}}
        asked = {"tuning.preset": preset, "resource.instanceType": machine}
        return [str(fault) for fault in examine_workspace(changed(TUNING, asked), CATALOG)[1]]

    assert told("Standard_ND96asr_v4") == []
    (fault,) = told("Standard_NV72ads_A10_v5")
    assert "qlora tuning of llama-3.3-70b-instruct, sharded over 2 GPUs, needs about" in fault
    assert "Standard_NC" in fault


@pytest.mark.parametrize(
    "url",
    ["http://2130706433/a", "http://0x7f.1/a", "http://[::ffff:10.0.0.1]/a", "http://metadata.google.internal./a",
     "https://user:pass@example.com/a", "gopher://example.com/a"],
)  # fmt: skip
def test_defect_10_addresses_in_disguise_are_refused(url: str) -> None:
    assert faults_of(changed(TUNING, {"tuning.input.urls": [url]})) == ["U7"]


def test_defect_10_urls_are_checked_on_update_too() -> None:
    new = changed(TUNING, {"tuning.input.urls": ["http://10.0.0.1/a"]})
    assert [fault.rule for fault in examine_update(new, TUNING, CATALOG)[1]] == ["U7"]


def test_defect_training_keys_are_checked_before_the_pod_starts() -> None:
    text = "training_config: {LoraConfig: {rank: 8}}"
    assert [fault.rule for fault in config_faults(text, "lora")] == ["F11"]


def test_rules_that_are_notices_here() -> None:
    """R1 and R4: a deprecated preset runs, reserved labels are ignored; both are said."""
    old = [model.name for model in CATALOG.models if model.deprecated and model.tuning.supported]
    assert old
    said = notices(parse_workspace(changed(TUNING, {"tuning.preset.name": old[0]})), CATALOG)
    assert any("deprecated" in sentence for sentence in said)
    labels = {"resource.labelSelector.matchLabels": {"app": "x", "kaito.sh/workspace": "y"}}
    said = notices(parse_workspace(changed(TUNING, labels)), CATALOG)
    assert any("ignored" in sentence for sentence in said)


def test_the_package_gives_every_name_that_it_promises() -> None:
    import include.workspace

    assert [name for name in include.workspace.__all__ if not hasattr(include.workspace, name)] == []
