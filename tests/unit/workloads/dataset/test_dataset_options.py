"""What the training config and the model say of the data, as the dataset step reads them on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from include.workloads.dataset.options import Options
from include.workloads.tuning.recipe import LONGEST_CUDA


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
