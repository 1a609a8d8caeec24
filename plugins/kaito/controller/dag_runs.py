"""Airflow's own runs, as a task may see and start them: through its supervisor, with no token and no database.

One module holds all of it, since the messages are Airflow's inner protocol. Each way in which a start can fail is a
sentence here; a start never repeats a run that exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType

from include.workspace.status.runs import ALIVE

#: Run ids in one question; they travel in a URL.
ASKED_AT_ONCE = 40


class RunRefused(RuntimeError):
    """Airflow will not start this run now. ``str()`` says why, and who can change it."""


class Comms(Protocol):
    """The supervisor of a running task."""

    async def asend(self, msg: Any) -> Any:
        """Send a message and return the answer."""


def supervisor() -> Comms:
    """Return the supervisor of the task that runs in this process."""
    from airflow.sdk.execution_time import task_runner

    comms: Comms = task_runner.SUPERVISOR_COMMS
    return comms


def state_of(dag_id: str, run_id: str) -> str | None:
    """Return the state of one run, None where Airflow knows no such run; for tasks without an event loop."""
    return asyncio.run(AirflowRuns().states([(dag_id, run_id)]))[dag_id, run_id]


class AirflowRuns:
    """The runs that the reconciler starts and asks about.

    :param comms: the supervisor; default: that of the task in this process.
    """

    def __init__(self, comms: Comms | None = None) -> None:
        self._comms = comms
        self._refusals: dict[str, asyncio.Task[str]] = {}

    async def states(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str | None]:
        """Return the state of each (dag id, run id), None where Airflow knows no such run."""
        result: dict[tuple[str, str], str | None] = {}
        by_dag: dict[str, list[str]] = {}
        for dag_id, run_id in wanted:
            by_dag.setdefault(dag_id, []).append(run_id)
        for dag_id, run_ids in by_dag.items():
            for start in range(0, len(run_ids), ASKED_AT_ONCE):
                part = run_ids[start : start + ASKED_AT_ONCE]
                # One question tells that all of them are gone; else each is asked for, and 404 is an answer.
                known = await self._count(dag_id, part)
                for run_id in part:
                    result[dag_id, run_id] = await self._state(dag_id, run_id) if known else None
        return result

    async def under_way(self, dag_id: str) -> bool:
        """Return whether any run of a DAG is queued or running."""
        from airflow.sdk.execution_time.comms import GetDRCount

        answer = await self._send(GetDRCount(dag_id=dag_id, states=sorted(ALIVE)))
        return int(answer.count) > 0

    async def start(self, dag_id: str, run_id: str, conf: Mapping[str, Any]) -> bool:
        """Start a run; returns False when there is one of this id.

        :raises RunRefused: the DAG is paused, missing or broken.
        """
        from airflow.sdk.execution_time.comms import ErrorResponse, TriggerDagRun

        if refusal := await self._refusal(dag_id):
            raise RunRefused(refusal)
        try:
            answer = await self._send(TriggerDagRun(dag_id=dag_id, run_id=run_id, conf=dict(conf)))
        except AirflowRuntimeError as error:
            raise RunRefused(f"Airflow would not start a run of {dag_id}: {_words(error)}") from error
        return not (isinstance(answer, ErrorResponse) and answer.error == ErrorType.DAGRUN_ALREADY_EXISTS)

    async def _refusal(self, dag_id: str) -> str:
        """Return why no run of this DAG should be started, "" when one may; asked once."""
        if dag_id not in self._refusals:
            self._refusals[dag_id] = asyncio.create_task(self._ask(dag_id))
        return await self._refusals[dag_id]

    async def _ask(self, dag_id: str) -> str:
        from airflow.sdk.execution_time.comms import GetDag

        try:
            dag = await self._send(GetDag(dag_id=dag_id))
        except AirflowRuntimeError as error:
            if _code(error) == 404:
                return f"Airflow has no DAG {dag_id}: is the project's dags folder complete?"
            return f"Airflow could not be asked about DAG {dag_id}: {_words(error)}"
        if getattr(dag, "is_paused", False):
            return f"Airflow's DAG {dag_id} is paused, so its runs would wait for ever: unpause it."
        return ""

    async def _count(self, dag_id: str, run_ids: list[str]) -> int:
        from airflow.sdk.execution_time.comms import GetDRCount

        answer = await self._send(GetDRCount(dag_id=dag_id, run_ids=run_ids))
        return int(answer.count)

    async def _state(self, dag_id: str, run_id: str) -> str | None:
        from airflow.sdk.execution_time.comms import GetDagRunState

        try:
            answer = await self._send(GetDagRunState(dag_id=dag_id, run_id=run_id))
        except AirflowRuntimeError as error:
            if _code(error) == 404:
                return None
            raise
        return str(getattr(answer.state, "value", answer.state))

    async def _send(self, message: Any) -> Any:
        self._comms = self._comms or supervisor()
        return await self._comms.asend(message)


def _code(error: AirflowRuntimeError) -> int | None:
    return (error.error.detail or {}).get("status_code")


def _words(error: AirflowRuntimeError) -> str:
    """Return the API server's own sentence, where it gave one."""
    detail = (error.error.detail or {}).get("detail")
    inner = detail.get("detail", detail) if isinstance(detail, Mapping) else detail
    message = inner.get("message") if isinstance(inner, Mapping) else inner
    return str(message or (error.error.detail or {}).get("message") or error)[:300]
