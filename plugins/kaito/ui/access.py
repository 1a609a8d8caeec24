"""Who may do what on the pages: exactly what Airflow lets them do with the DAGs by which the work is done."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.models.log import Log
from airflow.utils.session import create_session
from fastapi import Depends, HTTPException, Request

from include.contracts.redaction import redacted

log = logging.getLogger(__name__)

TUNE, SERVE, RELEASE, ASKING = "kaito_tune", "kaito_serve", "kaito_release", "kaito_ask"
CurrentUser = GetUserDep


def _all(method: ResourceMethod, entity: DagAccessEntity, *dags: str) -> list[Any]:
    return [Depends(requires_access_dag(method, entity, dag)) for dag in dags]


#: Looking at Workspaces: who may see the runs that tune and serve.
READ = _all("GET", DagAccessEntity.RUN, TUNE, SERVE)
#: Looking at their runs' tasks, and at the log of a training.
READ_TASKS = [*READ, *_all("GET", DagAccessEntity.TASK_INSTANCE, TUNE, SERVE)]
READ_LOGS = [*READ, *_all("GET", DagAccessEntity.TASK_LOGS, TUNE)]


async def from_a_page_of_ours(request: Request) -> None:
    """Refuse what another site makes a browser send: its forms can send no JSON, and its scripts are told apart."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "Another site asked for this in your name; it was not done.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "Send JSON (Content-Type: application/json).")


#: Changing Workspaces: who may start the runs that tune and serve. Asking a service and deleting one are rights
#: of their own: to start the DAG that does it.
ACT = [*READ, *_all("POST", DagAccessEntity.RUN, TUNE, SERVE), Depends(from_a_page_of_ours)]
ASK = [*READ, *_all("POST", DagAccessEntity.RUN, ASKING), Depends(from_a_page_of_ours)]
DELETE = [*READ, *_all("POST", DagAccessEntity.RUN, RELEASE), Depends(from_a_page_of_ours)]


def may(
    user: BaseUser, method: ResourceMethod, dag: str, entity: DagAccessEntity = DagAccessEntity.RUN
) -> bool:
    """Return whether a user may do something with the runs, or the like, of a DAG: pages leave out the rest."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
    from airflow.models.dag import DagModel

    details = DagDetails(id=dag, team_name=DagModel.get_team_name(dag))
    return bool(
        get_auth_manager().is_authorized_dag(method=method, access_entity=entity, details=details, user=user)
    )


def audit(user: BaseUser, event: str, told: Mapping[str, Any]) -> None:
    """Write an entry into Airflow's audit log: who did what to which Workspace, and what came of it."""
    name = str(user.get_name())
    extra = json.dumps(redacted(dict(told)), default=str)[:4000]
    with create_session(scoped=False) as session:
        session.add(Log(event=event[:60], owner=name, owner_display_name=name, extra=extra))
