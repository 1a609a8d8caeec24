"""What every step of a run shares: which Workspace it serves, its plan, and how it tells the Workspace's author.

The first task leaves a small dict in XCom; later tasks read it here and nowhere else. Signed URLs are taken out of it
(``redacted``), so a step that needs them reads the Workspace from the cluster. A status that cannot be written is
logged and never hides the error that was to be reported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from include.contracts.purpose import Purpose
from include.contracts.redaction import redact_url
from include.planning import Plan
from include.pools.observed import UnregisteredCapacity
from include.workspace import Workspace, parse_workspace
from include.workspace.api import names
from include.workspace.api.dialect import as_written
from include.workspace.status import conditions
from kaito.controller import event_recorder as events
from kaito.controller.cost_recorder import record_cost
from kaito.hooks import cluster_calls
from kaito.hooks.api import ClusterError, workspace_kind
from kaito.hooks.kubernetes import KaitoClusterHook, StaleWorkspace, fence
from kaito.settings import connection_id
from kaito.tasks.links import WorkspaceLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context
    from airflow.sdk.types import Logger

PREFLIGHT = "preflight"
#: By purpose, the task whose result says which machines were got.
WAITS = {"tuning": "wait_for_nodes", "serving": "serve.wait_for_nodes"}
#: What a run may say first: that it begins, or that it cannot.
BEGINNINGS = frozenset(
    {
        conditions.Phase.ACCEPTED,
        conditions.Phase.RESUMED,
        conditions.Phase.INVALID,
        conditions.Phase.BUDGET_EXCEEDED,
    }
)
# How long an API server may be away before a step that comes back is taken for failed; its pod works meanwhile.
API_AWAY_SECONDS = 900.0
API_AWAY_POLL = 2.0
#: What only the step itself knows: lost, it would make a run that went well one "without a result".
VERDICTS = frozenset(
    phase for phase in conditions.Phase if phase.endswith("Failed") or phase in ("Published", "Succeeded")
)


def redacted(workspace: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may go into XCom: no status, and no dataset URL with its query (it may carry a signature)."""
    found: dict[str, Any] = json.loads(json.dumps({k: v for k, v in workspace.items() if k != "status"}))
    source = (found.get("tuning") or {}).get("input") or {}
    if source.get("urls"):
        source["urls"] = [redact_url(url) for url in source["urls"]]
    return found


@dataclass(frozen=True)
class Run:
    """What the first task decided for this run.

    :param plan: of the machines that were got, or are asked for first; so is ``serving_plan``.
    :param run_id: the run's id as a label value.
    :param adapter: what this very run published before its history was lost: it need not be made again.
    :param trained: ``{"run", "recipe", "dataset", "tuning"}`` of the adapter that an earlier run left on the volume,
        where it is the one that is wanted: it need only be pushed.
    :param alternatives: by purpose, all plans in the order of asking, where there is more than one.
    :param refused: what the cloud has said to this very task, by purpose and offer.
    """

    document: dict[str, Any]
    plan: Plan | None
    serving_plan: Plan | None
    run_id: str
    adapter: dict[str, Any] | None = None
    trained: dict[str, Any] | None = None
    alternatives: Mapping[str, tuple[Plan, ...]] = field(default_factory=dict)
    refused: dict[tuple[str, str], str] = field(default_factory=dict)

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
        return self.serving_plan if purpose == Purpose.SERVING else self.plan

    def candidates(self, purpose: str) -> tuple[Plan, ...]:
        """Return all plans of a pool in the order of asking."""
        plan = self.plan_for(purpose)
        return self.alternatives.get(purpose) or ((plan,) if plan else ())

    def refusals(self, purpose: str) -> dict[str, str]:
        """Return what the cloud has said to this very task, by offer."""
        return {offer: told for (of, offer), told in self.refused.items() if of == purpose}

    @property
    def tuning_plan(self) -> Plan:
        if self.plan is None:
            raise RuntimeError(f"Task {PREFLIGHT} left no plan: clear it, so that it runs again.")
        return self.plan

    @classmethod
    def from_xcom(
        cls, value: Mapping[str, Any], run_id: str, got: Mapping[str, str | None] | None = None
    ) -> Run:
        """Read what the first task left.

        :param got: by purpose, the offer of the machines that were got, where that is known.
        """
        serving = value.get("serving_plan")
        first = {"tuning": value["plan"], "serving": serving}
        others = {
            purpose: (Plan.from_dict(first[purpose]), *map(Plan.from_dict, listed))
            for purpose, listed in (value.get("alternatives") or {}).items()
        }
        return cls(
            document=dict(value["workspace"]),
            plan=_chosen(value["plan"], others.get("tuning"), (got or {}).get("tuning")),
            serving_plan=_chosen(serving, others.get("serving"), (got or {}).get("serving"))
            if serving
            else None,
            run_id=names.run_id_label(run_id),
            adapter=value.get("adapter"),
            trained=value.get("trained"),
            alternatives=others,
        )


def _chosen(first: Mapping[str, Any], plans: Sequence[Plan] | None, got: str | None) -> Plan:
    """The plan of the machines that were got, else the first."""
    return next((plan for plan in plans or () if plan.offer == got), None) or Plan.from_dict(first)


def tries_left(context: Context) -> bool:
    """Return whether Airflow tries this task again when it fails now, unless it fails for good."""
    ti = context["ti"]
    return int(getattr(ti, "try_number", 1)) <= int(getattr(ti, "max_tries", 0))


def _told(value: Any) -> Mapping[str, Any]:
    """The result of a wait; what a trigger leaves in XCom comes back as JSON text."""
    found = json.loads(value) if isinstance(value, str) else value
    return found if isinstance(found, Mapping) else {}


class WorkspaceTask:
    """Mixin of all operators of a run."""

    #: Airflow connection to the cluster; None: setting ``[kaito] kubernetes_conn_id``.
    kubernetes_conn_id: str | None = None
    #: What stands before the ids of this run's steps, where they are a group of a DAG.
    run_prefix: str = ""
    operator_extra_links: Collection[BaseOperatorLink] = (WorkspaceLink(),)
    if TYPE_CHECKING:

        @property
        def log(self) -> Logger: ...

    @cached_property
    def cluster(self) -> KaitoClusterHook:
        """The cluster of the task's connection; set it before the task runs to put another in its place."""
        return KaitoClusterHook(conn_id=self.kubernetes_conn_id or connection_id())

    def this_run(self, context: Context) -> Run:
        """Return what the first task decided."""
        first = f"{self.run_prefix}{PREFLIGHT}"
        value = context["ti"].xcom_pull(task_ids=first)
        if not value:
            raise RuntimeError(f"Task {first} left no plan: clear it, so that it runs again.")
        waits = {purpose: f"{self.run_prefix}{WAITS[purpose]}" for purpose in value.get("alternatives") or {}}
        seen = {purpose: _told(context["ti"].xcom_pull(task_ids=task)) for purpose, task in waits.items()}
        return Run.from_xcom(value, context["run_id"], {key: one.get("offer") for key, one in seen.items()})

    def live_workspace(self, run: Run) -> dict[str, Any]:
        """Read the Workspace again, signed URLs included, and make sure that it still is the one of this run."""
        live = self.cluster.find(workspace_kind(run.document.get("apiVersion")), run.name, run.namespace)
        return as_written(fence(live, run.name, run.uid, run.generation))

    def record_cost(self, run: Run, unregistered: Sequence[UnregisteredCapacity] | None = None) -> None:
        """Bring the Workspace's ledger up to date. Never raises: the caller's own work matters more.

        :param unregistered: pools whose machines may not all have joined, None where nobody asked.
        """
        record_cost(self.cluster, run.name, run.namespace, run.uid, unregistered=unregistered)

    def report(
        self,
        run: Run,
        phase: conditions.Phase | None,
        message: str,
        *,
        edit: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        **more: Any,
    ) -> None:
        """Write the Workspace's conditions, and tell each one that turned as an Event.

        A verdict waits for an API server that is away. Never raises: the caller's own error matters more.

        :param edit: a further change of the status.
        :param more: as ``conditions.progress`` takes it: ``reason``, ``nodes``, ``target_nodes``, ``adapter``,
            ``again``.
        """
        if phase is None:
            return

        def next_status(live: Mapping[str, Any]) -> dict[str, Any]:
            now = datetime.now(UTC)
            found = conditions.progress(
                live, phase, message=message, generation=run.generation, now=now, **more
            )
            return edit(found) if edit else found

        deadline = time.monotonic() + (API_AWAY_SECONDS if phase in VERDICTS else 0.0)
        while True:
            try:
                news = events.News(next_status)
                self.cluster.patch_status(
                    run.name,
                    run.namespace,
                    news,
                    uid=run.uid,
                    generation=run.generation,
                    begins=phase in BEGINNINGS,
                )
                cluster_calls.run(events.tell(self.cluster.calls, news.live, news.events))
                return
            except (ClusterError, StaleWorkspace, conditions.StaleGeneration) as error:
                self.log.warning("The status of Workspace %s could not be written: %s", run.name, error)
                away = isinstance(error, ClusterError) and error.transient
                if not away or time.monotonic() > deadline:
                    return
            time.sleep(API_AWAY_POLL)
