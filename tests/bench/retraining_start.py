"""How soon a retraining whose time has come has its first pod: sandbox, Airflow and a real tuning on this machine.

    python -m tests.bench.retraining_start                    # about 7 minutes

A tuned Workspace has a cron expression that fires each minute. Its dataset is written anew for each time without any
other row, so that each run fetches it in a pod, finds nothing new and is over before the next minute. What comes due
while a run is still at work counts for nothing. Exits 1 when the limit is missed.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from include.workspace.api import names
from include.workspace.status.conditions import moment
from tests.bench.reconcile_speed import WORKSPACES, Api, Row, measure, until
from tests.support.airflow_run import dataset_server
from tests.support.reconciled import ReconciledStack

NAME, LIMIT = "punctual", 10.0
TIMES, MOST_MINUTES = 5, 15


def due(stack: ReconciledStack, api: Api) -> Iterator[Row]:
    """Due -> first pod, time by time."""
    with tempfile.TemporaryDirectory(prefix="speed-data-") as folder, dataset_server(Path(folder)) as url:
        document = stack.tuning(NAME, steps=2)
        document["tuning"]["input"]["urls"] = [url]
        stack.kubectl.apply(document)
        stack.reaches(NAME, "WorkspaceSucceeded")
        stack.kubectl("annotate", "workspace", NAME, f"{names.RETRAIN_SCHEDULE}=* * * * *")
        waits: list[float] = []
        for minute in range(MOST_MINUTES):
            os.utime(Path(folder) / "train.parquet", times=(time.time(), 1e9 + minute))
            if (wait := _one(api)) is not None:
                waits.append(wait)
            if len(waits) == TIMES:
                break
        stack.kubectl("annotate", "workspace", NAME, f"{names.RETRAIN_SCHEDULE}-")
    note = f"{min(waits):.1f} to {max(waits):.1f} s, {len(waits)} times of a schedule"
    yield Row("retraining due -> first pod created, median", statistics.median(waits), "s", LIMIT, note)


def _one(api: Api) -> float | None:
    """Return the seconds from the next due time to a pod; None where a run was at work then."""
    before = _pods(api)
    until(lambda: _planned(api))
    at = _planned(api)
    if at is None or at <= datetime.now(UTC):
        until(lambda: _planned(api) not in (None, at), 120, 0.5)
        return None
    time.sleep(max(0.0, (at - datetime.now(UTC)).total_seconds()))
    until(lambda: _pods(api) - before)
    found = (datetime.now(UTC) - at).total_seconds()
    until(lambda: not _works(api), 180, 0.5)
    return found


def _retrain(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = (api.get(f"{WORKSPACES}/{NAME}").get("status") or {}).get("retrain") or {}
    return found


def _works(api: Api) -> bool:
    return (_retrain(api).get("run") or {}).get("state") == "started"


def _planned(api: Api) -> datetime | None:
    """When the next retraining is due, None while one is at work."""
    return None if _works(api) else moment(_retrain(api).get("next"))


def _pods(api: Api) -> set[str]:
    """The pods of candidates so far."""
    pods = api.get("/api/v1/namespaces/default/pods").get("items", ())
    owners = {pod["metadata"]["uid"]: pod["metadata"]["labels"].get(names.WORKSPACE, "") for pod in pods}
    return {uid for uid, owner in owners.items() if owner.startswith(f"{NAME}-r")}


if __name__ == "__main__":
    raise SystemExit(measure({"due": due}, __doc__))
