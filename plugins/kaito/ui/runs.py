"""A Workspace's runs as Airflow keeps them, read from its database as its own API does: tasks, times, a training's log.

The API server has the database open; nothing here writes to it. Functions block: callers run them in a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import or_, select
from sqlalchemy.orm import joinedload

from include.contracts import dataset_samples
from include.views.timeline import TaskRun

log = logging.getLogger(__name__)

#: The latest runs that a page shows, and the most characters of a log that are looked at.
MOST_RUNS = 5
MOST_LINES = 200_000
TUNING_TASK = "tune"
DATASET_TASK = "fetch_dataset"
EVALUATION_TASK = "evaluate"
RETURNED = "return_value"


@dataclass(frozen=True)
class Run:
    """One run: which, how it stands, its times (UTC), and its tasks."""

    dag_id: str
    run_id: str
    state: str
    queued: datetime | None
    start: datetime | None
    end: datetime | None
    tasks: tuple[TaskRun, ...]

    @property
    def path(self) -> str:
        """Its page, below the address of Airflow's UI."""
        from urllib.parse import quote

        return f"/dags/{quote(self.dag_id, safe='')}/runs/{quote(self.run_id, safe='')}"


def runs_of(workspace: Mapping[str, Any]) -> list[Run]:
    """Return the latest runs that worked for a Workspace, the youngest first."""
    meta = workspace["metadata"]
    prefix = f"{meta.get('namespace') or 'default'}.{meta['name']}.{str(meta.get('uid') or '')[:8]}."
    wanted = [DagRun.run_id.startswith(prefix, autoescape=True)]
    status = workspace.get("status") or {}
    for part in (status, status.get("retrain")):
        run = part.get("run") if isinstance(part, Mapping) else None
        if isinstance(run, Mapping) and run.get("id"):
            wanted.append(DagRun.run_id == str(run["id"]))
    query = (
        select(DagRun)
        .where(DagRun.dag_id.startswith("kaito_", autoescape=True), or_(*wanted))
        .order_by(DagRun.id.desc())
        .limit(MOST_RUNS)
    )
    with create_session(scoped=False) as session:
        found = list(session.scalars(query))
        return [_run(one, session) for one in found]


def _run(one: DagRun, session: Any) -> Run:
    query = select(TaskInstance).where(TaskInstance.dag_id == one.dag_id, TaskInstance.run_id == one.run_id)
    tasks = [
        TaskRun(ti.task_id, str(ti.state or "none"), ti.start_date, ti.end_date, int(ti.try_number or 1))
        for ti in session.scalars(query)
    ]
    times = one.queued_at, one.start_date, one.end_date
    return Run(one.dag_id, one.run_id, str(getattr(one.state, "value", one.state)), *times, tuple(tasks))


def conf_of(dag_id: str, run_id: str) -> Mapping[str, Any] | None:
    """Return the conf of a run, None where Airflow knows no such run."""
    with create_session(scoped=False) as session:
        found = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        return None if found is None else dict(found.conf or {})


@dataclass(frozen=True)
class Told:
    """What steps have told of themselves: each None where none has."""

    dataset: Any = None
    samples: Any = None
    evaluation: Any = None


def told(found: Sequence[Run]) -> Told:
    """Return what the latest of these runs' steps have told.

    A run that trains nothing anew tells of its dataset what was kept: then the run before it that has told all is
    taken, if it is of the same data.
    """
    dataset, samples = _dataset(found)
    measured = (_xcom(run, task, RETURNED) for run, task in _ended(found, EVALUATION_TASK))
    return Told(dataset, samples, next((one for one in measured if one), None))


def _dataset(found: Sequence[Run]) -> tuple[Any, Any]:
    latest: Any = None
    for run, task in _ended(found, DATASET_TASK):
        given = _xcom(run, task, RETURNED)
        latest = given if latest is None else latest
        if _digest(given) != _digest(latest):
            break
        if isinstance(given, Mapping) and "sentence" in given:
            return given, _xcom(run, task, dataset_samples.KEY)
    return latest, None


def _ended(found: Sequence[Run], task_id: str) -> Iterator[tuple[Run, TaskRun]]:
    """The tasks of a name, in whatever group, that have succeeded."""
    for run in found:
        for task in run.tasks:
            if task.task_id.rpartition(".")[2] == task_id and task.state == "success":
                yield run, task


def _digest(told: Any) -> Any:
    return told.get("digest") if isinstance(told, Mapping) else None


def _xcom(run: Run, task: TaskRun, key: str) -> Any:
    from airflow.models.xcom import XComModel

    which = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": task.task_id, "map_index": -1}
    with create_session(scoped=False) as session:
        return session.scalar(select(XComModel.value).filter_by(**which, key=key))


def training_log(found: Sequence[Run]) -> list[str]:
    """Return the lines that the latest of these runs with a training has logged, over all its tries; [] without one."""
    for run in found:
        tuned = next((task for task in run.tasks if _tunes(task) and task.start), None)
        if tuned is not None:
            return [line for number in range(1, tuned.tries + 1) for line in _log(run, tuned.task_id, number)]
    return []


def _tunes(task: TaskRun) -> bool:
    return task.task_id.rpartition(".")[2] == TUNING_TASK


def _log(run: Run, task_id: str, try_number: int) -> Iterator[str]:
    from airflow.models.taskinstancehistory import TaskInstanceHistory
    from airflow.models.trigger import Trigger
    from airflow.utils.log.log_reader import TaskLogReader

    which = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": task_id, "try_number": try_number}
    with create_session(scoped=False) as session:
        query = (
            select(TaskInstance)
            .filter_by(**which)
            .options(joinedload(TaskInstance.trigger).joinedload(Trigger.triggerer_job))
            .options(joinedload(TaskInstance.dag_run))
        )
        ti = session.scalar(query)
        if ti is None:
            past = select(TaskInstanceHistory).filter_by(**which)
            ti = session.scalar(past.options(joinedload(TaskInstanceHistory.dag_run)))
        if ti is None:
            return
        try:
            whole: Any = {"download_logs": True}
            stream, _ = TaskLogReader().read_log_chunks(ti, try_number, whole)
            for number, message in enumerate(stream):
                if number >= MOST_LINES:
                    return
                yield str(getattr(message, "event", message))
        except Exception:
            # A log server that is away, a log that was deleted: then there is no curve, and the page stays.
            log.warning("The log of %s could not be read.", which, exc_info=True)
