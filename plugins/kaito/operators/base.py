"""What every step of a run shares: which Workspace it serves, its plan, and how it tells the Workspace's author.

The first task leaves a small dict in XCom; later tasks read it here and nowhere else. Signed URLs are taken out of it
(``redacted``), so a step that needs them reads the Workspace from the cluster. A status that cannot be written is
logged and never hides the error that was to be reported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from include.planning import Plan
from include.workspace import Workspace, conditions, names, parse_workspace
from include.workspace.dialect import LAST_APPLIED, dialect_of
from include.workspace.urls import redact
from kaito.hooks import events
from kaito.hooks.api import ClusterError, workspace_kind
from kaito.hooks.cluster import KaitoClusterHook, StaleWorkspace, fence
from kaito.settings import connection_id

if TYPE_CHECKING:
    import logging

    from airflow.sdk import Context

PREFLIGHT = "preflight"


def as_written(live: Mapping[str, Any]) -> dict[str, Any]:
    """Return a live Workspace in its author's dialect, without the records that told it."""
    metadata = {k: v for k, v in live["metadata"].items() if k != "managedFields"}
    if metadata.get("annotations"):
        metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if k != LAST_APPLIED}
    return {**live, "apiVersion": dialect_of(live), "metadata": metadata}


def redacted(workspace: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may go into XCom: no status, and no dataset URL with its query (it may carry a signature)."""
    found: dict[str, Any] = json.loads(json.dumps({k: v for k, v in workspace.items() if k != "status"}))
    source = (found.get("tuning") or {}).get("input") or {}
    if source.get("urls"):
        source["urls"] = [redact(url) for url in source["urls"]]
    return found


@dataclass(frozen=True)
class Run:
    """What the first task decided for this run.

    :param run_id: the run's id as a label value.
    :param adapter: what this very run published before its history was lost: it need not be made again.
    """

    document: dict[str, Any]
    plan: Plan | None
    serving_plan: Plan | None
    run_id: str
    adapter: dict[str, Any] | None = None

    @cached_property
    def workspace(self) -> Workspace:
        return parse_workspace(self.document)

    @property
    def name(self) -> str:
        return str(self.document["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return names.namespace(self.document)

    @property
    def uid(self) -> str:
        return str(self.document["metadata"]["uid"])

    @property
    def generation(self) -> int:
        return names.generation(self.document)

    def plan_for(self, purpose: str) -> Plan | None:
        """Return the plan of a pool; None when the run serves nothing."""
        return self.serving_plan if purpose == "serving" else self.plan

    @property
    def tuning_plan(self) -> Plan:
        if self.plan is None:
            raise RuntimeError(f"Task {PREFLIGHT} left no plan: clear it, so that it runs again.")
        return self.plan

    @classmethod
    def from_xcom(cls, value: Mapping[str, Any], run_id: str) -> Run:
        serving = value.get("serving_plan")
        return cls(
            document=dict(value["workspace"]),
            plan=Plan.from_dict(value["plan"]),
            serving_plan=Plan.from_dict(serving) if serving else None,
            run_id=names.run_id_label(run_id),
            adapter=value.get("adapter"),
        )


class WorkspaceTask:
    """Mixin of all operators of a run."""

    kubernetes_conn_id: str
    if TYPE_CHECKING:
        log: logging.Logger

    @cached_property
    def cluster(self) -> KaitoClusterHook:
        return KaitoClusterHook(conn_id=getattr(self, "kubernetes_conn_id", None) or connection_id())

    def this_run(self, context: Context) -> Run:
        """Return what the first task decided."""
        value = context["ti"].xcom_pull(task_ids=PREFLIGHT)
        if not value:
            raise RuntimeError(f"Task {PREFLIGHT} left no plan: clear it, so that it runs again.")
        return Run.from_xcom(value, context["run_id"])

    def live_workspace(self, run: Run) -> dict[str, Any]:
        """Read the Workspace again, signed URLs included, and make sure that it still is the one of this run."""
        live = self.cluster.find(workspace_kind(run.document.get("apiVersion")), run.name, run.namespace)
        return as_written(fence(live, run.name, run.uid, run.generation))

    def report(self, run: Run, phase: conditions.Phase | None, message: str, **more: Any) -> None:
        """Write the Workspace's conditions, and tell each one that turned as an Event.

        Never raises: the caller's own error matters more.

        :param more: as ``conditions.progress`` takes it: ``reason``, ``nodes``, ``target_nodes``, ``adapter``.
        """
        if phase is None:
            return

        def next_status(live: Mapping[str, Any]) -> dict[str, Any]:
            now = datetime.now(UTC)
            return conditions.progress(
                live, phase, message=message, generation=run.generation, now=now, **more
            )

        news = events.News(next_status)
        try:
            self.cluster.patch_status(
                run.name,
                run.namespace,
                news,
                uid=run.uid,
                generation=run.generation,
            )
            events.tell(self.cluster, news.live, news.events)
        except (ClusterError, StaleWorkspace, conditions.StaleGeneration) as error:
            self.log.warning("The status of Workspace %s could not be written: %s", run.name, error)
