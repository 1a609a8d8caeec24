"""The note of a DAG run, written where the run ends: its outcome in a sentence, in Airflow's list of runs.

Steps leave what they report to the Workspace's author in XCom (`OUTCOME`); whatever process notices that the run has
ended (the scheduler, or the API server when a person marks it) calls this listener. A note that a person wrote stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from include.contracts.redaction import redact

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

log = logging.getLogger(__name__)

#: The XCom key under which a step leaves what it reported last: {"phase": ..., "message": ...}.
OUTCOME = "outcome"
#: Airflow keeps 1000 characters.
LONGEST = 1000
PREFIX = "kaito_"
GOOD_ENDS = ("Succeeded", "Published", "AdapterKept")


def outcome(phase: str, message: str) -> dict[str, str]:
    """What a step leaves under `OUTCOME`."""
    return {"phase": phase, "message": redact(message)[:LONGEST]}


def sentence(succeeded: bool, outcomes: Iterable[Any], failed: Iterable[str]) -> str:
    """The note of a run; "" where there is nothing to say.

    :param outcomes: what its steps left under `OUTCOME`, oldest first.
    :param failed: the ids of its failed tasks, in the order in which they failed.
    """
    known = [one for one in outcomes if isinstance(one, Mapping) and one.get("message")]
    ends = [str(one["message"]) for one in known if (str(one.get("phase")) in GOOD_ENDS) == succeeded]
    if succeeded:
        return (ends or [""])[-1][:LONGEST]
    where = next(iter(failed), "")
    cause = (ends or ["Its log says why."])[-1]
    return f"{f'Failed in {where}: ' if where else 'Failed: '}{cause}"[:LONGEST]


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:
    """Airflow's listener: the run has succeeded."""
    _note(dag_run, succeeded=True)


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """Airflow's listener: the run has failed."""
    _note(dag_run, succeeded=False)


def _note(dag_run: DagRun, *, succeeded: bool) -> None:
    """Never raises, and leaves the caller's transaction usable: a note is worth no scheduler."""
    if not dag_run.dag_id.startswith(PREFIX):
        return
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    written = dag_run.dag_run_note
    if session is None or (written is not None and written.user_id):
        return
    try:
        with session.no_autoflush:
            which = {"dag_id": dag_run.dag_id, "run_id": dag_run.run_id}
            left = session.scalars(
                select(XComModel.value).filter_by(**which, key=OUTCOME).order_by(XComModel.timestamp)
            )
            failed = session.scalars(
                select(TaskInstance.task_id)
                .filter_by(**which, state="failed")
                .order_by(TaskInstance.end_date)
            )
            text = sentence(succeeded, [_decoded(value) for value in left], failed)
        if text and text != dag_run.note:
            dag_run.note = text
    except Exception:
        log.warning("The note of run %s could not be written.", dag_run.run_id, exc_info=True)


def _decoded(value: Any) -> Any:
    """An XCom's value as its step left it."""
    from airflow.models.xcom import XComModel

    return XComModel.deserialize_value(SimpleNamespace(value=value))
