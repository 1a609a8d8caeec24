"""The links from the tasks of a run in Airflow's UI to the page of its Workspace, and to parts of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink

from kaito.settings import base_url

PREFLIGHT = "preflight"


class WorkspaceLink(BaseOperatorLink):
    """The page of the Workspace that a task works for; empty before the run's first task has said which it is."""

    name = "Workspace"
    #: The part of the page, by its id; "" for its top.
    part = ""

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address of the page. In a worker `ti_key` is the running task."""
        told = ti_key.xcom_pull(task_ids=f"{getattr(operator, 'run_prefix', '')}{PREFLIGHT}")
        workspace = told.get("workspace") if isinstance(told, Mapping) else None
        meta = (workspace or {}).get("metadata") or {}
        if not meta.get("name"):
            return ""
        which = f"{quote(meta.get('namespace') or 'default')}/{quote(meta['name'])}"
        return f"{base_url()}/kaito/workspaces/{which}{f'#{self.part}' if self.part else ''}"


class DataReportLink(WorkspaceLink):
    """What a training learns from."""

    name, part = "Data report", "data"


class AdapterLink(WorkspaceLink):
    """The pushed adapter: its reference, its page in the registry, and where it comes from."""

    name, part = "Adapter", "adapter"


class ServiceLink(WorkspaceLink):
    """The service: how to reach it, with the commands that do."""

    name, part = "Service", "commands"


def owner_links() -> dict[str, str]:
    """Return where the name of these DAGs' owner leads: to all Workspaces.

    Nowhere where `[api] base_url` is no address: a DAG with such a link would not be loaded.
    """
    address = urlsplit(base_url())
    usable = address.scheme in ("http", "https") and address.netloc
    return {"kaito": f"{base_url()}/kaito/workspaces"} if usable else {}
