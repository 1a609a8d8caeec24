"""Memory figures against published ones, and the estimator against KAITO's own table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from include.catalog import load_catalog, sizing
from include.catalog.models import GIB
from include.catalog.sizing import TrainingShape

CATALOG = load_catalog()
EXPECTED: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "kaito_estimated_nodes.yaml").read_text())
TUNABLE = [model for model in CATALOG.models if model.tuning.supported]


@pytest.mark.parametrize("model_id", EXPECTED["nodes"])
def test_node_counts_are_those_of_kaitos_estimator(model_id: str) -> None:
    model = CATALOG.model(model_id)
    got = [sizing.serving_nodes(model, CATALOG.machine(name)) for name in EXPECTED["machines"]]
    assert got == EXPECTED["nodes"][model_id]


def test_a_gpu_that_cannot_hold_the_context_is_refused_with_figures() -> None:
    with pytest.raises(
        sizing.DoesNotFit, match=r"phi-2 needs more than .* tokens, but 84% of one NVIDIA A10 is 3\.4 GiB"
    ):
        sizing.serving_nodes(CATALOG.model("phi-2"), CATALOG.machine("Standard_NV6ads_A10_v5"), context=8192)


def test_qlora_of_the_quick_start_fits_a_v100() -> None:
    needed = sizing.total(sizing.tuning_memory(CATALOG.model("phi-3-mini-128k-instruct"), "qlora"))
    assert needed < CATALOG.machine("Standard_NC6s_v3").gpu_memory_bytes / 2


def test_adapter_parameters_are_peft_s() -> None:
    # peft prints 41,943,040 trainable parameters for Mistral 7B with r=16 on all seven linear layers.
    assert sizing.adapter_parameters(CATALOG.model("mistral-7b"), 16) == 41_943_040


@pytest.mark.parametrize("model", TUNABLE, ids=lambda model: model.name)
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_every_tunable_preset_has_an_estimate(model: Any, method: str) -> None:
    terms = sizing.tuning_memory(model, method)
    assert all(size > 0 for _, size in terms)
    assert sizing.total(sizing.tuning_memory(model, "qlora")) < sizing.total(
        sizing.tuning_memory(model, "lora")
    )


def test_a_model_without_a_shape_has_no_estimate() -> None:
    with pytest.raises(ValueError, match="has no shape"):
        sizing.tuning_memory(CATALOG.model("gpt-oss-20b"), "lora")


@given(st.sampled_from(TUNABLE), st.integers(1, 8192), st.integers(1, 64), st.integers(1, 128))
def test_longer_sequences_bigger_batches_and_ranks_never_need_less(
    model: Any, length: int, batch: int, rank: int
) -> None:
    def needed(shape: TrainingShape) -> int:
        return sizing.total(sizing.tuning_memory(model, "qlora", shape))

    shape = TrainingShape(length, batch, rank)
    for grown in ({"sequence_length": length * 2}, {"batch_size": batch + 1}, {"rank": rank + 1}):
        assert needed(dataclasses.replace(shape, **grown)) >= needed(shape)
    assert needed(dataclasses.replace(shape, gradient_checkpointing=False)) >= needed(shape)


@given(
    st.sampled_from([model for model in CATALOG.models if model.weights_gib < 100]),
    st.floats(24, 200),
    st.floats(1, 100),
    st.integers(1, 8),
)
def test_more_memory_never_needs_more_nodes(model: Any, memory: float, more: float, gpus: int) -> None:
    small = dataclasses.replace(CATALOG.machine("Standard_NC24ads_A100_v4"), gpu_memory_gib=memory, gpus=gpus)
    large = dataclasses.replace(small, gpu_memory_gib=memory + more)
    try:
        nodes = sizing.serving_nodes(model, small)
    except sizing.DoesNotFit:
        return
    assert sizing.serving_nodes(model, large) <= nodes
    assert not sizing.single_node_fits(model, small) or sizing.single_node_fits(model, large)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, TrainingShape()),
        ({"training_config": None}, TrainingShape()),
        ({"training_config": {"TrainingArguments": {"max_length": 512, "per_device_train_batch_size": 4}}},
         TrainingShape(sequence_length=512, batch_size=4)),
        ({"training_config": {"TrainingArguments": {"max_length": "long"}, "LoraConfig": {"r": 64}}},
         TrainingShape(rank=64)),
        ({"training_config": {"TrainingArguments": {"gradient_checkpointing": False, "max_length": -1},
                              "QuantizationConfig": {"load_in_8bit": True}}},
         TrainingShape(gradient_checkpointing=False, load_in_8bit=True)),
        ({"training_config": {"LoraConfig": [1, 2], "TrainingArguments": "x"}}, TrainingShape()),
    ],
)  # fmt: skip
def test_a_training_config_decides_the_shape(config: dict[str, Any], expected: TrainingShape) -> None:
    assert TrainingShape.from_config(config) == expected


def test_sizes_are_written_for_people() -> None:
    assert sizing.gib(7 * GIB) == "7.0 GiB"
