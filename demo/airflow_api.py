"""The few calls of Airflow's REST API (v2) that the demo makes, as the logged-in user."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from demo.processes import DemoError

RUN_POLL_SECONDS = 0.3
TERMINAL_RUN_STATES = {"success", "failed"}


@dataclass(frozen=True)
class AirflowServer:
    """A running `airflow standalone`: where it answers and who may log in."""

    url: str
    username: str
    password: str
    pid: int


class AirflowApi:
    """A session on Airflow's API server.

    :param server: address and login.
    """

    def __init__(self, server: AirflowServer) -> None:
        self.server = server
        self._http = httpx.Client(base_url=server.url, timeout=30, trust_env=False)
        login = {"username": server.username, "password": server.password}
        token = self._http.post("/auth/token", json=login).raise_for_status().json()["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> AirflowApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def dag_ids(self) -> set[str]:
        """Return the ids of the DAGs that were parsed."""
        dags = self._http.get("/api/v2/dags").raise_for_status().json()["dags"]
        return {str(dag["dag_id"]) for dag in dags}

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run: its schedule, and the runs that wait in its queue."""
        self._http.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()

    def audit_log(self, limit: int = 50) -> list[dict[str, Any]]:
        """Return the latest entries of the audit log, the youngest first."""
        asked: dict[str, str | int] = {"order_by": "-event_log_id", "limit": limit}
        entries = self._http.get("/api/v2/eventLogs", params=asked).raise_for_status().json()["event_logs"]
        return list(entries)

    def import_errors(self) -> list[str]:
        """Return the errors of DAG files that could not be parsed."""
        errors = self._http.get("/api/v2/importErrors").raise_for_status().json()["import_errors"]
        return [f"{error['filename']}: {error['stack_trace']}" for error in errors]

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any]) -> None:
        """Start a run; its id is the caller's, so a second call for the same work is refused by Airflow (409)."""
        body = {"dag_run_id": run_id, "conf": conf, "logical_date": None}
        reply = self._http.post(f"/api/v2/dags/{dag_id}/dagRuns", json=body)
        if reply.status_code != httpx.codes.CONFLICT:
            reply.raise_for_status()

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return the run: state, start_date, end_date and the rest."""
        result: dict[str, Any] = (
            self._http.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}").raise_for_status().json()
        )
        return result

    def wait_for_run(self, dag_id: str, run_id: str, seconds: float) -> None:
        """Return when the run exists, whoever starts it.

        :param seconds: give up after that long.
        :raises DemoError: there is no such run by then.
        """
        deadline = time.monotonic() + seconds
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"
        while not self._http.get(path).is_success:
            if time.monotonic() > deadline:
                raise DemoError(f"no run {run_id} of {dag_id} within {seconds:.0f} s: see {self.server.url}")
            time.sleep(RUN_POLL_SECONDS)

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the run's task instances, oldest start first."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        result: list[dict[str, Any]] = (
            self._http.get(path, params={"limit": 100}).raise_for_status().json()["task_instances"]
        )
        return sorted(result, key=lambda task: task["start_date"] or "9")

    def log_tail(self, dag_id: str, run_id: str, task: dict[str, Any], lines: int = 15) -> list[str]:
        """Return the last lines of a task's newest try."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        content = self._http.get(path).raise_for_status().json()["content"]
        return [
            str(entry.get("event", entry)) if isinstance(entry, dict) else str(entry) for entry in content
        ][-lines:]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """Return a task's result, or None when it left none."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        reply = self._http.get(path, params={"deserialize": True})
        return reply.json()["value"] if reply.is_success else None

    def required_action(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any] | None:
        """Return what a task asks a person, None when it asks nothing (yet)."""
        reply = self._http.get(self._action(dag_id, run_id, task_id))
        result: dict[str, Any] | None = reply.json() if reply.is_success else None
        return result

    def respond(self, dag_id: str, run_id: str, task_id: str, option: str) -> None:
        """Answer what a task asks, as the logged-in user."""
        body = {"chosen_options": [option], "params_input": {}}
        self._http.patch(self._action(dag_id, run_id, task_id), json=body).raise_for_status()

    @staticmethod
    def _action(dag_id: str, run_id: str, task_id: str) -> str:
        return f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"


def parse_time(text: str | None) -> dt.datetime | None:
    """Return an API timestamp as a datetime, None as None."""
    return dt.datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
