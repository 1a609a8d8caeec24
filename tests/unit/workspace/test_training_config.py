"""The rules for training_config.yaml, M3 to M9."""

from __future__ import annotations

import json

import pytest

from include.catalog import load_catalog
from include.contracts.faults import CLOSE_LOOKS, HINTS
from include.contracts.training_config import read_config
from include.workspace import parse_workspace
from include.workspace.validation.training_config import (
    check_training_config,
    config_faults,
    config_notices,
    layer_notices,
)
from tests.support.plans import tuning

QLORA = "training_config:\n  QuantizationConfig: {load_in_4bit: true}\n"


@pytest.mark.parametrize(
    ("rule", "method", "text"),
    [
        ("M3", "qlora", "a: [1"),
        ("M3", "qlora", ""),
        ("M3", "qlora", "training_config: 3"),
        ("M3", "qlora", "other: {}"),
        ("M3", "qlora", QLORA + "  LoraConfig: [r, 8]\n"),
        ("M4", "qlora", QLORA + "  LoRAConfig: {r: 8}\n"),
        ("M4", "qlora", QLORA + "  TokenizerParams: {}\n"),
        ("M5", "lora", "training_config: {QuantizationConfig: {load_in_4bit: 'no'}}"),
        ("M6", "qlora", "training_config: {QuantizationConfig: {load_in_4bit: true, load_in_8bit: true}}"),
        ("M7", "lora", QLORA),
        ("M8", "qlora", "training_config: {QuantizationConfig: {load_in_4bit: false}}"),
        ("M8", "qlora", "training_config: {}"),
        ("M9", "qlora", QLORA + "  TrainingArguments: {output_dir: 3}\n"),
        ("M9", "qlora", QLORA + "  TrainingArguments: {output_dir: /mnt}\n"),
        ("M9", "qlora", QLORA + "  TrainingArguments: {output_dir: /mnt/../x}\n"),  # KAITO lets this through
        ("M9", "qlora", QLORA + "  TrainingArguments: {output_dir: /mntfoo}\n"),  # and this
        ("M9", "qlora", QLORA + "  TrainingArguments: {output_dir: ../etc}\n"),
    ],
)
def test_rule(rule: str, method: str, text: str) -> None:
    assert [fault.rule for fault in config_faults(text, method)] == [rule]


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("qlora", QLORA),
        ("qlora", "training_config: {QuantizationConfig: {load_in_8bit: true}}"),
        ("qlora", QLORA + "  TrainingArguments: {output_dir: /mnt/results}\n"),
        ("qlora", QLORA + "  TrainingArguments: {output_dir: results}\n"),
        ("lora", "training_config: {LoraConfig: {r: 8}, DataCollator: null}"),
        (
            "lora",
            "training_config: {DatasetConfig: {train_test_split: 0.9}, "
            "TrainingArguments: {early_stopping_patience: 2}}",
        ),
    ],
)
def test_fine(method: str, text: str) -> None:
    assert config_faults(text, method) == []


@pytest.mark.parametrize(
    ("content", "rule", "words"),
    [
        ("LoraConfig: {rank: 8}", "F11", "is not a key that the trainer takes"),
        ("LoraConfig: {lora_alpa: 8}", "F11", "did you mean lora_alpha?"),
        ("LoraConfig: {r: 0}", "F12", "must be from 1 to 512"),
        ("LoraConfig: {r: eight}", "F12", "must be a whole number"),
        ("LoraConfig: {target_modules: '(o_proj'}", "F12", "neither a list of names nor a pattern"),
        ("LoraConfig: {exclude_modules: '*.o_proj'}", "F12", "neither a list of names nor a pattern"),
        ("TrainingArguments: {save_strategy: epochs}", "F12", "did you mean epoch?"),
        ("TrainingArguments: {max_seq_length: 4}", "F12", "must be 16 tokens or more"),
        ("TrainingArguments: {load_best_model_at_end: true}", "F12", "needs held-out rows"),
        ("TrainingArguments: {early_stopping_patience: 2}", "F12", "needs held-out rows"),
        (
            "TrainingArguments: {early_stopping_threshold: 0.1}",
            "F12",
            "needs early_stopping_patience beside it",
        ),
        (
            "{DatasetConfig: {train_test_split: 0.9}, "
            "TrainingArguments: {load_best_model_at_end: true, eval_strategy: no}}",
            "F12",
            "needs an evaluation",
        ),
        ("TrainingArguments: {packing_strategy: x}", "F12", "use one of bfd, bfd_split, wrapped"),
        ("TrainingArguments: {train_sampling_strategy: x}", "F12", "use one of group_by_length, random"),
        ("TrainingArguments: {truncation_mode: keep_end}", "F12", "keep_start"),
        ("TrainingArguments: {include_num_input_tokens_seen: x}", "F12", "use one of all, "),
        ("TrainingArguments: {torch_compile: true}", "F11", "needs a C compiler"),
        ("TrainingArguments: {torch_compile_mode: default}", "F11", "needs a C compiler"),
        ("TrainingArguments: {liger_kernel_config: {rope: true}}", "F11", "use_liger_kernel alone chooses"),
        ("TrainingArguments: {router_aux_loss_coef: 0.1}", "F11", "leaves the model's router as it is"),
        ("ModelConfig: {trust_remote_code: true}", "F11", "code that comes with a model is never run"),
    ],
)
def test_every_key_and_value_is_judged(content: str, rule: str, words: str) -> None:
    [fault] = config_faults(f"training_config:\n  {content}\n", "lora")
    assert fault.rule == rule
    assert words in str(fault)


def test_a_token_in_a_config_is_never_shown() -> None:
    [fault] = config_faults("training_config: {TrainingArguments: {hub_token: hunter2}}", "lora")
    assert "hunter2" not in str(fault)


def test_keys_without_effect_are_told() -> None:
    text = "training_config: {DataCollator: {mlm: true}, LoraConfig: {r: 8}}"
    assert config_faults(text, "lora") == []
    [notice] = config_notices(text)
    assert notice.startswith("DataCollator.mlm has no effect: ")


def test_a_flood_of_unknown_keys_is_told_whole_with_few_comparisons(comparisons: list[str]) -> None:
    keys = "".join(f"    learning_ratte_{index}: 1\n" for index in range(5_000))
    both = "".join(f"    lora_alfa_{index}: 1\n" for index in range(5_000))
    found = config_faults(QLORA + f"  TrainingArguments:\n{keys}  LoraConfig:\n{both}", "qlora")
    assert len(found) == 10_000
    assert found[0].hint == "did you mean learning_rate?"
    assert 0 < len(comparisons) <= HINTS * (CLOSE_LOOKS + 1)


@pytest.mark.parametrize(
    ("asked", "lacking"),
    [
        ("[qkv_proj, o_proj]", []),
        ("qkv_proj", []),
        ("qkv_proj,o_proj", []),
        ("all-linear", []),
        ("[lm_head, self_attn.o_proj]", []),
        ("'.*q_proj'", []),  # a pattern is asked of the model itself
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("[q_proj, o_proj, v_proj]", []),  # what is there is adapted, as in KAITO
        ("q_proj", ["q_proj"]),
    ],
)
def test_layers_that_the_model_lacks_are_refused_before_anything_is_rented(
    asked: str, lacking: list[str]
) -> None:
    workspace = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "w"},
        "tuning": {
            "preset": {"name": "phi-3-mini-128k-instruct"},
            "method": "qlora",
            "input": {"urls": ["https://example.com/a.jsonl"]},
            "output": {"image": "r.example.com/a:1", "imagePushSecret": "push"},
        },
    }
    text = f"{QLORA}  LoraConfig:\n    target_modules: {asked}\n"
    found = check_training_config(parse_workspace(workspace), text, load_catalog())
    assert [(fault.rule, fault.value) for fault in found] == [("F12", name) for name in lacking]
    assert all("it has qkv_proj, o_proj, gate_up_proj, down_proj" in str(fault) for fault in found)
    told = layer_notices(parse_workspace(workspace), text, load_catalog())
    assert bool(told) is ("q_proj, o_proj" in asked)
    assert all("has no q_proj, v_proj; only o_proj will be adapted" in one for one in told)


@pytest.mark.parametrize(
    ("machine", "config", "refused"),
    [
        ("Standard_ND96asr_v4", {"QuantizationConfig": {"load_in_8bit": True}}, "QuantizationConfig.load_in_8bit"),
        ("Standard_ND96isr_H100_v5", {"QuantizationConfig": {"load_in_8bit": True}}, ""),  # 66 of 80 GiB
        ("Standard_ND96asr_v4", {"QuantizationConfig": {"load_in_4bit": True}}, ""),
        ("Standard_ND96isr_H100_v5", {"LoraConfig": {"init_lora_weights": "pissa_niter_4"}},
         "LoraConfig.init_lora_weights"),
        ("Standard_ND96isr_H100_v5", {"LoraConfig": {"init_lora_weights": "gaussian"}}, ""),
    ],
)  # fmt: skip
def test_what_keeps_a_model_whole_that_no_gpu_holds_is_refused(
    machine: str, config: dict[str, object], refused: str
) -> None:
    method = "qlora" if "QuantizationConfig" in config else "lora"
    workspace = tuning("llama-3.3-70b-instruct", machine, method=method)
    found = check_training_config(workspace, json.dumps({"training_config": config}), load_catalog())
    assert [fault.path for fault in found] == ([f"training_config.{refused}"] if refused else [])
    assert all("keeps llama-3.3-70b-instruct from being sharded" in str(fault) for fault in found)


@pytest.mark.parametrize("text", ["true", "'true'", "'True'", "TRUE"])
def test_a_truth_in_quotes_is_one_also_where_words_are_taken(text: str) -> None:
    """KAITO turns every value into text; the library knows no `init_lora_weights: "true"`."""
    read = read_config(f"training_config: {{LoraConfig: {{init_lora_weights: {text}}}}}", "lora")
    assert read.section("LoraConfig")["init_lora_weights"] is True


def test_one_word_is_a_name_and_no_pattern() -> None:
    """The library takes a text for a pattern of a layer's whole name, so that `o_proj` would adapt nothing."""
    read = read_config("training_config: {LoraConfig: {target_modules: o_proj}}", "lora")
    assert read.section("LoraConfig")["target_modules"] == ["o_proj"]
