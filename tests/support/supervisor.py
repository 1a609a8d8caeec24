"""The supervisor of a running task, which knows Airflow's runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import (
    DRCount,
    ErrorResponse,
    GetDag,
    GetDagRunState,
    GetDRCount,
    OKResponse,
    TriggerDagRun,
)


def refused(code: int | None, message: str = "no") -> AirflowRuntimeError:
    detail = {"status_code": code, "detail": {"detail": {"message": message}}}
    return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail))


class Supervisor:
    """Answers as Airflow's does: DAGs by id (True: paused), runs by (dag, run)."""

    def __init__(
        self, dags: dict[str, bool] | None = None, runs: dict[tuple[str, str], str] | None = None
    ) -> None:
        self.dags = {"kaito_tune": False} if dags is None else dags
        self.runs = runs or {}
        self.asked: list[Any] = []
        self.error: Exception | None = None

    async def asend(self, msg: Any) -> Any:
        self.asked.append(msg)
        if isinstance(msg, GetDag):
            if msg.dag_id not in self.dags:
                raise refused(404)
            return SimpleNamespace(is_paused=self.dags[msg.dag_id])
        if isinstance(msg, GetDRCount):
            return DRCount(count=sum((msg.dag_id, run) in self.runs for run in msg.run_ids or ()))
        if isinstance(msg, GetDagRunState):
            if (msg.dag_id, msg.run_id) not in self.runs:
                raise refused(404)
            return SimpleNamespace(state=self.runs[msg.dag_id, msg.run_id])
        assert isinstance(msg, TriggerDagRun)
        if self.error:
            raise self.error
        if (msg.dag_id, msg.run_id) in self.runs:
            return ErrorResponse(error=ErrorType.DAGRUN_ALREADY_EXISTS)
        self.runs[msg.dag_id, msg.run_id] = "queued"
        return OKResponse(ok=True)

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message in self.asked)
