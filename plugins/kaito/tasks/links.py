"""The link from each task of a run in Airflow's UI to the page of its Workspace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

from kaito.settings import base_url

PREFLIGHT = "preflight"


class WorkspaceLink(BaseOperatorLink):
    """The page of the Workspace that a task works for; empty before the run's first task has said which it is."""

    name = "Workspace"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address of the page. In a worker `ti_key` is the running task."""
        told = ti_key.xcom_pull(task_ids=f"{getattr(operator, 'run_prefix', '')}{PREFLIGHT}")
        workspace = told.get("workspace") if isinstance(told, Mapping) else None
        meta = (workspace or {}).get("metadata") or {}
        if not meta.get("name"):
            return ""
        which = f"{quote(meta.get('namespace') or 'default')}/{quote(meta['name'])}"
        return f"{base_url()}/kaito/workspaces/{which}"
