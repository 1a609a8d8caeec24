"""Admission and the trainer agree about every key and value of training_config.yaml.

The trainer's classes (peft, trl, transformers) are imported here, so these tests take seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.workloads.contract import UserConfigError
from include.workloads.tuning import describe, keys
from include.workloads.tuning.config import parse_config
from include.workspace.validation.training_config import SECTIONS, config_faults
from include.workspace.validation.training_keys import ELSEWHERE, FILE, RANGES

PROBES = [-5, -2, -1, -0.5, 0, 0.001, 0.5, 0.999, 1, 1.0, 1.5, 2, 15, 16, 17, 1000]
OURS = {"F11", "F12"}


def config(section: str, key: str, value: Any) -> str:
    # JSON, since the two sides read an unquoted 1e-4 differently: as a number here, as text in the trainer.
    return json.dumps({"training_config": {section: {key: value}}})


def admission(text: str) -> set[str]:
    """The Section.key of each fault of a key or a value."""
    return {f.path.removeprefix("training_config.") for f in config_faults(text, "lora") if f.rule in OURS}


def trainer(text: str) -> bool:
    try:
        parse_config(text, "lora")
    except UserConfigError:
        return False
    return True


def test_the_committed_list_is_the_trainer_s() -> None:
    path = FILE.relative_to(Path(__file__).parents[3])
    assert FILE.read_text() == describe.text(), f"run: python -m include.workloads.tuning.describe > {path}"


def test_the_sections_are_the_trainer_s() -> None:
    assert SECTIONS == keys.SECTIONS


def test_the_limits_are_for_the_same_keys() -> None:
    assert set(RANGES) == set(keys.LIMITS)


@pytest.mark.parametrize("name", sorted(keys.LIMITS))
def test_the_limits_agree(name: str) -> None:
    holds, words = keys.LIMITS[name]
    assert RANGES[name].words == words
    assert [RANGES[name].holds(value) for value in PROBES] == [bool(holds(value)) for value in PROBES]


plain = st.one_of(
    st.booleans(),
    st.integers(-3, 40),
    # Never 1e-05: the trainer's YAML reads that as text, admission's as a number, as Kubernetes does.
    st.floats(-2, 2, allow_nan=False).map(lambda number: round(number, 3)),
    st.sampled_from(["no", "steps", "true", "false", "1e-4", "none", "a,b", "16", "", "bfloat16", "nf4", "cosine"]),
    st.text("abz19.,", max_size=5),
    st.lists(st.one_of(st.text("ab", min_size=1, max_size=3), st.integers(0, 9)), max_size=2),
    st.dictionaries(st.text("ab", min_size=1, max_size=2), st.integers(0, 2), max_size=1),
)  # fmt: skip
places = st.sampled_from(
    sorted(
        f"{section}.{key}"
        for section in keys.SECTIONS
        for key in (*keys.accepted(section), "r_", "lora_alpa", "max_seq_length")
        if f"{section}.{key}" not in ELSEWHERE
    )
    + sorted(keys.IGNORED)
    + sorted(keys.REFUSED)
    + sorted(keys.RENAMED)
)


@given(places, plain)
@settings(max_examples=400, deadline=None)
def test_admission_refuses_nothing_that_the_trainer_takes_and_little_less(place: str, value: Any) -> None:
    section, _, key = place.partition(".")
    text = config(section, key, value)
    refused = bool(admission(text))
    if place in ELSEWHERE:
        return
    if refused:
        assert not trainer(text), text
    elif section in keys.SECTIONS and _simple(section, key):
        assert trainer(text) or place in ("TrainingArguments.bf16", "TrainingArguments.fp16"), text


def _simple(section: str, key: str) -> bool:
    """Whether the type of the key is one that both sides can judge in full: not a text with words of its own."""
    known = describe.description()["sections"][section]
    return known.get(key, "any") != "any" and not {"list", "dict", "str"} & set(_words(known[key]))


def _words(kind: Any) -> list[str]:
    return "".join(letter if letter.isalpha() else " " for letter in str(kind)).split()


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_our_own_defaults_pass_both(method: str) -> None:
    from include.catalog import load_catalog

    text = load_catalog().tuning_config(method)
    assert config_faults(text, method) == []
    assert parse_config(text, method)


def test_kaito_s_published_templates_pass() -> None:
    """The values of charts/kaito/workspace/templates/{lora,qlora}-params.yaml."""
    text = """
training_config:
  ModelConfig: {torch_dtype: bfloat16, local_files_only: true, device_map: auto}
  QuantizationConfig:
    {load_in_4bit: true, bnb_4bit_quant_type: nf4, bnb_4bit_compute_dtype: bfloat16, bnb_4bit_use_double_quant: true}
  LoraConfig: {r: 8, lora_alpha: 8, lora_dropout: 0.0}
  TrainingArguments:
    {output_dir: /mnt/results, ddp_find_unused_parameters: false, save_strategy: no, per_device_train_batch_size: 1}
  DataCollator: {mlm: true}
  DatasetConfig: {shuffle_dataset: true, train_test_split: 1}
"""
    assert config_faults(text, "qlora") == []
    assert parse_config(text, "qlora")
