"""Plans of models that embed, rank or score: no cache where none is kept, vLLM's own format, its runner by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from include import manifests
from include.catalog import load_catalog, records
from include.catalog.checking import check
from include.catalog.hub_check import as_yaml
from include.catalog.models import Model, ModelShape, Tuning
from include.catalog.sizing import DoesNotFit
from include.planning import Plan, launch_arguments, plan_serving
from include.planning.explain import sentences
from include.workspace import parse_workspace, validate
from include.workspace.api import names
from tests.support.plans import serving, tuning

MINILM = Model(
    name="all-minilm-l6-v2",
    hf_id="sentence-transformers/all-MiniLM-L6-v2",
    revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    status="current",
    architecture="BertModel",
    weights_gib=0.0846,
    context=256,
    attention="MHA",
    kv_bytes_per_token=0,
    dtype="bfloat16",
    pooling=True,
    shape=ModelShape(384, 6, 12, 12, 32, 1536, 30522),
)
QWEN = replace(
    MINILM,
    name="qwen3-embedding-0.6b",
    hf_id="Qwen/Qwen3-Embedding-0.6B",
    architecture="Qwen3ForCausalLM",
    weights_gib=1.11,
    context=32768,
    attention="GQA",
    kv_bytes_per_token=114688,
    shape=ModelShape(1024, 28, 16, 8, 128, 3072, 151669),
    tuning=Tuning(),
)
CATALOG = load_catalog().with_hub_model(MINILM).with_hub_model(QWEN)
T4 = "Standard_NC4as_T4_v3"


def planned(model: Model, machine: str = T4, **more: object) -> Plan:
    return plan_serving(serving(model.hf_id, machine), CATALOG, **more)  # type: ignore[arg-type]


def test_an_encoder_needs_its_weights_and_no_cache() -> None:
    made = planned(MINILM)
    assert made.pooling
    assert (made.dtype, made.runtime, made.node_count) == ("auto", "vllm", 1)
    assert dict(made.memory)["KV cache of one context"] == 0
    assert (made.max_model_len, made.kv_cache_tokens) == (256, 0)
    told = " ".join(sentences(made))
    assert "serve all-minilm-l6-v2 (which embeds, ranks or scores texts and writes none)" in told
    assert "up to 256 tokens long; nothing of it is kept in a cache" in told
    assert not any("bfloat16" in warning for warning in made.warnings)


def test_a_decoder_that_embeds_keeps_its_cache() -> None:
    made = planned(QWEN)
    assert made.pooling
    assert dict(made.memory)["KV cache of one context"] > 0
    assert made.kv_cache_tokens > 0


def test_it_is_started_as_what_it_is_and_nothing_writes() -> None:
    for model in (MINILM, QWEN):
        flags = launch_arguments(planned(model), CATALOG)
        assert "--runner=pooling" in flags
        assert {"--dtype=auto", "--max-model-len=auto"} <= set(flags)
        assert not [flag for flag in flags if flag.startswith(("--chat", "--tool", "--enable", "--reason"))]
    writer = plan_serving(serving("phi-4-mini-instruct", "Standard_NC24ads_A100_v4"), CATALOG)
    assert not any(flag.startswith("--runner") for flag in launch_arguments(writer, CATALOG))


@pytest.mark.parametrize(
    ("model", "flags", "pools"),
    [
        (QWEN, {"runner": "generate"}, False),
        (QWEN, {"runner": "auto"}, True),
        ("phi-4-mini-instruct", {"runner": "pooling"}, True),
        ("phi-4-mini-instruct", {"convert": "classify"}, True),
        ("phi-4-mini-instruct", {"convert": "none"}, False),
    ],
)
def test_the_user_s_config_has_the_last_word(model: Model | str, flags: dict[str, str], pools: bool) -> None:
    name = model if isinstance(model, str) else model.hf_id
    config = {"vllm": flags}
    made = plan_serving(serving(name, "Standard_NC24ads_A100_v4"), CATALOG, config=config)
    assert made.pooling == pools
    found = launch_arguments(made, CATALOG, config=config)
    assert sum(flag.startswith("--runner") for flag in found) == ("runner" in flags or pools)


def test_its_files_are_those_of_sentence_transformers_and_no_benchmark_waits() -> None:
    made = planned(MINILM)
    assert made.weights_parts == "pooling"
    assert not manifests.is_benchmarked(serving(MINILM.hf_id, T4), made)
    assert Plan.from_dict(made.to_dict()) == made


def test_the_runtime_transformers_refuses_it() -> None:
    with pytest.raises(
        DoesNotFit, match="BertModel embeds, ranks or scores texts, and this runtime only writes"
    ):
        planned(MINILM, runtimes=["transformers"])


def test_a_workspace_with_it_passes_and_one_that_cannot_be_is_told_all() -> None:
    assert validate(serving(MINILM.hf_id, T4), CATALOG) == []
    [fault] = validate(tuning(MINILM.hf_id, "Standard_NC6s_v3"), CATALOG)
    assert "a tuning teaches a model to write them" in str(fault)


def test_adapters_and_a_model_image_are_refused_with_it() -> None:
    document = serving(MINILM.hf_id, T4).to_dict()
    document["inference"]["adapters"] = [{"source": {"name": "a", "image": "r.example.com/a:1"}}]
    document["metadata"]["annotations"] = {names.MODEL_IMAGE: "r.example.com/kaito-minilm:1"}
    told = {fault.path: str(fault) for fault in validate(parse_workspace(document), CATALOG)}
    assert set(told) == {"inference.adapters", f"metadata.annotations[{names.MODEL_IMAGE}]"}
    assert "are for models that write text, and all-minilm-l6-v2 embeds" in told["inference.adapters"]
    assert "kaito.sh/model-volume" in told[f"metadata.annotations[{names.MODEL_IMAGE}]"]
    boxed = replace(MINILM, name="boxed", hf_id="acme/boxed", image="r.example.com/kaito-boxed:1")
    [fault] = validate(serving(boxed.hf_id, T4), CATALOG.with_hub_model(boxed))
    assert (fault.rule, fault.path) == ("F60", "inference.preset.name")


def test_its_record_is_sound_in_a_presets_folder(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for model in (MINILM, QWEN):
        (tmp_path / "models" / f"{model.name}.yaml").write_text(as_yaml(model))
    assert list(check((records.PRESETS, tmp_path))) == []
    assert load_catalog(records.PRESETS, tmp_path).model(MINILM.name).pooling
