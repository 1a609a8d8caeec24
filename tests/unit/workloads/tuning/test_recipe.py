from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from include.contracts.training_defaults import default_optimizer
from include.workloads.contract import UserConfigError
from include.workloads.hardware import Hardware, Precision
from include.workloads.tuning import kernels
from include.workloads.tuning.config import TuningConfig
from include.workloads.tuning.recipe import (
    DataFacts,
    ModelFacts,
    Recipe,
    choose_batch,
    choose_max_length,
    decide,
    memory_advice,
    needs_checkpointing,
    unpacked,
)

GIB = 1024**3
CPU = Hardware("cpu", "a CPU", 0, 16 * GIB, False, 2)
V100 = Hardware("cuda", "Tesla V100", 1, 16 * GIB, False, 6)
H100 = Hardware("cuda", "NVIDIA H100", 1, 80 * GIB, True, 16)
SMALL = ModelFacts(layers=30, hidden=576, context=8192, weight_bytes=270_000_000)
PHI3 = ModelFacts(layers=32, hidden=3072, context=131072, weight_bytes=7_600_000_000)


def config(method: str = "qlora", training: dict[str, Any] | None = None, **sections: Any) -> TuningConfig:
    return TuningConfig(
        method=method,
        model={},
        quantization={},
        lora=sections.get("lora", {}),
        training=training or {},
        dataset={},
        notes=(),
        sha256="",
    )


def test_what_the_user_set_stays() -> None:
    asked = {
        "learning_rate": 5e-5,
        "per_device_train_batch_size": 2,
        "gradient_checkpointing": True,
        "packing": False,
        "max_length": 333,
        "optim": "sgd",
        "save_total_limit": 7,
    }
    recipe = decide(
        config(training=asked, lora={"r": 4, "target_modules": ["q_proj"]}),
        CPU,
        Precision("float32", ""),
        DataFacts([50] * 100),
        SMALL,
        ["k_proj"],
    )
    assert {key: recipe.training[key] for key in asked} == asked
    assert "gradient_accumulation_steps" not in recipe.training
    assert recipe.lora["r"] == 4
    assert recipe.lora["target_modules"] == ["q_proj"]


def test_open_settings_are_better_than_upstreams() -> None:
    recipe = decide(config(), H100, Precision("bfloat16", ""), DataFacts([400] * 15000), PHI3)
    assert recipe.lora == {
        "r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    }
    training = recipe.training
    assert training["packing"] is True
    assert training["lr_scheduler_type"] == "cosine"
    assert (training["bf16"], training["fp16"]) == (True, False)
    assert training["optim"] == "paged_adamw_8bit"
    assert training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] == 8


def test_v100_trains_in_float16() -> None:
    recipe = decide(config(), V100, Precision("float16", "no bf16"), DataFacts([100]), PHI3)
    assert (recipe.training["bf16"], recipe.training["fp16"]) == (False, True)
    assert "no bf16" in recipe.reasons


@pytest.mark.parametrize(("hardware", "kept"), [(CPU, False), (V100, False), (H100, True)])
def test_tf32_is_left_out_where_no_unit_has_it(hardware: Hardware, kept: bool) -> None:
    asked = config(training={"tf32": True})
    recipe = decide(asked, hardware, Precision("float32", ""), DataFacts([100]), PHI3)
    assert recipe.training["tf32"] is kept
    assert any("has no TF32 units" in reason for reason in recipe.reasons) is not kept


def test_the_presets_layers_are_used_when_the_user_names_none() -> None:
    recipe = decide(config(), CPU, Precision("float32", ""), DataFacts([9]), SMALL, ["qkv_proj", "o_proj"])
    assert recipe.lora["target_modules"] == ["qkv_proj", "o_proj"]


def test_a_retry_comes_to_the_same_recipe() -> None:
    arguments = (config(), CPU, Precision("float32", ""), DataFacts([9, 80]), SMALL)
    assert decide(*arguments) == decide(*arguments)


def test_saving_is_by_time_even_when_upstreams_template_says_no() -> None:
    recipe = decide(
        config(training={"save_strategy": "no", "save_total_limit": 1}),
        CPU,
        Precision("float32", ""),
        DataFacts([9]),
        SMALL,
    )
    assert recipe.save_every_seconds > 0
    assert recipe.training["save_total_limit"] == 2
    assert any("checkpoints are still written" in reason for reason in recipe.reasons)


@pytest.mark.parametrize(
    ("hardware", "rows", "context", "expected"),
    [
        (CPU, [90] * 30, 8192, 192),  # 2700 tokens: 135 a sequence would give 20 updates, rounded up
        (CPU, [90] * 1000, 8192, 256),
        (CPU, [10, 300], 8192, 320),
        (CPU, [90000], 131072, 1024),
        (CPU, [90] * 1000, 128, 128),
        (H100, [90] * 30, None, 192),
        (H100, [90] * 10000, None, 2048),
        (H100, [3000], 8192, 3008),
        (H100, [90000], 131072, 4096),
    ],
)
def test_sequences_are_as_long_as_the_rows_and_the_updates_allow(
    hardware: Hardware, rows: list[int], context: int | None, expected: int
) -> None:
    assert choose_max_length(hardware, DataFacts(rows), ModelFacts(1, 1, context, 1)) == expected


@pytest.mark.parametrize(
    ("hardware", "tokens", "expected"),
    [(CPU, 4000, (1, 1)), (CPU, 10_000_000, (1, 8)), (H100, 4000, (1, 1)), (H100, 10_000_000, (2, 4))],
)
def test_small_data_gets_small_batches(hardware: Hardware, tokens: int, expected: tuple[int, int]) -> None:
    assert choose_batch(hardware, DataFacts([tokens]), 256) == expected


def test_activations_are_recomputed_only_where_memory_is_short() -> None:
    training = {"per_device_train_batch_size": 2, "max_length": 2048}
    assert needs_checkpointing(V100, PHI3, training)
    assert not needs_checkpointing(H100, PHI3, training)
    assert not needs_checkpointing(CPU, PHI3, training)


def test_optimizer_by_hardware() -> None:
    assert default_optimizer("qlora", cpu=True) == "adamw_torch"
    assert default_optimizer("lora") == "adamw_torch_fused"


def test_a_sharded_training_has_an_optimizer_that_follows() -> None:
    def chosen(hardware: Hardware, **training: Any) -> Recipe:
        asked, precision = config(training=training), Precision("bfloat16", "")
        return decide(asked, hardware, precision, DataFacts([400] * 99), PHI3, sharded=True)

    assert chosen(H100).training["optim"] == "adamw_torch_fused"
    assert chosen(CPU).training["optim"] == "adamw_torch"
    assert chosen(H100, optim="sgd").training["optim"] == "sgd"
    other = chosen(H100, optim="lion_8bit")
    assert other.training["optim"] == "adamw_torch_fused"
    assert any("optim lion_8bit is read as adamw_torch_fused" in reason for reason in other.reasons)


@pytest.mark.parametrize(
    ("hardware", "there", "used", "why"),
    [
        (H100, True, True, ""),
        (H100, False, False, "true, but the image has no liger-kernel"),
        (CPU, True, False, "true, but there is no GPU"),
    ],
)
def test_liger_s_kernels_are_used_where_they_are_present(
    hardware: Hardware, there: bool, used: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: object() if there else None)
    asked = config("lora", {"use_liger_kernel": True})
    made = decide(asked, hardware, Precision("bfloat16", ""), DataFacts([400] * 99), PHI3)
    assert made.training["use_liger_kernel"] is used
    assert why in " ".join(made.reasons)
    assert any("liger" in reason for reason in made.reasons) is bool(why)


@pytest.mark.parametrize(
    ("hardware", "dtype", "there", "chosen"),
    [
        (H100, "bfloat16", True, "flash_attention_2"),
        (H100, "float32", True, None),
        (V100, "float16", True, None),
        (CPU, "bfloat16", True, None),
        (H100, "bfloat16", False, None),
    ],
)
def test_flash_attention_is_used_where_it_is_present(
    hardware: Hardware, dtype: str, there: bool, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: object() if there else None)
    assert kernels.attention(hardware, Precision(dtype, "")) == chosen


@pytest.mark.parametrize(
    ("key", "sections"),
    [
        ("QuantizationConfig.load_in_8bit", {"quantization": {"load_in_8bit": True}}),
        ("LoraConfig.init_lora_weights", {"lora": {"r": 4, "init_lora_weights": "pissa_niter_4"}}),
        ("LoraConfig.use_dora", {"lora": {"r": 4, "use_dora": True}}),
    ],
)
def test_what_needs_the_whole_model_is_not_sharded(key: str, sections: dict[str, Any]) -> None:
    asked = dataclasses.replace(config("lora"), **sections)
    with pytest.raises(UserConfigError, match=f"{key} keeps the model from being sharded"):
        decide(asked, H100, Precision("bfloat16", ""), DataFacts([400] * 99), PHI3, sharded=True)


@pytest.mark.parametrize(
    ("training", "method", "lever"),
    [
        ({"per_device_train_batch_size": 4, "max_length": 4096}, "qlora", "per_device_train_batch_size to 1"),
        ({"per_device_train_batch_size": 1, "max_length": 4096}, "qlora", "max_length lower (it is 4096)"),
        ({"per_device_train_batch_size": 1, "max_length": 256}, "lora", "gradient_checkpointing to true"),
        (
            {"per_device_train_batch_size": 1, "max_length": 256, "gradient_checkpointing": True},
            "lora",
            "use method qlora",
        ),
        (
            {"per_device_train_batch_size": 1, "max_length": 256, "gradient_checkpointing": True},
            "qlora",
            "machine with more memory",
        ),
    ],
)
def test_out_of_memory_names_the_largest_lever(training: dict[str, Any], method: str, lever: str) -> None:
    assert lever in memory_advice(training, method)


@pytest.mark.parametrize(
    ("asked", "settled"),
    [
        ({"load_best_model_at_end": True}, {"eval_strategy": "epoch", "save_strategy": "epoch"}),
        ({"early_stopping_patience": 2}, {"load_best_model_at_end": True, "save_strategy": "epoch"}),
        (
            {
                "load_best_model_at_end": True,
                "eval_strategy": "steps",
                "eval_steps": 7,
                "save_strategy": "epoch",
            },
            {"save_strategy": "steps", "save_steps": 7, "save_total_limit": 3},
        ),
        ({"early_stopping_patience": 2, "load_best_model_at_end": False}, {"save_strategy": "no"}),
    ],
)
def test_the_best_adapter_is_one_that_was_evaluated(asked: dict[str, Any], settled: dict[str, Any]) -> None:
    recipe = decide(config(training=asked), CPU, Precision("float32", ""), DataFacts([50] * 100), SMALL)
    assert {key: recipe.training.get(key) for key in settled} == settled


def test_rows_that_cannot_be_packed_are_as_many_an_update_as_packed_ones() -> None:
    lengths = [100] * 400
    packed = decide(config(), CPU, Precision("float32", ""), DataFacts(lengths), SMALL)
    alone = unpacked(packed, config(), lengths)
    assert packed.training["packing"]
    assert not alone.training["packing"]

    def rows(made: Any) -> float:
        return float(
            made.training["per_device_train_batch_size"] * made.training["gradient_accumulation_steps"]
        )

    assert rows(alone) == pytest.approx(rows(packed) * packed.max_length / 100, rel=0.1)
    assert alone.training["per_device_train_batch_size"] == packed.training["per_device_train_batch_size"]
    assert "not packed" in alone.reasons[-1]


@pytest.mark.parametrize("asked", [{"per_device_train_batch_size": 2}, {"gradient_accumulation_steps": 3}])
def test_how_many_rows_the_config_asks_for_stays(asked: dict[str, int]) -> None:
    lengths = [100] * 400
    packed = decide(config(training=asked), CPU, Precision("float32", ""), DataFacts(lengths), SMALL)
    alone = unpacked(packed, config(training=asked), lengths)
    assert {**alone.training, "packing": True} == {
        **packed.training,
        "padding_free": False,
        "eval_packing": False,
    }
