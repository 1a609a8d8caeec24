"""Plans: the quick start's, the dialects', and what a plan says about itself."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.catalog import load_catalog, machine_from_labels, sizing
from include.planning import Plan, plan, plan_serving
from include.planning.candidates import candidates
from include.planning.explain import sentences
from include.workspace import parse_workspace
from include.workspace.api import names
from tests.support.plans import serving, tuning

CATALOG = load_catalog()


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


def test_byo_nodes_are_planned_for_as_what_their_labels_say() -> None:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
        "nvidia.com/gpu.count": "4",
        "nvidia.com/gpu.memory": "81920",
    }
    machine = machine_from_labels(labels)
    for made in (
        plan(tuning(machine=""), CATALOG, machine=machine),
        plan_serving(tuning(machine=""), CATALOG, machine=machine),
    ):
        assert (made.own_nodes, made.gpus_per_node, made.dtype) == (True, 4, "bfloat16")
        assert made.gpu_memory_bytes == 80 * 2**30
        assert made.estimate_usd_per_hour is None
        assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made


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
    assert made.training is not None
    assert made.training.processes == 2
    assert "Each of its 2 GPUs trains on its own share of the rows, with the whole model." in made.why


def test_a_model_that_one_gpu_does_not_hold_is_sharded_over_all_and_the_plan_says_why() -> None:
    workspace = tuning("llama-3.3-70b-instruct", "Standard_ND96asr_A100_v4")
    made = plan(workspace, CATALOG)
    assert made.training is not None
    assert (made.training.sharded, made.training.processes) == (True, 8)
    assert made.memory_bytes < made.gpu_memory_bytes
    assert "the model is sharded over them (FSDP), a layer at a time whole on each" in made.why
    assert "GiB, and one NVIDIA A100 has 40.0 GiB" in made.why
    assert made.warnings == ()
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    config = {"training_config": {"TrainingArguments": {"optim": "paged_adamw_8bit"}}}
    assert "paged_adamw_8bit is read as adamw_torch_fused" in plan(workspace, CATALOG, config).warnings[0]
    large = plan(tuning("llama-3.3-70b-instruct", "Standard_ND96isr_H100_v5"), CATALOG)
    assert large.training is not None
    assert not large.training.sharded


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
    assert sentences(made)


@pytest.mark.parametrize("machine", ["Standard_D4s_v5", "Standard_NC96ads_H300_v7"])
def test_a_template_may_ask_for_a_machine_that_is_not_listed(machine: str) -> None:
    document = serving("phi-4", "Standard_NC24ads_A100_v4").to_dict()
    document["inference"] = {"template": {"spec": {}}}
    document["resource"]["instanceType"] = machine
    made = candidates(parse_workspace(document), CATALOG).first
    assert (made.instance_type, made.gpus_per_node, made.estimate_usd_per_hour) == (machine, 0, None)
    assert sentences(made)
    with pytest.raises(KeyError):
        plan(serving("phi-4", machine), CATALOG)


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


def test_a_model_that_takes_several_machines_gets_them_from_vllm_alone() -> None:
    workspace = serving("deepseek-r1-distill-llama-8b", "Standard_NC6s_v3")
    made = plan_serving(workspace, CATALOG)
    assert (made.runtime, made.node_count) == ("vllm", 2)
    assert "One machine is too small, 2 together hold the model" in made.why
    with pytest.raises(
        sizing.DoesNotFit, match=r"needs 18\.\d GiB .* it would take 2 of them, and the runtime transformers"
    ):
        plan_serving(workspace, CATALOG, runtimes=["transformers"])


def test_a_server_spans_a_bounded_number_of_machines() -> None:
    with pytest.raises(sizing.DoesNotFit, match=r"would take \d+ machines .* one server spans 8 at most"):
        plan_serving(serving("deepseek-r1-0528", "Standard_NV36ads_A10_v5"), CATALOG)


def test_a_runtime_that_the_image_lacks_is_stood_in_for_and_said() -> None:
    workspace = serving("phi-4", "Standard_NC24ads_A100_v4")
    assert plan(workspace, CATALOG).runtime == "vllm"
    light = plan(workspace, CATALOG, runtimes=["transformers"])
    assert light.runtime == "transformers"
    assert any("the runtime vllm is asked for" in warning for warning in light.warnings)
    assert "by transformers" in sentences(light)[0]
    document = workspace.to_dict()
    document["metadata"]["annotations"] = {names.RUNTIME: "transformers"}
    asked = plan(parse_workspace(document), CATALOG)
    assert asked.runtime == "transformers"
    assert not any("runtime" in warning for warning in asked.warnings)


def test_more_machines_than_the_model_takes_are_not_made_and_that_is_said() -> None:
    document = serving("phi-4", "Standard_NC24ads_A100_v4").to_dict()
    document["resource"]["count"] = 3
    made = plan(parse_workspace(document), CATALOG)
    assert made.node_count == 1
    assert any("resource.count is 3, but 1 will do" in warning for warning in made.warnings)


def test_an_author_who_asks_for_trust_gets_one_machine_and_a_warning() -> None:
    document = serving("deepseek-r1-distill-llama-8b", "Standard_NC6s_v3").to_dict()
    document["metadata"]["annotations"] = {names.BYPASS_RESOURCE_CHECKS: "", names.RUNTIME: "transformers"}
    made = plan(parse_workspace(document), CATALOG)
    assert made.node_count == 1
    assert "resource checks are passed over" in made.warnings[0]


def test_the_longest_context_that_fits_is_chosen_up_to_the_window() -> None:
    roomy = plan(serving("phi-4", "Standard_NC24ads_A100_v4"), CATALOG)
    assert roomy.max_model_len == CATALOG.model("phi-4").context
    assert roomy.kv_cache_tokens > roomy.max_model_len
    small = plan(serving("phi-3-mini-128k-instruct", "Standard_NC6s_v3"), CATALOG)
    assert 2048 <= small.max_model_len < CATALOG.model("phi-3-mini-128k-instruct").context
    assert small.max_model_len % 256 == 0
    assert any(f"up to {small.max_model_len:,} tokens" in sentence for sentence in sentences(small))


def test_the_inference_config_decides_the_context() -> None:
    workspace = serving("phi-4", "Standard_NC24ads_A100_v4")
    asked = plan(workspace, CATALOG, {"vllm": {"max-model-len": 4096}})
    assert asked.max_model_len == 4096
    assert asked.memory_bytes > plan(workspace, CATALOG).memory_bytes
    assert plan(workspace, CATALOG, {"vllm": {"max_model_len": "long"}}).max_model_len == 16384


def test_a_plan_travels_as_json() -> None:
    config = {
        "training_config": {
            "TrainingArguments": {"max_length": 512},
            "LoraConfig": {"target_modules": ["o_proj"]},
        }
    }
    made = plan(tuning(), CATALOG, config)
    assert made.target_modules == ("o_proj",)
    for one in (made, plan(tuning(), CATALOG), plan_serving(tuning(), CATALOG)):
        text = json.dumps(one.to_dict())
        assert len(text) < 2048
        assert Plan.from_dict(json.loads(text)) == one


def test_a_plan_of_a_later_version_is_read() -> None:
    made = plan(tuning(), CATALOG)
    data = made.to_dict() | {"colour": "green"}
    data["training"]["tempo"] = "allegro"
    assert Plan.from_dict(data) == made


def test_a_plan_explains_itself() -> None:
    text = sentences(plan(tuning(), CATALOG))
    assert text[:5] == [
        "The plan is to tune phi-3-mini-128k-instruct with qlora on 1 x Standard_NC6s_v3 "
        "(1 NVIDIA V100 each) in float16.",
        "A tuning runs on one machine.",
        "It needs about 5.0 GiB of the 16.0 GiB of each GPU: base weights 2.1 GiB, activations 1.4 GiB, "
        "CUDA context 0.6 GiB, logits and loss 0.3 GiB, fragmentation 0.2 GiB, adapter 0.1 GiB, gradients 0.1 GiB, "
        "dequantised layer 0.1 GiB.",
        "That is for sequences of 2,048 tokens, 2 at a time, an adapter of rank 16, optimizer paged_adamw_8bit and "
        "activations that are computed again in the backward pass.",
        "The machines cost about 3.06 USD an hour (list price of 2024-06).",
    ]
    assert text[5].startswith("By estimate, within a factor of two, a million training tokens take ")
    assert all(sentence.endswith(".") for sentence in text)
    assert any("deprecated" in sentence for sentence in text[6:])


def test_a_served_plan_says_why_and_when() -> None:
    text = sentences(plan_serving(tuning(), CATALOG))
    assert "One machine holds the model." in text
    assert any("first answer" in sentence for sentence in text)
    kaito = sentences(plan_serving(tuning(), CATALOG, strategy="kaito"))
    assert "KAITO's estimator asks for 1 for a context of 2,048 tokens." in kaito


def test_an_unknown_price_is_said() -> None:
    made = plan(tuning(machine="Standard_ND96isr_H200_v5"), CATALOG)
    assert made.estimate_usd_per_hour is None
    assert "The price of this machine type is not known." in sentences(made)


def test_a_tight_fit_warns() -> None:
    roomy = plan(tuning("qwen2.5-coder-32b-instruct", "p3dn.24xlarge"), CATALOG)
    assert not any("%" in warning for warning in roomy.warnings)
    full = plan(tuning("falcon-40b", "Standard_NV36ads_A10_v5"), CATALOG)
    share = full.memory_bytes / full.gpu_memory_bytes
    assert share > 1
    assert any(f"the estimate takes {share:.0%} of one NVIDIA A10" in warning for warning in full.warnings)


NVIDIA = [machine for machine in CATALOG.machines if machine.nvidia]


def _planned(document: dict[str, Any]) -> Plan | str:
    """The plan, or the sentence of the one error there may be."""
    try:
        return plan(parse_workspace(document), CATALOG)
    except sizing.DoesNotFit as error:
        return str(error)


@pytest.mark.parametrize("model", CATALOG.models, ids=lambda model: model.name)
def test_every_preset_plans_on_every_nvidia_machine_or_does_not_fit(model: Any) -> None:
    """Serving, and tuning in both methods where the preset can; a plan that is made says so in sentences."""
    served = serving(model.name, NVIDIA[0].name).to_dict()
    tuned = tuning(model.name, NVIDIA[0].name).to_dict()
    for machine in NVIDIA:
        served["resource"]["instanceType"] = tuned["resource"]["instanceType"] = machine.name
        made = _planned(served)
        if isinstance(made, Plan):
            assert 1 <= made.node_count <= sizing.GROUP_MAX
            assert 0 < made.max_model_len <= model.context
            assert made.memory_bytes <= machine.gpu_memory_bytes
        else:
            assert model.name in made
        if model.tuning.supported:
            made = plan(parse_workspace(tuned), CATALOG)
            assert (made.node_count, made.gpus_per_node) == (1, machine.gpus)
            assert made.dtype == ("bfloat16" if machine.bf16 and model.dtype == "bfloat16" else "float16")
            assert made.tokens_per_second > 0
            assert all(sentence.endswith(".") for sentence in sentences(made))


served_models = [model for model in CATALOG.models if model.weights_gib < 150]


@given(
    st.sampled_from(served_models),
    st.sampled_from(NVIDIA),
    st.floats(4, 200),
    st.floats(0, 100),
    st.sampled_from(["exact", "kaito"]),
)
@settings(max_examples=200, deadline=None)
def test_more_memory_never_needs_more_nodes_nor_shortens_the_context(
    model: Any, machine: Any, memory: float, more: float, strategy: Any
) -> None:
    def planned(gib: float) -> Plan:
        grown = dataclasses.replace(machine, gpu_memory_gib=gib)
        machines = tuple(grown if one.name == machine.name else one for one in CATALOG.machines)
        catalog = dataclasses.replace(CATALOG, machines=machines)
        return plan_serving(serving(model.name, machine.name), catalog, strategy=strategy)

    try:
        small = planned(memory)
    except sizing.DoesNotFit:
        return
    large = planned(memory + more)
    assert large.node_count <= small.node_count
    if large.node_count == small.node_count:
        assert large.max_model_len >= small.max_model_len
        assert large.kv_cache_tokens >= small.kv_cache_tokens


def test_a_plan_for_preferences_says_that_a_row_is_two_answers() -> None:
    asked = tuning(machine="Standard_NC24ads_A100_v4")
    asked = asked.model_copy(
        update={
            "metadata": asked.metadata.model_copy(update={"annotations": {names.TUNING_OBJECTIVE: "dpo"}})
        }
    )
    made = plan(asked, CATALOG)
    assert made.training is not None
    assert (made.training.objective, made.training.sequences) == ("dpo", 2)
    told = " ".join(sentences(made))
    assert "1 pair of a better and a worse answer at a time" in told
    assert "reference pass" in told


def test_a_model_that_takes_all_of_a_gpu_is_spread_over_more() -> None:
    """What the driver keeps is nobody's: a plan to the last byte would be machines for a server that cannot start."""
    made = plan_serving(serving("kimi-k2.5", "Standard_ND96isr_H100_v5"), CATALOG)
    assert made.node_count == 2
    assert "80.0 GiB, of which a server can take 75.2 GiB" in made.why


def test_the_context_that_is_told_is_one_of_the_memory_that_the_server_gets() -> None:
    made = plan_serving(serving("llama-3.1-8b-instruct", "Standard_NV36ads_A10_v5"), CATALOG)
    fixed = sum(size for term, size in made.memory if term != "KV cache of one context")
    cache = made.kv_cache_tokens * CATALOG.model("llama-3.1-8b-instruct").kv_bytes_per_token
    assert fixed + cache <= 0.84 * 22.5 * 2**30, "an A10 shows 22.5 of its 24 GiB"
    assert 2048 <= made.max_model_len <= made.kv_cache_tokens
    full = plan_serving(serving("llama-3.3-70b-instruct", "Standard_NC48ads_A100_v4"), CATALOG)
    assert full.kv_cache_tokens == full.max_model_len == 2048, "what must fit, fits"
