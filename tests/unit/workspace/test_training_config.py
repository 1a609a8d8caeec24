"""The rules for training_config.yaml, M3 to M9."""

from __future__ import annotations

import pytest

from include.workspace.training_config import config_faults

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
    ],
)
def test_fine(method: str, text: str) -> None:
    assert config_faults(text, method) == []
