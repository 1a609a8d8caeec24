"""The keys of dpo and kto: a key of another objective is named, and what excludes each other is refused at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.preference_keys import least_batch
from include.contracts.training_config import examine_config, read_config
from include.workloads.contract import UserConfigError
from include.workloads.tuning.config import parse_config


def told(objective: str, section: str = "TrainingArguments", **values: Any) -> str:
    document = json.dumps({"training_config": {section: values}})
    return " ".join(map(str, read_config(document, "lora", objective).faults))


@pytest.mark.parametrize(
    ("objective", "values", "words"),
    [
        ("sft", {"beta": 0.2}, "it belongs to the annotation kaito.sh/tuning-objective: dpo or kto"),
        ("sft", {"desirable_weight": 2}, "kaito.sh/tuning-objective: kto"),
        ("kto", {"label_smoothing": 0.1}, "kaito.sh/tuning-objective: dpo"),
        ("dpo", {"betta": 0.2}, "did you mean beta?"),
        ("dpo", {"packing": True}, "rows of preference data are never packed"),
        ("dpo", {"sync_ref_model": True}, "the reference is the base model with the adapter off"),
        ("kto", {"precompute_ref_log_probs": True}, "the reference is the base model with the adapter off"),
        ("dpo", {"loss_type": "sigmoids"}, "did you mean sigmoid?"),
        ("dpo", {"loss_type": ["sigmoid", "aot"]}, "is not a value it can have"),
        ("dpo", {"loss_type": "sigmoid,ipo", "loss_weights": [1.0]}, "must have a weight for each loss: 2"),
        ("dpo", {"loss_type": "apo_zero", "f_divergence_type": "forward_kl"}, "cannot be used with loss_type apo_zero"),
        ("dpo", {"label_smoothing": 0.5}, "must be at least 0 and below 0.5"),
        ("dpo", {"beta": 0}, "must be above 0"),
        ("kto", {"per_device_train_batch_size": 1}, "must be 2 or more"),
        ("kto", {"train_sampling_strategy": "random"}, "use one of sequential"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_with_what_would_be_right(
    objective: str, values: dict[str, Any], words: str
) -> None:
    assert words in told(objective, **values)


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("LoraConfig", {"target_modules": ["o_proj", "lm_head"]}, "cannot hold lm_head with dpo"),
        ("DatasetConfig", {"preference_data": "chosen"}, "cannot be chosen with dpo"),
        ("DatasetConfig", {"messages_column": "x"}, "names one answer of a row"),
    ],
)
def test_other_sections_know_the_objective(section: str, values: dict[str, Any], words: str) -> None:
    assert words in told("dpo", section, **values)
    assert told("sft", section, **values) == ""


@pytest.mark.parametrize(
    ("objective", "values"),
    [
        ("dpo", {"beta": "0.3", "loss_type": "ipo", "label_smoothing": 0.1, "disable_dropout": False}),
        ("dpo", {"loss_type": "sigmoid,sft", "loss_weights": [1, 0.5], "packing": False}),
        ("dpo", {"per_device_train_batch_size": 1, "assistant_only_loss": True}),
        ("kto", {"loss_type": "apo_zero_unpaired", "per_device_train_batch_size": 1}),
        ("kto", {"desirable_weight": 1.5, "undesirable_weight": 1.0}),
    ],
)
def test_what_the_objective_s_trainer_takes_passes(objective: str, values: dict[str, Any]) -> None:
    assert told(objective, **values) == ""
    text = json.dumps({"training_config": {"TrainingArguments": values}})
    assert parse_config(text, "lora", objective).objective == objective


def test_a_list_of_losses_is_a_list_and_a_dropout_that_is_turned_off_is_told() -> None:
    sections = {"TrainingArguments": {"loss_type": "sigmoid,sft"}, "LoraConfig": {"lora_dropout": 0.1}}
    read = examine_config({"training_config": sections}, "lora", "dpo")
    assert read.section("TrainingArguments")["loss_type"] == ["sigmoid", "sft"]
    assert any("lora_dropout has no effect: disable_dropout is true with dpo" in one for one in read.notices)


def test_the_trainer_judges_by_the_objective_too() -> None:
    with pytest.raises(UserConfigError, match="tuning-objective: dpo or kto"):
        parse_config("training_config: {TrainingArguments: {beta: 0.1}}", "lora")


@given(st.text(max_size=20), st.sampled_from(["", "sft", "dpo", "kto", "dpoo"]))
def test_nothing_that_is_written_raises(text: str, objective: str) -> None:
    read_config(text, "lora", objective)
    examine_config({"training_config": {"TrainingArguments": {text: text}}}, "lora", objective)


@pytest.mark.parametrize(
    ("loss", "rows"), [("kto", 2), ("apo_zero_unpaired", 1), (["sigmoid"], 1), (None, 1)]
)
def test_only_kto_s_own_loss_needs_two_rows(loss: Any, rows: int) -> None:
    assert least_batch({"loss_type": loss}) == rows
