"""Plans: the quick start's, the dialects', and what a plan says about itself."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.catalog import load_catalog, sizing
from include.planning import Plan, plan, plan_serving
from include.workspace import Workspace, parse_workspace

CATALOG = load_catalog()


def tuning(
    preset: str = "phi-3-mini-128k-instruct", machine: str = "Standard_NC6s_v3", **changes: Any
) -> Workspace:
    document: dict[str, Any] = {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": "w"},
        "resource": {"instanceType": machine, "labelSelector": {"matchLabels": {"app": "w"}}},
        "tuning": {
            "preset": {"name": preset},
            "method": "qlora",
            "input": {"urls": ["https://example.com/a.parquet"]},
            "output": {"image": "r.example.com/a:1", "imagePushSecret": "s"},
        },
    }
    document["tuning"].update(changes)
    return parse_workspace(document)


def serving(preset: str, machine: str) -> Workspace:
    document = copy.deepcopy(tuning(preset, machine).to_dict())
    document.pop("tuning")
    return parse_workspace({**document, "inference": {"preset": {"name": preset}}})


def test_the_quick_start_plans_on_a_v100_in_float16_with_a_warning() -> None:
    made = plan(tuning(), CATALOG)
    assert (made.purpose, made.model, made.method) == ("tuning", "phi-3-mini-128k-instruct", "qlora")
    assert (made.instance_type, made.node_count, made.gpus_per_node) == ("Standard_NC6s_v3", 1, 1)
    assert made.dtype == "float16"
    assert "NVIDIA V100 has no bfloat16" in made.warnings[0]
    assert made.memory_bytes < made.gpu_memory_bytes
    assert made.estimate_usd_per_hour == 3.06
    assert made.target_modules == ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def test_newer_gpus_compute_in_bfloat16_without_a_warning() -> None:
    made = plan(tuning(machine="Standard_NC24ads_A100_v4"), CATALOG)
    assert (made.dtype, made.warnings) == ("bfloat16", ())


def test_names_are_canonical_whatever_was_written() -> None:
    made = plan(tuning("Microsoft/PHI-3-mini-128k-instruct", "STANDARD_nc6s_V3", method="QLoRA"), CATALOG)
    assert (made.model, made.instance_type, made.method) == (
        "phi-3-mini-128k-instruct",
        "Standard_NC6s_v3",
        "qlora",
    )
    assert made.model_id == "microsoft/Phi-3-mini-128k-instruct"
    assert len(made.revision) == 40


def test_tuning_takes_one_node_and_all_its_gpus() -> None:
    made = plan(tuning(machine="Standard_NC48ads_A100_v4"), CATALOG)
    assert (made.node_count, made.gpus_per_node) == (1, 2)
    assert any("2 GPUs" in warning for warning in made.warnings)


def test_the_user_s_training_config_decides_the_memory() -> None:
    config = {
        "training_config": {"TrainingArguments": {"max_length": 8192, "per_device_train_batch_size": 4}}
    }
    assert plan(tuning(), CATALOG, config).memory_bytes > 2 * plan(tuning(), CATALOG).memory_bytes


def test_a_rollout_is_planned_from_the_tuning_workspace() -> None:
    made = plan_serving(tuning(), CATALOG)
    assert (made.purpose, made.model, made.node_count, made.dtype) == (
        "serving",
        "phi-3-mini-128k-instruct",
        1,
        "float16",
    )


def test_an_inference_workspace_plans_its_service() -> None:
    assert plan(serving("phi-4", "Standard_NC24ads_A100_v4"), CATALOG).purpose == "serving"


def test_strategies_differ_where_kaito_rounds_up() -> None:
    workspace = serving("qwen2.5-coder-32b-instruct", "Standard_NC24ads_A100_v4")
    assert plan_serving(workspace, CATALOG, strategy="kaito").node_count == 2  # unit-tested upstream
    assert plan_serving(workspace, CATALOG).node_count == 1


def test_a_template_plans_machines_only() -> None:
    document = serving("phi-4", "Standard_NC24ads_A100_v4").to_dict()
    document["inference"] = {"template": {"spec": {}}}
    document["resource"]["count"] = 2
    made = plan(parse_workspace(document), CATALOG)
    assert (made.model, made.node_count, made.gpus_per_node, made.memory) == ("template", 2, 1, ())
    assert made.sentences()


@pytest.mark.parametrize("changes", [{"preset": "phi-33"}, {"machine": "Standard_NC6s_v9"}])
def test_unknown_names_are_key_errors(changes: dict[str, str]) -> None:
    with pytest.raises(KeyError, match="did you mean"):
        plan(tuning(**changes), CATALOG)


def test_a_preset_that_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(ValueError, match="has no shape"):
        plan(tuning("gpt-oss-20b"), CATALOG)


def test_a_model_that_no_number_of_machines_holds_is_refused() -> None:
    with pytest.raises(sizing.DoesNotFit, match="does not fit 64 machines"):
        plan_serving(serving("deepseek-r1-0528", "Standard_NV6ads_A10_v5"), CATALOG)


def test_a_plan_travels_as_json() -> None:
    for made in (plan(tuning(), CATALOG), plan_serving(tuning(), CATALOG)):
        text = json.dumps(made.to_dict())
        assert len(text) < 2500
        assert Plan.from_dict(json.loads(text)) == made


def test_a_plan_explains_itself() -> None:
    text = plan(tuning(), CATALOG).sentences()
    assert text[0] == (
        "The plan is to tune phi-3-mini-128k-instruct with qlora on 1 x Standard_NC6s_v3 "
        "(1 NVIDIA V100 each) in float16."
    )
    assert text[1].startswith(
        "It needs about 5.0 GiB of the 16.0 GiB of each GPU, most of it for base weights"
    )
    assert text[2] == "The machines cost about 3.06 USD an hour (list price of 2024-06)."
    assert all(sentence.endswith(".") for sentence in text)
    assert any("deprecated" in sentence for sentence in text[3:])


def test_an_unknown_price_is_said() -> None:
    made = plan(tuning(machine="Standard_ND96isr_H200_v5"), CATALOG)
    assert made.estimate_usd_per_hour is None
    assert "The price of this machine type is not known." in made.sentences()


def test_a_tight_fit_warns() -> None:
    roomy = plan(tuning("qwen2.5-coder-32b-instruct", "p3dn.24xlarge"), CATALOG)
    assert not any("%" in warning for warning in roomy.warnings)
    full = plan(tuning("qwen2.5-coder-32b-instruct", "Standard_NV36ads_A10_v5"), CATALOG)
    share = full.memory_bytes / full.gpu_memory_bytes
    assert share > 1
    assert any(f"the estimate takes {share:.0%} of one NVIDIA A10" in warning for warning in full.warnings)


machines = [machine for machine in CATALOG.machines if machine.nvidia and machine.gpu_memory_gib >= 16]
models = [model for model in CATALOG.models if model.weights_gib < 150]


@given(st.sampled_from(models), st.sampled_from(machines), st.sampled_from(machines))
@settings(max_examples=200, deadline=None)
def test_more_memory_never_needs_more_nodes(model: Any, one: Any, other: Any) -> None:
    small, large = sorted((one, other), key=lambda machine: machine.gpu_memory_gib)
    if small.gpus != large.gpus:
        return
    few = plan_serving(serving(model.name, large.name), CATALOG).node_count
    assert few <= plan_serving(serving(model.name, small.name), CATALOG).node_count


@given(
    st.sampled_from([model for model in CATALOG.models if model.tuning.supported]), st.sampled_from(machines)
)
@settings(max_examples=100, deadline=None)
def test_every_tunable_preset_plans_on_every_nvidia_machine(model: Any, machine: Any) -> None:
    made = plan(tuning(model.name, machine.name), CATALOG)
    assert (made.node_count, made.gpus_per_node) == (1, machine.gpus)
    assert made.dtype == ("bfloat16" if machine.bf16 and model.dtype == "bfloat16" else "float16")
