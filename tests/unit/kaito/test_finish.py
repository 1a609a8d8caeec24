"""The last task: a run is green only if all of it was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.operators.finish import FinishOperator, shortfall

from include.workspace.status import conditions
from tests.unit.kaito.conftest import FakeCluster

NAME = "workspace-tuning-phi-3"
STEPS = ["serve.create_gpu_pool", "serve.roll_out", "serve.ask"]
GREEN = {"tune": "success", "publish_adapter": "success", **dict.fromkeys(STEPS, "success")}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        (dict.fromkeys(STEPS, "skipped"), None),
        (
            {
                "tune": "failed",
                "publish_adapter": "upstream_failed",
                **dict.fromkeys(STEPS, "upstream_failed"),
            },
            "tune",
        ),
        ({"publish_adapter": "skipped", **dict.fromkeys(STEPS, "skipped")}, "publish_adapter"),
        ({"serve.ask": "skipped"}, "serve.ask"),
        ({"serve.roll_out": None, "serve.ask": None}, "serve.roll_out"),
    ],
)
def test_what_a_run_fell_short_of(changes: dict[str, str | None], expected: str | None) -> None:
    found = shortfall({**GREEN, **changes}, ["publish_adapter"], STEPS)
    assert (found is None) if expected is None else (expected in str(found))


def finish(cluster: FakeCluster) -> FinishOperator:
    operator = FinishOperator(task_id="finish", needed=["publish_adapter"], optional=STEPS)
    operator.__dict__["cluster"] = cluster
    return operator


def test_a_good_run_ends_well(cluster: FakeCluster, context: dict[str, Any]) -> None:
    context["ti"].states = {**GREEN, "finish": "running"}
    assert finish(cluster).execute(context) is None


def test_a_run_that_a_user_stopped_is_red_and_the_workspace_says_so(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    context["ti"].states = {"tune": "failed", "publish_adapter": "skipped", **dict.fromkeys(STEPS, "skipped")}
    with pytest.raises(AirflowFailException, match="failed: tune"):
        finish(cluster).execute(context)
    assert "failed: tune" in cluster.condition(NAME, "WorkspaceSucceeded")["message"]


def test_a_reason_that_a_step_gave_is_kept(cluster: FakeCluster, context: dict[str, Any]) -> None:
    stored = cluster.objects["workspaces", "default", NAME]
    phase = conditions.Phase.TUNING_FAILED
    stored["status"] = conditions.progress(stored, phase, message="loss is NaN", now=datetime.now(UTC))
    context["ti"].states = {**GREEN, "tune": "failed"}
    with pytest.raises(AirflowFailException, match="loss is NaN"):
        finish(cluster).execute(context)
    assert cluster.condition(NAME, "WorkspaceSucceeded")["message"] == "loss is NaN"
