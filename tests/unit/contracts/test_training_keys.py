"""One table of training keys: it is what the libraries take, check and trainer judge by it alike, and refuse at once.

The trainer's classes (peft, trl, transformers) are imported here, so these tests take seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from include.catalog.training_shape import TrainingShape
from include.contracts import training_keys as keys
from include.contracts.adapter_keys import MUST_BE_NEUTRAL
from include.contracts.methods import OBJECTIVES
from include.contracts.training_config import examine_config, read_config
from include.workloads.contract import UserConfigError
from include.workloads.tuning import describe
from include.workloads.tuning.config import parse_config
from include.workspace.validation.training_config import config_faults


def config(section: str, key: str, value: Any) -> str:
    return json.dumps({"training_config": {section: {key: value}}})


def trainer_takes(text: str, method: str = "lora") -> bool:
    try:
        parse_config(text, method)
    except UserConfigError:
        return False
    return True


def test_the_committed_list_is_the_libraries() -> None:
    path = keys.FILE.relative_to(Path(__file__).parents[3])
    assert keys.FILE.read_text() == describe.text(), (
        f"run: python -m include.workloads.tuning.describe > {path}"
    )


def test_every_key_that_counts_can_be_judged_without_its_library() -> None:
    """A value of a class of the library's own could only be refused on the GPU."""
    unknown = [
        f"{s}.{k}"
        for s in keys.SECTIONS
        for objective in OBJECTIVES
        for k, kind in keys.accepted(s, objective).items()
        if "any" in kind.split("|")
    ]
    assert unknown == []


def test_the_tables_name_no_key_twice_and_none_that_is_gone() -> None:
    assert not set(keys.REFUSED) & set(keys.IGNORED)
    known = {
        f"{section}.{key}"
        for section in keys.SECTIONS
        for objective in OBJECTIVES
        for key in keys.accepted(section, objective)
    }
    assert set(keys.LIMITS) <= known
    assert {f"{name.partition('.')[0]}.{now}" for name, now in keys.RENAMED.items()} <= known


@pytest.mark.parametrize("key", sorted(MUST_BE_NEUTRAL))
def test_what_cannot_be_served_is_not_trained(key: str) -> None:
    """`modules_to_save` and `bias: all` trained on a rented machine, and failed at the push."""
    [fault] = config_faults(config("LoraConfig", key, "all"), "lora")
    assert fault.rule == "F11"
    assert not trainer_takes(config("LoraConfig", key, "all"))
    assert config_faults(config("LoraConfig", key, None), "lora") == []
    assert config_faults(config("LoraConfig", key, "none"), "lora") == []


plain = st.one_of(
    st.booleans(),
    st.integers(-3, 40),
    st.floats(-2, 2).map(lambda number: round(number, 3)),
    st.sampled_from([1e-05, float("inf"), float("nan")]),
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
    )
    + sorted(keys.IGNORED)
    + sorted(keys.REFUSED)
    + sorted(keys.RENAMED)
)


@given(places, plain, st.sampled_from(["lora", "qlora"]))
@settings(max_examples=400, deadline=None)
def test_check_and_trainer_agree_about_every_key_and_value(place: str, value: Any, method: str) -> None:
    section, _, key = place.partition(".")
    text = config(section, key, value)
    assert trainer_takes(text, method) == (config_faults(text, method) == [])


@given(st.text(max_size=80) | plain.map(lambda value: json.dumps({"training_config": value})))
@settings(max_examples=300, deadline=None)
def test_check_and_trainer_agree_about_any_text(text: str) -> None:
    assert trainer_takes(text) == (config_faults(text, "lora") == [])


@pytest.mark.parametrize("text", ["1e-4", "1:30", "010", "yes", "2001-01-01", "0x10", ".5", "1_000", "~"])
def test_a_word_means_the_same_to_check_and_trainer(text: str) -> None:
    """PyYAML reads 1:30 as ninety and 1e-4 as text, Kubernetes the other way round; there is one reader."""
    document = f"training_config: {{TrainingArguments: {{weight_decay: {text}, run_name: {text}}}}}"
    read = read_config(document, "lora")
    assert trainer_takes(document) == (not read.faults)
    if not read.faults:
        assert parse_config(document, "lora").training == read.section("TrainingArguments")


preference_places = st.sampled_from(
    sorted(
        {
            f"TrainingArguments.{key}"
            for objective in OBJECTIVES
            for key in keys.accepted("TrainingArguments", objective)
        }
    )
)


@given(places | preference_places, plain, st.sampled_from(OBJECTIVES))
@settings(max_examples=400, deadline=None)
def test_what_is_let_through_is_of_the_type_that_the_library_takes(
    place: str, value: Any, objective: str
) -> None:
    section, _, key = place.partition(".")
    read = examine_config({"training_config": {section: {key: value}}}, "lora", objective)
    hints = describe.objective_hints(objective) if section == "TrainingArguments" else describe.hints(section)
    for name, taken in read.section(section).items():
        try:
            TypeAdapter(hints[name]).validate_python(taken)
        except ValidationError as error:
            raise AssertionError(f"{section}.{name}: {taken!r} was let through: {error}") from None


@given(places, plain)
@settings(max_examples=300, deadline=None)
def test_the_plan_reads_the_values_that_the_trainer_reads(place: str, value: Any) -> None:
    section, _, key = place.partition(".")
    shape = TrainingShape.from_config({"training_config": {section: {key: value}}})
    training = examine_config({"training_config": {section: {key: value}}}).section("TrainingArguments")
    lora = examine_config({"training_config": {section: {key: value}}}).section("LoraConfig")
    own = TrainingShape()
    assert shape.rank == lora.get("r", own.rank)
    assert shape.sequence_length == (training.get("max_length") or own.sequence_length)
    assert shape.optimizer == training.get("optim", "")
    assert shape.epochs == training.get("num_train_epochs", own.epochs)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_our_own_defaults_pass(method: str) -> None:
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


@pytest.mark.parametrize(
    ("section", "content", "words"),
    [
        (
            "TrainingArguments",
            {"lr_scheduler_kwargs": {"a": 1}},
            "a: is no setting of cosine; it takes num_cycles",
        ),
        (
            "TrainingArguments",
            {"lr_scheduler_type": "cosine_with_min_lr"},
            "needs min_lr or min_lr_rate in it",
        ),
        ("TrainingArguments", {"lr_scheduler_type": "reduce_lr_on_plateau"}, "is not a value it can have"),
        ("TrainingArguments", {"optim": "galore_adamw"}, "is not a value it can have"),
        ("TrainingArguments", {"adam_beta1": 1.0}, "must be at least 0 and below 1"),
        ("TrainingArguments", {"gradient_checkpointing_kwargs": "x"}, "must be a mapping"),
        ("TrainingArguments", {"weight_decay": "inf"}, "must be a finite number"),
        ("TrainingArguments", {"bf16": True, "fp16": True}, "cannot both be true"),
        ("TrainingArguments", {"bf16_full_eval": True, "fp16_full_eval": True}, "cannot both be true"),
        ("TrainingArguments", {"padding_free": True, "packing": False}, "needs packing, which is false"),
        ("TrainingArguments", {"eval_steps": -3}, "must be above 0"),
        ("TrainingArguments", {"save_steps": 1.5}, "a whole number of them"),
        ("TrainingArguments", {"logging_steps": 2.5}, "a whole number of them"),
        ("TrainingArguments", {"eval_accumulation_steps": 0}, "must be 1 or more"),
        ("TrainingArguments", {"torch_empty_cache_steps": 0}, "must be 1 or more"),
        ("TrainingArguments", {"label_smoothing_factor": 3}, "must be at least 0 and below 1"),
        ("TrainingArguments", {"neftune_noise_alpha": -5}, "must be 0 or more"),
        ("TrainingArguments", {"seed": 2**32}, "must be from 0 to 4294967295"),
        ("TrainingArguments", {"optim": "sgd", "optim_args": "momentum=x"}, "momentum must be a number"),
        ("TrainingArguments", {"optim": "sgd", "optim_args": "nesterov=x"}, "nesterov must be true or false"),
        (
            "TrainingArguments",
            {"optim": "ademamix", "optim_args": "t_alpha=1.5"},
            "t_alpha must be a whole number",
        ),
        (
            "TrainingArguments",
            {"optim": "adamw_torch", "optim_args": "eps=1"},
            "eps is no setting of adamw_torch",
        ),
        ("TrainingArguments", {"optim_args": "eps=1"}, "eps is no setting of adamw"),
        ("TrainingArguments", {"optim_args": "eps"}, "must be key=value pairs"),
        ("TrainingArguments", {"lr_scheduler_kwargs": {"num_cycles": "x"}}, "num_cycles: must be a number"),
        ("LoraConfig", {"layers_to_transform": [1]}, "needs target_modules beside it"),
        (
            "LoraConfig",
            {"layers_to_transform": [1], "target_modules": "all-linear"},
            "must be a list of names",
        ),
        ("LoraConfig", {"layers_pattern": ["h"]}, "needs layers_to_transform beside it"),
        (
            "LoraConfig",
            {"init_lora_weights": "corda"},
            "use one of false, gaussian, loftq, orthogonal, pissa, pissa_niter_16",
        ),
        ("LoraConfig", {"init_lora_weights": "pissa_niter_4", "r": 257}, "set r to 256 or less"),
        ("LoraConfig", {"loftq_config": {"loftq_bits": 4}}, "init_lora_weights: loftq only"),
        ("LoraConfig", {"r": 513}, "the largest rank that can be served"),
        ("LoraConfig", {"rank_pattern": {"q_proj": 1024}}, "must be a whole number from 1 to 512"),
        ("LoraConfig", {"eva_config": {"rho": 2}}, "plain LoRA adapters only"),
        ("ModelConfig", {"chat_template": "chat.jinja"}, "must be a template's text"),
    ],
)
def test_what_the_libraries_or_serving_refused_on_the_gpu(
    section: str, content: dict[str, Any], words: str
) -> None:
    [fault] = read_config(
        json.dumps({"training_config": {section: content}}, allow_nan=True).replace("Infinity", ".inf"),
        "lora",
    ).faults
    assert words in str(fault)


def test_a_mapping_may_be_written_as_json_text() -> None:
    text = config("TrainingArguments", "gradient_checkpointing_kwargs", '{"use_reentrant": false}')
    assert parse_config(text, "lora").training == {"gradient_checkpointing_kwargs": {"use_reentrant": False}}


def test_numbers_at_the_edge_of_what_the_libraries_take_are_let_through() -> None:
    edges = {
        "save_steps": 0.5,
        "eval_steps": 7.0,
        "logging_steps": 1,
        "seed": 2**32 - 1,
        "neftune_noise_alpha": 0,
        "optim": "sgd",
        "optim_args": "momentum=0.9, nesterov=True",
        "lr_scheduler_kwargs": {"num_cycles": 0.5},
    }
    assert read_config(json.dumps({"training_config": {"TrainingArguments": edges}}), "lora").faults == ()


@pytest.mark.parametrize("wanted", ["lm_head", ["q_proj", "model.embed_tokens"]])
def test_an_adapter_of_a_model_s_ends_is_not_served_by_every_vllm(wanted: Any) -> None:
    read = examine_config({"training_config": {"LoraConfig": {"target_modules": wanted}}})
    assert not read.faults
    assert any("kaito.sh/runtime: transformers" in one for one in read.notices)


def test_an_adapter_of_usual_layers_is_served_without_a_word() -> None:
    read = examine_config({"training_config": {"LoraConfig": {"target_modules": ["q_proj", "v_proj"]}}})
    assert (read.faults, read.notices) == ((), ())
