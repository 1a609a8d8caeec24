"""The last task: a run is green only if all of it was."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.operators.finish import FinishOperator, shortfall
from kaito.tasks.base import PREFLIGHT

from include.workspace.status import conditions
from tests.support.fake_cluster import RUN_ID, FakeCluster

NAME = "workspace-tuning-phi-3"
STEPS = ["serve.create_gpu_pool", "serve.roll_out", "serve.ask"]
NEEDED = ["tune", "publish_adapter"]
GREEN = dict.fromkeys([*NEEDED, *STEPS], "success")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        (dict.fromkeys(STEPS, "skipped"), "serve.create_gpu_pool"),
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
        ({"tune": "skipped", "release_gpu_pool": "failed"}, "stopped before tune was done; failed: release"),
        ({"release_gpu_pool": "failed"}, "failed: release_gpu_pool"),
        ({"serve.roll_out": None, "serve.ask": None}, "serve.roll_out"),
    ],
)
def test_what_a_run_fell_short_of(changes: dict[str, str | None], expected: str | None) -> None:
    found = shortfall({**GREEN, **changes}, [*NEEDED, *STEPS])
    assert (found is None) if expected is None else (expected in str(found))


def finish(cluster: FakeCluster) -> FinishOperator:
    operator = FinishOperator(task_id="finish", needed=NEEDED, optional=STEPS)
    operator.cluster = cluster
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


def test_a_step_that_was_stopped_on_its_way_to_a_worker_is_named(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    context["ti"].states = dict.fromkeys([*NEEDED, *STEPS], "skipped")
    with pytest.raises(AirflowFailException, match="stopped before tune was done"):
        finish(cluster).execute(context)
    assert "stopped before tune was done" in cluster.condition(NAME, "WorkspaceSucceeded")["message"]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_rollout_that_was_not_done_is_a_failure_only_where_one_is_wanted(
    cluster: FakeCluster, context: dict[str, Any], wanted: bool
) -> None:
    """A user who stops the run just when the rollout waits for a worker leaves it skipped, as a run without one."""
    if not wanted:
        context["ti"].xcoms[PREFLIGHT]["serving_plan"] = None
    context["ti"].states = {**GREEN, **dict.fromkeys(STEPS, "skipped")}
    if not wanted:
        assert finish(cluster).execute(context) is None
        return
    with pytest.raises(AirflowFailException, match=r"stopped before serve\.create_gpu_pool was done"):
        finish(cluster).execute(context)


def test_a_reason_that_a_step_gave_is_kept(cluster: FakeCluster, context: dict[str, Any]) -> None:
    stored = cluster.objects["workspaces", "default", NAME]
    phase = conditions.Phase.TUNING_FAILED
    stored["status"] = conditions.progress(stored, phase, message="loss is NaN", now=datetime.now(UTC))
    context["ti"].states = {**GREEN, "tune": "failed"}
    with pytest.raises(AirflowFailException, match="loss is NaN"):
        finish(cluster).execute(context)
    assert cluster.condition(NAME, "WorkspaceSucceeded")["message"].startswith("loss is NaN. Next: ")


@pytest.mark.parametrize(
    ("known", "states", "expected"),
    [
        ({"id": RUN_ID, "state": "started"}, GREEN, "success"),
        ({"id": RUN_ID, "state": "started", "cause": "spec"}, {**GREEN, "tune": "failed"}, "failed"),
        ({"id": RUN_ID, "state": "started", "cause": "repair"}, {**GREEN, "tune": "failed"}, "started"),
        ({"id": "another", "state": "started"}, GREEN, "started"),
        ({"id": RUN_ID, "state": "failed"}, GREEN, "failed"),
    ],
    ids=["well", "badly", "counted by the reconciler", "of another run", "judged before"],
)
def test_the_end_of_a_run_is_recorded_also_without_a_reconciler(
    cluster: FakeCluster,
    context: dict[str, Any],
    known: dict[str, Any],
    states: dict[str, str],
    expected: str,
) -> None:
    stored = cluster.objects["workspaces", "default", NAME]
    stored["status"] = {"run": known}
    context["ti"].states = dict(states)
    with suppress(AirflowFailException):
        finish(cluster).execute(context)
    assert stored["status"]["run"]["state"] == expected
