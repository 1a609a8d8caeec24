from __future__ import annotations

from pathlib import Path

import pytest

from include.workloads.contract import UserConfigError
from include.workloads.tuning.config import parse_config

PRESETS = Path(__file__).parents[4] / "presets" / "tuning"

# KAITO v0.12's qlora-params-template, as its chart ships it.
UPSTREAM_QLORA = """
training_config:
  ModelConfig:
    torch_dtype: "bfloat16"
    local_files_only: true
    device_map: "auto"
  QuantizationConfig:
    load_in_4bit: true
    bnb_4bit_quant_type: "nf4"
    bnb_4bit_compute_dtype: "bfloat16"
    bnb_4bit_use_double_quant: true
  LoraConfig:
    r: 8
    lora_alpha: 8
    lora_dropout: 0.0
  TrainingArguments:
    output_dir: "/mnt/results"
    ddp_find_unused_parameters: false
    save_strategy: "no"
    per_device_train_batch_size: 1
  DataCollator:
    mlm: true
  DatasetConfig:
    shuffle_dataset: true
    train_test_split: 1
"""


def section(name: str, body: str) -> str:
    return f"training_config:\n  {name}:\n    {body}\n"


def faults(text: str, method: str = "lora") -> str:
    with pytest.raises(UserConfigError) as caught:
        parse_config(text, method)
    return str(caught.value)


def test_upstream_template_is_accepted_and_its_empty_wishes_are_named() -> None:
    config = parse_config(UPSTREAM_QLORA, "qlora")
    assert config.lora == {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
    assert config.training == {
        "ddp_find_unused_parameters": False,
        "save_strategy": "no",
        "per_device_train_batch_size": 1,
    }
    notes = "\n".join(config.notes)
    assert "DataCollator.mlm has no effect: a causal model has no masked-token objective" in notes
    assert "TrainingArguments.output_dir" in notes


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_our_presets_have_no_fault_and_nothing_that_is_ignored(method: str) -> None:
    config = parse_config((PRESETS / f"{method}.yaml").read_text(), method)
    assert config.notes == ()
    assert config.lora["r"] == 16


def test_all_faults_come_at_once_with_place_value_and_hint() -> None:
    text = faults(
        """
training_config:
  Loraconfig: {}
  LoraConfig: {lora_aplha: 3, r: 0, lora_dropout: 1.5}
  TrainingArguments: {learning_rate: fast, optim: adamw_torhc, num_epochs: 2}
  DatasetConfig: {train_test_split: 80}
"""
    )
    assert text.startswith("training_config.yaml has 8 faults:")
    for expected in (
        "LoraConfig.lora_aplha: is not a key that the trainer takes; did you mean lora_alpha?",
        "LoraConfig.r: must be from 1 to 512, the largest rank that can be served (got 0)",
        "LoraConfig.lora_dropout: must be at least 0 and below 1 (got 1.5)",
        "TrainingArguments.learning_rate: must be a number (got 'fast')",
        "did you mean adamw_torch?",
        "TrainingArguments.num_epochs: is not a key that the trainer takes; did you mean num_train_epochs?",
        "DatasetConfig.train_test_split: must be above 0 and at most 1",
        "Loraconfig: is not a section of a training config; did you mean LoraConfig?",
    ):
        assert expected in text


def test_values_may_be_texts_as_upstream_writes_them() -> None:
    config = parse_config(
        """
training_config:
  LoraConfig: {r: "16", target_modules: "q_proj, v_proj", use_rslora: "true"}
  TrainingArguments: {learning_rate: 1e-4, packing: "False", max_length: "none", num_train_epochs: "2"}
""",
        "lora",
    )
    assert config.lora == {"r": 16, "target_modules": ["q_proj", "v_proj"], "use_rslora": True}
    assert config.training == {
        "learning_rate": 1e-4,
        "packing": False,
        "max_length": None,
        "num_train_epochs": 2.0,
    }


def test_unquoted_no_is_a_strategy_and_not_false() -> None:
    config = parse_config(section("TrainingArguments", "save_strategy: no"), "lora")
    assert config.training["save_strategy"] == "no"


def test_old_names_are_read_as_the_new_ones() -> None:
    config = parse_config(section("TrainingArguments", "{warmup_ratio: 0.1, max_seq_length: 512}"), "lora")
    assert config.training == {"warmup_steps": 0.1, "max_length": 512}
    assert any("called max_length today" in note for note in config.notes)


@pytest.mark.parametrize(
    ("method", "quantization", "expected"),
    [
        ("lora", "load_in_4bit: true", "lora tunes an unquantised model"),
        ("lora", "load_in_8bit: true", "lora tunes an unquantised model"),
        ("qlora", "load_in_4bit: false", "qlora needs load_in_4bit or load_in_8bit"),
        ("qlora", "{load_in_4bit: true, load_in_8bit: true}", "cannot both be true"),
        ("qlora", "load_in_4bit: maybe", "must be true or false"),
    ],
)
def test_quantisation_must_fit_the_method(method: str, quantization: str, expected: str) -> None:
    assert expected in faults(section("QuantizationConfig", quantization), method)


def test_lora_template_may_say_that_it_does_not_quantise() -> None:
    assert parse_config(section("QuantizationConfig", "load_in_4bit: false"), "LoRA").method == "lora"


@pytest.mark.parametrize(
    "body",
    ["ModelConfig: {trust_remote_code: true}", "TrainingArguments: {deepspeed: {stage: 3}}"],
)
def test_what_is_unsafe_or_unsupported_is_refused(body: str) -> None:
    assert "1 fault" in faults(f"training_config:\n  {body}\n")


def test_refused_keys_with_neutral_values_are_fine() -> None:
    assert parse_config(section("ModelConfig", "trust_remote_code: false"), "lora").model == {}


def test_a_token_in_the_configuration_is_never_repeated() -> None:
    text = faults(section("TrainingArguments", "hub_token: hf_abcdefgh"))
    assert "hub_token" in text
    assert "hf_abcdefgh" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training_config: [1]", "must hold a mapping named training_config"),
        ("a: {b", "not YAML"),
        ("training_config: {}\nLoraConfig: {}", "LoraConfig: stands beside training_config"),
        ("training_config: {LoraConfig: 3}", "must be a mapping"),
    ],
)
def test_a_broken_file_is_named_as_such(text: str, expected: str) -> None:
    assert expected in faults(text)


def test_an_empty_config_leaves_everything_to_us() -> None:
    assert parse_config("training_config: {}", "lora").training == {}


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UserConfigError, match="one of lora, qlora"):
        parse_config("", "dora")
