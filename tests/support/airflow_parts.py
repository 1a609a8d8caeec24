"""Airflow with each of its processes on its own, so that a test can kill one and start it again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

import httpx
import psutil

from demo.airflow_api import AirflowApi, AirflowServer
from demo.processes import PROJECT_ROOT, free_port
from demo.stack import (
    EXECUTION_API,
    Sandbox,
    airflow,
    airflow_environment,
    database,
    healthy,
    with_execution_api,
)

PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")
START_SECONDS = 600
#: A reconciler that has something in flight runs a task at least every ten seconds.
WORK_SECONDS = 45
COMMAND_TRIES = 10
#: How soon a deployment notices that a part of it died; the defaults take minutes, which is not what is tested.
IMPATIENT = {
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "12",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "4",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "40",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "4",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
}


class AirflowParts:
    """One deployment of Airflow in a folder.

    :param folder: becomes AIRFLOW_HOME.
    :param weights: folder with the presets' weights.
    :param settings: further environment of every part.
    """

    def __init__(
        self, folder: Path, sandbox: Sandbox, weights: Path, settings: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.home, self.port = folder, free_port()
        ordinary = airflow_environment(folder, sandbox, self.port, weights)
        self.environment = {**ordinary, **IMPATIENT, **(settings or {})}
        self._running: dict[str, psutil.Popen] = {}
        #: Everything that was ever seen to run, by id and start time, for `stop`.
        self._seen: dict[tuple[int, float], psutil.Process] = {}

    @property
    def server(self) -> AirflowServer:
        found = json.loads((self.home / "simple_auth_manager_passwords.json.generated").read_text())
        return AirflowServer(f"http://127.0.0.1:{self.port}", "admin", found["admin"], self.pid("api-server"))

    def pid(self, part: str) -> int:
        return int(self._running[part].pid)

    def log(self, part: str) -> str:
        return (self.home / f"{part}.log").read_text(errors="replace")

    def migrate(self) -> None:
        command = [str(Path(sys.executable).with_name("airflow")), "db", "migrate"]
        subprocess.run(command, cwd=PROJECT_ROOT, env=self.environment, check=True, capture_output=True)

    def command(self, *arguments: str) -> str:
        """Run `airflow <arguments>` in this deployment and return what it prints; a failure is shown and raised.

        SQLite refuses a transaction at once that has read and would write after somebody else has written, however long
        it may wait for a lock. Nothing is left of it then, so it is tried again.
        """
        command = [str(Path(sys.executable).with_name("airflow")), *arguments]
        for _ in range(COMMAND_TRIES):
            done = subprocess.run(
                command, cwd=PROJECT_ROOT, env=self.environment, capture_output=True, text=True, check=False
            )
            if "database is locked" not in done.stderr:
                break
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def start(self, *parts: str, **settings: str) -> None:
        """Start parts in the background, each in a session of its own; ``settings``: environment of these alone."""
        for part in parts or PARTS:
            with (self.home / f"{part}.log").open("ab") as log:
                command = [airflow(), *part.split()]
                if part == "api-server":
                    command = with_execution_api(command, self.environment)
                self._running[part] = psutil.Popen(
                    command,
                    cwd=PROJECT_ROOT,
                    env={**self.environment, **settings},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def wait(self, dags: set[str]) -> AirflowServer:
        """Wait until all parts are healthy and the DAGs are known.

        :raises TimeoutError: they are not within START_SECONDS.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self._remember()
            with contextlib.suppress(OSError, httpx.HTTPError, ValueError, KeyError):
                workers = self.environment[f"AIRFLOW__{EXECUTION_API}"]
                if healthy(f"http://127.0.0.1:{self.port}", workers, seconds=30):
                    with AirflowApi(self.server) as api:
                        if dags <= all_dags(api):
                            return self.server
            time.sleep(0.5)
        raise TimeoutError(f"Airflow was not ready within {START_SECONDS} s: see {self.home}/*.log")

    def _remember(self) -> None:
        for process in self._running.values():
            for member in [process, *_children(process)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._seen[member.pid, member.create_time()] = member

    def busy_workers(self, dag_id: str = "") -> list[psutil.Process]:
        """Return the workers that run a task now, with what they run; of one DAG where that is named.

        Never an idle one: it holds the lock of LocalExecutor's queue while it waits, and a SIGKILL would leave that
        locked for ever. And none whose task has not begun: LocalExecutor would never know that it was lost (it has no
        `revoke_task`). Both are Airflow's matter, and end with the scheduler's next start.
        """
        begun, found = self._running_tasks(dag_id), []
        for worker in self._running["scheduler"].children():
            with contextlib.suppress(psutil.NoSuchProcess):
                title = " ".join(worker.cmdline())
                if title.startswith("airflow worker") and any(task in title for task in begun):
                    found += [worker, *_children(worker)]
        return found

    def kill_busy(self, dag_id: str) -> bool:
        """`kill -9` the workers that run a task of this DAG now, if any does."""
        self._remember()
        busy = self.busy_workers(dag_id)
        _kill(busy)
        return bool(busy)

    def _running_tasks(self, dag_id: str) -> list[str]:
        """Return the ids of the task instances that Airflow knows to be running, read from its database."""
        file = f"file:{self.home / 'airflow.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(file, uri=True, timeout=30)) as database:
            asked = "SELECT id FROM task_instance WHERE state = 'running' AND ? IN ('', dag_id)"
            rows = database.execute(asked, (dag_id,)).fetchall()
        return [str(uuid.UUID(row[0])) for row in rows]

    def kill(self, part: str) -> None:
        """`kill -9` one part; "worker" is every worker that runs a task, as soon as there is one."""
        self._remember()
        if part == "worker":
            deadline = time.monotonic() + WORK_SECONDS
            while not (busy := self.busy_workers()) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert busy, f"no task ran for {WORK_SECONDS} s"
            _kill(busy)
            return
        process = self._running.pop(part)
        # Its children live on, as they do when a process is killed for lack of memory. Only what holds the port goes.
        _kill([process, *(_children(process) if part == "api-server" else [])])

    def restart(self, part: str, **settings: str) -> None:
        """End one part in good order and start it again."""
        process = self._running.pop(part)
        process.terminate()
        psutil.wait_procs([process], timeout=60)
        self.start(part, **settings)

    def stop(self) -> None:
        """End everything that this deployment ever started."""
        self._remember()
        for process in self._running.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        psutil.wait_procs(list(self._running.values()), timeout=15)
        _kill(self._seen.values())
        self._running.clear()

    def lose_the_database(self) -> None:
        """Stop everything and forget everything: what starts next finds an empty database."""
        self.stop()
        for path in self.home.glob("airflow.db*"):
            path.unlink()
        shutil.rmtree(self.home / "logs", ignore_errors=True)
        database(self.home)
        self.migrate()


def all_dags(api: AirflowApi) -> set[str]:
    """Return the ids of the DAGs that were parsed, paused ones too."""
    found = api._http.get("/api/v2/dags").raise_for_status().json()["dags"]
    return {str(dag["dag_id"]) for dag in found}


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
        return found
    except psutil.NoSuchProcess:
        return []


def _kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL, by id and start time: psutil refuses an id that was given to somebody else."""
    hit = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid != os.getpid():
                process.kill()
                hit.append(process)
    psutil.wait_procs(hit, timeout=10)
