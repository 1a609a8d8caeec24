"""The data of presets/ is complete; that it is sound is test_checking's."""

from __future__ import annotations

import pytest

from include.catalog import Model, load_catalog, sizing
from include.catalog.architectures import TARGET_MODULES
from include.catalog.loading import PRESETS
from include.contracts.image_reference import parse_reference

CATALOG = load_catalog(PRESETS)

# pkg/utils/plugin of KAITO v0.12: the short names of Workspaces written before it took hub ids.
LEGACY_ALIASES = """
deepseek-r1-0528 deepseek-r1-distill-llama-8b deepseek-r1-distill-qwen-14b deepseek-v3-0324 gemma-3-27b-instruct
gemma-3-4b-instruct gpt-oss-120b gpt-oss-20b llama-3.1-8b-instruct llama-3.3-70b-instruct ministral-3-14b-instruct
ministral-3-3b-instruct ministral-3-8b-instruct mistral-7b mistral-7b-instruct mistral-large-3-675b-instruct
phi-3-medium-128k-instruct phi-3-medium-4k-instruct phi-3-mini-128k-instruct phi-3-mini-4k-instruct
phi-3.5-mini-instruct phi-4 phi-4-mini-instruct qwen2.5-coder-32b-instruct qwen2.5-coder-7b-instruct
"""
EARLY_ERA = """
falcon-7b falcon-7b-instruct falcon-40b falcon-40b-instruct llama-2-7b llama-2-7b-chat llama-2-13b llama-2-13b-chat
llama-2-70b llama-2-70b-chat phi-2
"""


def test_the_catalogue_is_complete() -> None:
    current = [model for model in CATALOG.models if not model.deprecated]
    assert (len(current), len(CATALOG.models), len(CATALOG.machines)) == (61, 72, 116)
    upstream = {"phi-4", "phi-4-mini-instruct", "phi-3-mini-4k-instruct", "phi-3-mini-128k-instruct"}
    upstream |= {"phi-3-medium-4k-instruct", "phi-3-medium-128k-instruct", "phi-3.5-mini-instruct"}
    upstream |= {"qwen2.5-coder-7b-instruct", "qwen2.5-coder-32b-instruct", "mistral-7b"}
    tunable = {model.name for model in current if model.tuning.supported}
    ours = {"smollm2-135m-instruct", "mistral-7b-instruct", "llama-3.1-8b-instruct", "llama-3.3-70b-instruct"}
    ours |= {"deepseek-r1-distill-llama-8b", "deepseek-r1-distill-qwen-14b"}
    assert tunable == upstream | ours


def test_kaitos_short_names_are_names_here_in_any_letter_case() -> None:
    assert len(LEGACY_ALIASES.split()) == 25
    for alias in LEGACY_ALIASES.split():
        assert CATALOG.model(alias.upper()).status == "current"


@pytest.mark.parametrize("name", EARLY_ERA.split())
def test_presets_that_kaito_dropped_are_marked_and_still_have_all_that_a_run_needs(name: str) -> None:
    model = CATALOG.model(name)
    assert model.deprecated
    assert model.last_release is not None
    assert model.shape is not None
    assert model.architecture in TARGET_MODULES


@pytest.mark.parametrize(
    "name", ["Standard_NC6s_v3", "Standard_NC12s_v3", "Standard_NC4as_T4_v3", "Standard_NC6"]
)
def test_machines_that_kaito_dropped_are_marked_and_still_plan(name: str) -> None:
    machine = CATALOG.machine(name)
    assert machine.deprecated
    assert machine.nvidia
    assert not machine.bf16


def test_a_price_says_when_and_where() -> None:
    priced = [machine for machine in CATALOG.machines if machine.usd_per_hour is not None]
    assert len(priced) > 50
    assert {(machine.price_as_of, machine.price_region) for machine in priced} == {
        ("2024-06", "East US"),
        ("2024-06", "US East (N. Virginia)"),
    }


@pytest.mark.parametrize(
    ("name", "load_format", "tokenizer", "flags"),
    [
        ("phi-4", "auto", "auto", {}),
        ("mistral-7b", "mistral", "mistral", {}),
        ("deepseek-r1-distill-llama-8b", "auto", "deepseek_v32", {}),
        ("glm-5.2-fp8", "auto", "auto", {"kv-cache-dtype": "fp8"}),
        ("qwen3.6-27b", "auto", "auto", {"gdn-prefill-backend": "triton"}),
        ("minimax-m2.7", "auto", "auto", {"enable-expert-parallel": ""}),
    ],
)
def test_what_kaitos_server_is_told_about_a_model(
    name: str, load_format: str, tokenizer: str, flags: dict[str, str]
) -> None:
    model = CATALOG.model(name)
    assert (model.load_format, model.tokenizer_mode, model.vllm_args) == (load_format, tokenizer, flags)


@pytest.mark.parametrize("model", [m for m in CATALOG.models if m.tuning.supported], ids=lambda m: m.name)
def test_target_modules_are_the_layers_that_memory_is_estimated_for(model: Model) -> None:
    assert set(model.tuning.target_modules) == set(sizing.linear_layers(model))


def test_images_are_references_and_the_workloads_image_keeps_its_name() -> None:
    assert all(parse_reference(reference) for reference in CATALOG.images.values())
    assert parse_reference(CATALOG.image("workloads")).repository.endswith("kaito-workloads")


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_default_tuning_configs_keep_our_own_rules(method: str) -> None:
    from include.workspace.validation.training_config import config_faults

    assert config_faults(CATALOG.tuning_config(method), method) == []
