"""What each runtime loads: the kept answers of vLLM's registry, against every preset under the runtime of its plan."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from include.catalog import engines, load_catalog, sizing
from include.catalog.loading import PRESETS
from include.catalog.models import ModelShape

ROOT = Path(__file__).parents[3]
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
CATALOG = load_catalog(PRESETS)
# Only code of its repository reads its config.json.
REMOTE_CODE = {"nvidia-nemotron-nano-12b-v2-vl-bf16"}


@pytest.mark.parametrize("name", sorted(model.name for model in CATALOG.models))
def test_vllm_loads_every_preset_that_is_not_refused(name: str) -> None:
    model = CATALOG.model(name)
    reason = engines.why_not(model, "vllm")
    assert bool(reason) == model.remote_code == (name in REMOTE_CODE), reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ministral-3-3b-instruct", "no class"),
        ("kimi-k2.5", "no class"),
        ("qwen3-8b-awq", "package gptqmodel"),
        ("gpt-oss-20b", "package kernels"),
        ("mistral-large-3-675b-instruct", "no class"),
        ("nvidia-nemotron-3-ultra-550b-a55b-nvfp4", "MIXED_PRECISION"),
    ],
)
def test_transformers_says_why_it_does_not(name: str, reason: str) -> None:
    assert reason in engines.why_not(CATALOG.model(name), "transformers")


@pytest.mark.parametrize("name", ["phi-4", "qwen3.5-4b", "gemma-3-4b-instruct", "deepseek-r1-0528"])
def test_transformers_loads_the_text_part(name: str) -> None:
    assert engines.loads(CATALOG.model(name), "transformers")


@pytest.mark.parametrize("name", sorted(engines.vllm_facts().pooling))
def test_a_model_that_writes_no_text_is_vllm_s_alone(name: str) -> None:
    embedding = replace(CATALOG.model("phi-4"), architecture=name)
    assert engines.pools(embedding)
    assert engines.loads(embedding, "vllm")
    told = f"{name} embeds, ranks or scores texts, and this runtime only writes them"
    assert engines.why_not(embedding, "transformers") == told


def test_a_writer_that_its_repository_makes_embed_is_vllm_s_alone() -> None:
    model = replace(CATALOG.model("qwen3-8b-awq"), quantization=None, architecture="Qwen3ForCausalLM")
    assert engines.loads(model, "transformers")
    assert not engines.loads(replace(model, pooling=True), "transformers")
    assert engines.loads(replace(model, pooling=True), "vllm")


def test_the_lists_of_vllm_are_what_they_say() -> None:
    facts = engines.vllm_facts()
    assert not facts.pooling & facts.architectures
    assert facts.encoders < facts.pooling
    assert {"BertModel", "XLMRobertaForSequenceClassification", "ModernBertModel"} <= facts.encoders
    assert {"MistralModel", "Qwen3ForSequenceClassification"} <= facts.pooling - facts.encoders


def test_what_no_runtime_knows() -> None:
    odd = replace(CATALOG.model("phi-4"), architecture="Phi9ForCausalLM")
    assert "no model class for Phi9ForCausalLM" in engines.why_not(odd, "vllm")
    packed = replace(CATALOG.model("qwen3-8b-awq"), quantization="two-bit")
    assert "no kernels for two-bit weights" in engines.why_not(packed, "vllm")


@pytest.mark.parametrize(
    ("heads", "kv_heads", "gpus", "divides"),
    [
        (32, 8, 8, True),
        (32, 8, 16, True),  # each head of keys and values on two GPUs
        (40, 10, 4, False),
        (40, 10, 2, True),
        (71, 1, 2, False),
        (14, 2, 4, False),
        (71, 1, 1, True),
    ],
)
def test_heads_are_shared_evenly_or_not(heads: int, kv_heads: int, gpus: int, divides: bool) -> None:
    model = CATALOG.model("phi-4")
    assert model.shape is not None
    shape = ModelShape(5120, 40, heads, kv_heads, 128, 17920, 100352)
    assert (engines.indivisible(replace(model, shape=shape), gpus) == "") == divides


def test_gpt_oss_fits_the_machines_that_upstream_tried() -> None:
    for name, machine in (
        ("gpt-oss-20b", "Standard_NV36ads_A10_v5"),
        ("gpt-oss-120b", "Standard_NC24ads_A100_v4"),
    ):
        assert sizing.single_node_fits(CATALOG.model(name), CATALOG.machine(machine))


@pytest.mark.slow
@pytest.mark.skipif(not VLLM_PYTHON.is_file(), reason="make vllm")
def test_the_kept_answers_are_those_of_the_installed_vllm() -> None:
    program = [str(VLLM_PYTHON), "-m", "include.workloads.serving.vllm_facts"]
    answered = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert yaml.safe_load(answered) == yaml.safe_load((ROOT / "presets" / "vllm.yaml").read_text())


ASK = """
import json, sys
from vllm.model_executor.models import ModelRegistry
from transformers.models.auto import modeling_auto as tables
native = {
    name
    for key, table in vars(tables).items() if key.endswith("_MAPPING_NAMES")
    for value in list(table.values()) for name in ([value] if isinstance(value, str) else value)
    if isinstance(name, str)
}
supported = set(ModelRegistry.get_supported_archs())
print(json.dumps({arch: [arch in supported, arch in native] for arch in json.load(sys.stdin)}))
"""
# transformers has no class for these, but vLLM reads their config itself: params.json, or a class of its own.
VLLM_S_OWN = {"MistralLarge3ForCausalLM", "KimiK25ForConditionalGeneration"}


@pytest.mark.slow
@pytest.mark.skipif(not VLLM_PYTHON.is_file(), reason="make vllm")
def test_the_registry_itself_has_the_class_of_every_preset_and_reads_its_config_without_code() -> None:
    models = [model for model in CATALOG.models if not model.remote_code]
    asked = json.dumps(sorted({model.architecture for model in models}))
    answer = subprocess.run(
        [str(VLLM_PYTHON), "-c", ASK], input=asked, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]
    found = json.loads(answer)
    assert [name for name, (supported, _) in found.items() if not supported] == []
    assert {name for name, (_, native) in found.items() if not native} <= VLLM_S_OWN


def test_facts_are_made_where_vllm_is() -> None:
    assert "vllm" not in sys.modules
    assert len(engines.vllm_facts().architectures) > 200
    assert engines.vllm_facts().arguments["max-model-len"] == "int"
