"""The demo's live view of a DAG run: stages, and inside the tuning its steps, loss, tokens/s and time left.

On a terminal it redraws one table; anywhere else (CI, a file) it prints a line when something changed.
"""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table

from demo.airflow_api import TERMINAL_RUN_STATES, AirflowApi, parse_time
from demo.cluster import connect
from demo.processes import DemoError
from demo.report import human_seconds

MARKS = {
    "success": "[green]done[/]",
    "failed": "[red]failed[/]",
    "upstream_failed": "[red]not run[/]",
    "skipped": "[dim]skipped[/]",
    "running": "[cyan]running[/]",
    "deferred": "[cyan]waiting[/]",
    None: "[dim]-[/]",
}
POLL_SECONDS = 1.0
PLAIN_PROGRESS_SECONDS = 10.0


class LiveView:
    """Follows one DAG run until it ends.

    :param console: where to draw.
    :param api: Airflow.
    :param kubeconfig: the cluster, for the tuning pod's own progress.
    """

    def __init__(self, console: Console, api: AirflowApi, kubeconfig: Path) -> None:
        self.console = console
        self.api = api
        self.progress_seen: list[dict[str, Any]] = []
        self._cluster = connect(kubeconfig, read_timeout=5)
        self._said: dict[str, str] = {}
        self._said_progress = 0.0

    def follow(self, dag_id: str, run_id: str, seconds: float) -> dict[str, Any]:
        """Show the run until it ends and return it.

        :param seconds: give up after that long.
        :raises DemoError: the run did not end in time.
        """
        deadline = time.monotonic() + seconds
        with Live(console=self.console, auto_refresh=False, transient=False) as live:
            while time.monotonic() < deadline:
                try:
                    run, tasks = self.api.run(dag_id, run_id), self.api.tasks(dag_id, run_id)
                except httpx.TransportError:  # a busy API server; the run goes on without being watched
                    time.sleep(POLL_SECONDS)
                    continue
                progress = self._progress()
                if self.console.is_terminal:
                    live.update(self._table(tasks, progress), refresh=True)
                else:
                    self._lines(tasks, progress)
                if run["state"] in TERMINAL_RUN_STATES:
                    return run
                time.sleep(POLL_SECONDS)
        raise DemoError(
            f"run {run_id} of {dag_id} did not end within {human_seconds(seconds)}: see {self.api.server.url}"
        )

    def _progress(self) -> dict[str, Any] | None:
        """Return what the tuning pod says of itself, None when there is none (yet, or any more)."""
        try:
            query = {"labelSelector": "kaito.sh/component=tuning", "fieldSelector": "status.phase=Running"}
            pods = self._cluster.get("/api/v1/pods", params=query).raise_for_status().json()["items"]
            if not pods:
                return None
            meta = pods[0]["metadata"]
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}:5000/proxy/progress"
            progress: dict[str, Any] = self._cluster.get(path).raise_for_status().json()
        except (httpx.HTTPError, ValueError, KeyError):
            return None
        self.progress_seen.append(progress)
        return progress

    def _table(self, tasks: list[dict[str, Any]], progress: dict[str, Any] | None) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("stage", "state", "time", ""):
            table.add_column(heading, min_width=8 if heading else 40)
        for task in tasks:
            note = _describe(progress) if task["task_id"].endswith("tune") and _active(task) else ""
            state = MARKS.get(task["state"], str(task["state"]))
            table.add_row(str(task["task_id"]), state, _elapsed(task), note)
        return table

    def _lines(self, tasks: list[dict[str, Any]], progress: dict[str, Any] | None) -> None:
        for task in tasks:
            state = str(task["state"] or "")
            if (
                state in ("success", "failed", "skipped", "running", "upstream_failed")
                and self._said.get(task["task_id"]) != state
            ):
                self._said[task["task_id"]] = state
                self.console.print(f"  {task['task_id']:<32} {state:<16} {_elapsed(task)}")
        if progress and time.monotonic() - self._said_progress > PLAIN_PROGRESS_SECONDS:
            self._said_progress = time.monotonic()
            self.console.print(f"    {_describe(progress)}")


def _active(task: dict[str, Any]) -> bool:
    return task["state"] in ("running", "deferred", "queued", "scheduled")


def _elapsed(task: dict[str, Any]) -> str:
    start, end = parse_time(task["start_date"]), parse_time(task["end_date"])
    if start is None or (end is None and not _active(task)):
        return ""
    return f"{((end or dt.datetime.now(dt.UTC)) - start).total_seconds():.1f}s"


def _describe(progress: dict[str, Any] | None) -> str:
    if not progress:
        return ""
    if progress.get("stage", "training") != "training" or progress.get("loss") is None:
        return str(progress.get("stage", ""))
    eta = human_seconds(progress.get("eta_seconds") or 0)
    return (
        f"step {progress['step']}/{progress['total']}  loss {progress['loss']:.3f}  "
        f"{progress.get('tokens_per_second') or 0:.0f} tok/s  {eta} left"
    )
