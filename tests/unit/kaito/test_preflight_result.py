"""What crosses XCom from the first task: the same on both sides, JSON in between, and no secret."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from kaito.tasks.base import Run
from kaito.tasks.preflight_result import PreflightResult, Trained, redacted

from include.catalog import load_catalog
from include.contracts.purpose import Purpose
from include.contracts.results import DatasetResult, PublishedAdapter, TuningResult
from include.planning import plan, plan_serving
from include.workspace import parse_workspace
from tests.support.fake_cluster import QUICK_START, RUN_ID

CATALOG = load_catalog()
WORKSPACE = parse_workspace(QUICK_START)
TUNING, SERVING = plan(WORKSPACE, CATALOG), plan_serving(WORKSPACE, CATALOG)
OTHER = replace(TUNING, instance_type="Standard_NC12s_v3")
RESULT = PreflightResult(workspace=redacted(QUICK_START), plan=TUNING, serving_plan=SERVING)
KEPT = Trained(run="r", recipe="abc", dataset=DatasetResult(rows=3), tuning=TuningResult(steps=2, origin="x"))


def with_(**changes: Any) -> PreflightResult:
    return RESULT.model_copy(update=changes)


@pytest.mark.parametrize(
    "result",
    [
        RESULT,
        with_(serving_plan=None),
        with_(alternatives={Purpose.TUNING: (OTHER,)}, trained=KEPT),
        with_(adapter=PublishedAdapter(reference="r@sha256:0")),
    ],
)
def test_there_and_back_is_the_same(result: PreflightResult) -> None:
    assert PreflightResult.from_xcom(json.loads(json.dumps(result.to_xcom()))) == result


def test_all_plans_of_a_purpose_begin_with_the_first() -> None:
    result = with_(alternatives={Purpose.TUNING: (OTHER,)})
    assert result.all_plans(Purpose.TUNING) == (TUNING, OTHER)
    assert result.all_plans(Purpose.SERVING) == (SERVING,)
    assert with_(serving_plan=None).all_plans(Purpose.SERVING) == ()


def test_a_run_has_the_plan_of_the_machines_that_were_got() -> None:
    result = with_(alternatives={Purpose.TUNING: (OTHER,)})
    assert Run.of(result, RUN_ID).plan == TUNING
    assert Run.of(result, RUN_ID, {Purpose.TUNING: OTHER.offer}).plan == OTHER
    assert Run.of(result, RUN_ID, {Purpose.TUNING: "of another time"}).plan == TUNING


@pytest.mark.parametrize("missing", ["workspace", "plan"])
def test_what_lacks_a_part_says_which_and_what_to_do(missing: str) -> None:
    value = {key: part for key, part in RESULT.to_xcom().items() if key != missing}
    with pytest.raises(ValueError, match=rf"lacks {missing} .*clear it"):
        PreflightResult.from_xcom(value)


def test_what_cannot_be_read_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"cannot be read \(serving_plan.*\): clear it"):
        PreflightResult.from_xcom({**RESULT.to_xcom(), "serving_plan": "none"})


def test_no_signature_and_no_status_goes_into_it() -> None:
    live = {**copy.deepcopy(QUICK_START), "status": {"state": "Running"}}
    text = json.dumps(with_(workspace=redacted(live)).to_xcom())
    assert "SECRET" in json.dumps(live)
    assert "SECRET" not in text
    assert "Running" not in text
