"""What only a real Airflow can show of retraining: its own backfill over the versions of a dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from demo.airflow_api import TERMINAL_RUN_STATES
from demo.processes import PROJECT_ROOT
from tests.support.airflow_run import dataset_server, wait
from tests.support.reconciled import ReconciledStack, reconciled_stack

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1500)]

DATED = "dated"
DAILY = "kaito_retrain__daily"
DAYS = ("2026-11-02", "2026-11-03")
#: No wait measures anything, and the machine may be busy.
PATIENCE = 420.0


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dataset for each day; yields the URL of their folder."""
    folder = tmp_path_factory.mktemp("days")
    with dataset_server(folder) as url:
        for day in DAYS:
            shutil.copy(folder / "train.parquet", folder / f"{day}.parquet")
        yield url.rpartition("/")[0]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, days: str) -> Iterator[ReconciledStack]:
    folder = tmp_path_factory.mktemp("retraining")
    shutil.copytree(PROJECT_ROOT / "dags", folder / "dags")
    daily = {
        "workspace": DATED,
        "urls": [days + "/{{ ds }}.parquet"],
        "policy": {"when": "always", "approval": {"required": False}, "bake": {"time": "1s"}},
    }
    (folder / "dags" / "retraining" / "daily.yaml").write_text(json.dumps({**daily, "schedule": "0 0 * * *"}))
    with reconciled_stack(folder, AIRFLOW__CORE__DAGS_FOLDER=str(folder / "dags")) as found:
        found.api._http.patch(f"/api/v2/dags/{DAILY}", json={"is_paused": False}).raise_for_status()
        yield found


def ended(stack: ReconciledStack, run: str) -> str:
    """Wait for the end of a run and return its state."""

    def look() -> str | None:
        state = str(stack.api.run(DAILY, run)["state"])
        return state if state in TERMINAL_RUN_STATES else None

    return str(wait(look, PATIENCE, f"the end of {run}"))


def test_airflow_s_own_backfill_learns_from_each_day_in_turn(stack: ReconciledStack, days: str) -> None:
    stack.kubectl.apply(stack.tuning(DATED))
    stack.reaches(DATED, "WorkspaceSucceeded", seconds=PATIENCE)
    stack.airflow.command(
        "backfill", "create", "--dag-id", DAILY, "--from-date", DAYS[0], "--to-date", DAYS[-1]
    )

    def runs() -> list[dict[str, Any]]:
        query = {"run_type": "backfill", "order_by": "logical_date"}
        found = stack.api._http.get(f"/api/v2/dags/{DAILY}/dagRuns", params=query).raise_for_status().json()
        return list(found["dag_runs"])

    wait(lambda: len(runs()) == len(DAYS), 60, "a run for each day")
    for run in runs():
        assert ended(stack, run["dag_run_id"]) == "success", run
    versions = stack.get("workspace", DATED)["status"]["retrain"]["versions"]
    windows = []
    for day, run in zip(DAYS, runs(), strict=True):
        assert run["logical_date"].startswith(day)
        assert [one["state"] for one in versions if one.get("run") == run["dag_run_id"]] == ["promoted"]
        path = f"/api/v2/dags/{DAILY}/dagRuns/{run['dag_run_id']}/taskInstances/retrain.plan_candidate"
        plan = stack.api._http.get(path).raise_for_status().json()
        assert f"{days}/{day}.parquet" in json.dumps(plan["rendered_fields"])
        tasks = {one["task_id"]: one for one in stack.api.tasks(DAILY, run["dag_run_id"])}
        windows.append((tasks["retrain.preflight"]["start_date"], tasks["retrain.promote"]["end_date"]))
    first, second = sorted(windows)
    assert first[1] <= second[0], "one after the other"
