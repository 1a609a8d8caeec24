"""When the plan shards a model over GPUs, and what it reckons that each of them then holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.catalog import layers, load_catalog, sizing
from include.catalog.models import GIB
from include.catalog.sizing import TrainingShape

CATALOG = load_catalog()
TUNABLE = [model for model in CATALOG.models if model.tuning.supported]
LARGEST = [model for model in TUNABLE if model.weights_gib > 100]
EIGHT = [
    machine
    for machine in CATALOG.machines
    if machine.gpus == 8 and 24 <= machine.gpu_memory_gib <= 80 and machine.nvidia
]
METHODS = st.sampled_from(["lora", "qlora"])


def needed(model: Any, method: str, training: TrainingShape) -> int:
    return sizing.total(sizing.tuning_memory(model, method, training))


@pytest.mark.parametrize("machine", EIGHT, ids=lambda machine: machine.name)
@pytest.mark.parametrize("model", LARGEST, ids=lambda model: model.name)
def test_a_model_of_70_billion_tunes_on_eight_gpus_of_24_to_80_gib(model: Any, machine: Any) -> None:
    """With what the trainer chooses by itself, not only with the least."""
    verdict = sizing.judge(model, "tuning", "qlora", machine, TrainingShape())
    assert verdict.fits, verdict.why_not
    training = sizing.placed(model, "qlora", TrainingShape(), machine)
    assert training.sharded == (machine.gpu_memory_gib < 80)


def test_the_catalogue_has_such_models_and_machines() -> None:
    assert {model.name for model in LARGEST} >= {"llama-3.3-70b-instruct", "llama-2-70b"}
    assert {machine.gpu_memory_gib for machine in EIGHT} >= {24, 32, 40, 80}


@given(st.sampled_from(TUNABLE), st.sampled_from(CATALOG.machines), METHODS)
def test_a_whole_model_on_each_gpu_comes_first(model: Any, machine: Any, method: str) -> None:
    settled = TrainingShape().settled(model, method, machine)
    training = sizing.placed(model, method, TrainingShape(), machine)
    fits = needed(model, method, settled) <= machine.gpu_memory_bytes
    assert training.sharded == (not fits and machine.gpus > 1)
    if not training.sharded:
        assert training == settled


@pytest.mark.parametrize("what", [{"load_in_8bit": True}, {"from_weights": True}, {"dora": True}])
def test_what_needs_the_whole_model_is_never_sharded(what: dict[str, bool]) -> None:
    shape, machine = TrainingShape(**what), CATALOG.machine("Standard_ND96asr_v4")
    assert not sizing.placed(LARGEST[0], "lora", shape, machine).sharded


def test_a_machine_that_holds_a_whole_model_on_each_gpu_is_recommended_first() -> None:
    model = CATALOG.model("phi-4")
    found = sizing.recommend(model, "tuning", "lora", CATALOG, cloud="azure")
    current = [one for one in found if one.fits and not one.machine.deprecated]
    assert [one.sharded for one in current] == sorted(one.sharded for one in current)
    assert {one.machine.name for one in current if one.sharded} >= {"Standard_NV72ads_A10_v5"}


def test_a_config_says_what_needs_the_whole_model() -> None:
    sections = {"LoraConfig": {"init_lora_weights": "pissa_niter_4"}}
    assert not TrainingShape.from_config({"training_config": sections}).shardable
    assert TrainingShape.from_config({"training_config": {}}).shardable


@given(st.sampled_from(TUNABLE), st.integers(2, 15), METHODS)
def test_more_gpus_never_need_more_memory_each(model: Any, gpus: int, method: str) -> None:
    machine = dataclasses.replace(CATALOG.machine("Standard_ND96asr_v4"), gpus=gpus)
    shape = TrainingShape().settled(model, method, machine).over_gpus()
    more = dataclasses.replace(shape, processes=gpus + 1)
    assert needed(model, method, more) <= needed(model, method, shape)


@given(st.sampled_from(TUNABLE), st.integers(2, 16), METHODS)
def test_the_slices_are_the_model_and_loading_needs_less_than_training(
    model: Any, gpus: int, method: str
) -> None:
    machine = dataclasses.replace(CATALOG.machine("Standard_ND96asr_v4"), gpus=gpus)
    shape = dataclasses.replace(TrainingShape.modest(), processes=gpus).settled(model, method, machine)
    terms = dict(sizing.tuning_memory(model, method, shape.over_gpus()))
    whole = sizing.base_weights(model, method, shape)
    assert whole / gpus <= terms["base weights"] <= whole
    # A layer comes in 16 bits and is quantised beside them; all others are in slices by then.
    loading = terms["base weights"] + 2.5 * layers.block_parameters(model)
    assert loading < sizing.total(list(terms.items()))


def test_the_terms_of_llama_3_3_on_eight_a10g() -> None:
    model, machine = CATALOG.model("llama-3.3-70b-instruct"), CATALOG.machine("g5.48xlarge")
    training = sizing.placed(model, "qlora", TrainingShape(), machine)
    terms = {name: size / GIB for name, size in sizing.tuning_memory(model, "qlora", training)}
    # By hand: 68.45 billion weights in the layers, half a byte each, in 8 slices; 0.127 bits of scales on each GPU; and
    # 2.1 billion of embeddings and head, in 16 bits.
    assert terms["base weights"] == pytest.approx((34.2 / 8 + 1.09 + 4.2 / 8) * 1e9 / GIB, rel=0.01)
    assert terms["gathered weights"] == pytest.approx(2 * 128256 * 8192 * 2 / GIB)  # more than three layers
    assert terms["optimizer"] == pytest.approx(207e6 * 8 / 8 / GIB, rel=0.01)
    assert training.optimizer == "adamw_torch_fused"  # bitsandbytes' own cannot follow the slices
