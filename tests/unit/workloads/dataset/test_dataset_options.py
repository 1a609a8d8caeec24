"""What the training config and the model say of the data, as the dataset step reads them on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from include.workloads.contract import UserConfigError
from include.workloads.dataset.options import Options, read_options
from include.workloads.tuning.recipe import LONGEST_CUDA
from include.workloads.tuning.standin import SPECIAL, _tokenizer


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 128}, 128),
        ({"text_config": {"max_position_embeddings": 128}, "vision_config": {}}, 128),
        ({"max_position_embeddings": 64, "text_config": {"max_position_embeddings": 128}}, 128),
        ({"max_position_embeddings": 1 << 20}, LONGEST_CUDA),
        ({"text_config": None}, LONGEST_CUDA),
        ({"text_config": {"max_position_embeddings": "many"}}, LONGEST_CUDA),
        ([], LONGEST_CUDA),
    ],
)
def test_rows_are_cut_at_what_the_model_reads_of_text(config: Any, length: int, tmp_path: Path) -> None:
    """Of a model that sees too, none was said to be cut before 4,096 tokens, whatever it reads."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Options(tokenizer=tmp_path).look.max_length == length


def test_a_length_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    assert Options(tokenizer=tmp_path, max_length=77).look.max_length == 77
    assert Options(tokenizer=tmp_path).look.max_length == LONGEST_CUDA
    assert Options().look.max_length is None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    _tokenizer().save_pretrained(folder)
    return folder


def read(training: str, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    config = tmp_path / "training_config.yaml"
    config.write_text(f"training_config:\n  TrainingArguments: {{{training}}}\n")
    monkeypatch.setenv("YAML_FILE_PATH", str(config))
    monkeypatch.setenv("TOKENIZER_PATH", str(tokenizer))
    return read_options()


@pytest.mark.parametrize("key", ["eos_token", "pad_token"])
def test_a_token_that_the_model_has_not_is_refused_on_a_cpu(
    key: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was, by the trainer, once the model was loaded on a GPU."""
    with pytest.raises(UserConfigError) as fault:
        read(f"{key}: '<|none|>'", model, tmp_path, monkeypatch)
    assert f"TrainingArguments.{key} is '<|none|>', which is no token of this model" in str(fault.value)
    assert SPECIAL[0] in str(fault.value)
    assert read(f"{key}: '{SPECIAL[0]}'", model, tmp_path, monkeypatch).tokenizer == model


def test_without_the_tokenizer_nothing_is_said_of_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read("eos_token: '<|none|>'", tmp_path, tmp_path, monkeypatch).tokenizer == tmp_path
