"""What pods report: read as it was written, and never a reason to do their work again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from include.contracts.results import (
    AdapterFile,
    DatasetResult,
    EvaluationResult,
    PublishedAdapter,
    Result,
    TuningResult,
)

WORKLOADS = Path(__file__).parents[3] / "include/workloads"
SAID = {
    "steps": 8,
    "loss_last": 0.5,
    "adapter": {"sha256": "a", "bytes": 3},
    "from": "sha256:f",
    "dtype": "bfloat16",
}


def test_what_was_said_goes_on_as_it_was_said() -> None:
    result = TuningResult.read(SAID)
    assert (result.steps, result.origin, result.adapter) == (8, "sha256:f", AdapterFile.read(SAID["adapter"]))
    assert json.loads(json.dumps(result.to_xcom())) == SAID
    assert TuningResult.read(result.to_xcom()) == result


@pytest.mark.parametrize("nothing", [None, {}, "", "text", [1]])
def test_a_step_without_a_result_has_said_nothing(nothing: object) -> None:
    result = DatasetResult.read(nothing)
    assert not result
    assert result.rows is None
    assert result.to_xcom() == {}


def test_what_cannot_be_read_is_left_out_and_the_rest_stays() -> None:
    result = TuningResult.read({**SAID, "steps": "many", "adapter": {"sha256": {}}})
    assert (result.steps, result.adapter, result.loss_last) == (None, None, 0.5)


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        (DatasetResult, "dataset"),
        (TuningResult, "tuning"),
        (AdapterFile, "tuning"),
        (PublishedAdapter, "adapter"),
        (EvaluationResult, "evaluation"),
    ],
)
def test_each_field_is_one_that_the_pod_writes(model: type[Result], folder: str) -> None:
    source = "".join(path.read_text() for path in (WORKLOADS / folder).rglob("*.py"))
    source += (WORKLOADS.parent / "contracts/evaluation.py").read_text() if folder == "evaluation" else ""
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key != "volume":  # said by the step itself, where no pod is needed
            assert f'"{key}"' in source or f"{key}: " in source, f"{folder} writes no {key}"
