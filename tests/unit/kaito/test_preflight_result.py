"""What crosses XCom from the first task: the same on both sides, JSON in between, and no secret."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from kaito.tasks.base import Run
from kaito.tasks.preflight_result import PreflightResult, redacted

from include.catalog import load_catalog
from include.contracts.purpose import Purpose
from include.planning import plan, plan_serving
from include.workspace import parse_workspace
from tests.support.fake_cluster import QUICK_START, RUN_ID

CATALOG = load_catalog()
WORKSPACE = parse_workspace(QUICK_START)
TUNING, SERVING = plan(WORKSPACE, CATALOG), plan_serving(WORKSPACE, CATALOG)
OTHER = replace(TUNING, instance_type="Standard_NC12s_v3")
RESULT = PreflightResult(redacted(QUICK_START), TUNING, SERVING)


@pytest.mark.parametrize(
    "result",
    [
        RESULT,
        replace(RESULT, serving_plan=None),
        replace(RESULT, alternatives={"tuning": (OTHER,)}, trained={"run": "r"}),
        replace(RESULT, adapter={"reference": "r@sha256:0"}),
    ],
)
def test_there_and_back_is_the_same(result: PreflightResult) -> None:
    assert PreflightResult.from_xcom(json.loads(json.dumps(result.to_xcom()))) == result


def test_all_plans_of_a_purpose_begin_with_the_first() -> None:
    result = replace(RESULT, alternatives={"tuning": (OTHER,)})
    assert result.all_plans(Purpose.TUNING) == (TUNING, OTHER)
    assert result.all_plans(Purpose.SERVING) == (SERVING,)
    assert replace(result, serving_plan=None).all_plans(Purpose.SERVING) == ()


def test_a_run_has_the_plan_of_the_machines_that_were_got() -> None:
    result = replace(RESULT, alternatives={"tuning": (OTHER,)})
    assert Run.of(result, RUN_ID).plan == TUNING
    assert Run.of(result, RUN_ID, {"tuning": OTHER.offer}).plan == OTHER
    assert Run.of(result, RUN_ID, {"tuning": "of another time"}).plan == TUNING


@pytest.mark.parametrize("missing", ["workspace", "plan"])
def test_what_lacks_a_part_says_which_and_what_to_do(missing: str) -> None:
    value = {key: part for key, part in RESULT.to_xcom().items() if key != missing}
    with pytest.raises(ValueError, match=rf"lacks {missing} .*clear it"):
        PreflightResult.from_xcom(value)


def test_no_signature_and_no_status_goes_into_it() -> None:
    live = {**copy.deepcopy(QUICK_START), "status": {"state": "Running"}}
    text = json.dumps(replace(RESULT, workspace=redacted(live)).to_xcom())
    assert "SECRET" in json.dumps(live)
    assert "SECRET" not in text
    assert "Running" not in text
