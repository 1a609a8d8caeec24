"""What every step of a run shares: which Workspace it serves, its plan, and how it tells the Workspace's author.

The first task leaves its result in XCom (:mod:`kaito.tasks.preflight_result`), without signed URLs, so a step that
needs them reads the Workspace from the cluster. A status that cannot be written is
logged and never hides the error that was to be reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context

from include.contracts.purpose import Purpose
from include.contracts.results import PublishedAdapter
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
from kaito.run_notes import OUTCOME, outcome
from kaito.settings import connection_id
from kaito.tasks.links import WorkspaceLink
from kaito.tasks.preflight_result import PreflightResult, Trained
from kaito.triggers.results import WaitResult

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context
    from airflow.sdk.types import Logger

PREFLIGHT = "preflight"
#: By purpose, the task whose result says which machines were got.
WAITS = {Purpose.TUNING: "wait_for_nodes", Purpose.SERVING: "serve.wait_for_nodes"}
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
#: What a run may end with; the note of the run says the last of them.
ENDS = VERDICTS | {
    conditions.Phase.INVALID,
    conditions.Phase.BUDGET_EXCEEDED,
    conditions.Phase.ADAPTER_KEPT,
    conditions.Phase.FAILED,
}


@dataclass(frozen=True)
class Run:
    """What the first task decided for this run.

    :param plan: of the machines that were got, or are asked for first; so is ``serving_plan``.
    :param run_id: the run's id as a label value.
    :param adapter: what this very run published before its history was lost: it need not be made again.
    :param trained: the adapter that an earlier run left on the volume, where it is the one that is wanted: it need
        only be pushed.
    :param alternatives: by purpose, all plans in the order of asking, where there is more than one.
    :param refused: what the cloud has said to this very task, by purpose and offer.
    """

    document: dict[str, Any]
    plan: Plan | None
    serving_plan: Plan | None
    run_id: str
    adapter: PublishedAdapter | None = None
    trained: Trained | None = None
    alternatives: Mapping[Purpose, tuple[Plan, ...]] = field(default_factory=dict)
    refused: dict[tuple[Purpose, str], str] = field(default_factory=dict)

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

    def plan_for(self, purpose: Purpose) -> Plan | None:
        """Return the plan of a pool; None when the run serves nothing."""
        return self.serving_plan if purpose == Purpose.SERVING else self.plan

    def candidates(self, purpose: Purpose) -> tuple[Plan, ...]:
        """Return all plans of a pool in the order of asking."""
        plan = self.plan_for(purpose)
        return self.alternatives.get(purpose) or ((plan,) if plan else ())

    def refusals(self, purpose: Purpose) -> dict[str, str]:
        """Return what the cloud has said to this very task, by offer."""
        return {offer: told for (of, offer), told in self.refused.items() if of == purpose}

    @property
    def tuning_plan(self) -> Plan:
        if self.plan is None:
            raise RuntimeError(f"Task {PREFLIGHT} left no plan: clear it, so that it runs again.")
        return self.plan

    @classmethod
    def of(
        cls, result: PreflightResult, run_id: str, offers: Mapping[Purpose, str | None] | None = None
    ) -> Run:
        """Return the run that the first task has decided about.

        :param run_id: of Airflow.
        :param offers: by purpose, the offer of the machines that were got, where that is known.
        """
        offers = offers or {}
        return cls(
            document=result.workspace,
            plan=_chosen(result.all_plans(Purpose.TUNING), offers.get(Purpose.TUNING)),
            serving_plan=_chosen(result.all_plans(Purpose.SERVING), offers.get(Purpose.SERVING)),
            run_id=names.run_id_label(run_id),
            adapter=result.adapter,
            trained=result.trained,
            alternatives={purpose: result.all_plans(purpose) for purpose in result.alternatives},
        )


def _chosen(plans: Sequence[Plan], offer: str | None) -> Plan | None:
    """The plan of the machines that were got, else the first; None where there is none."""
    return next((plan for plan in plans if plan.offer == offer), plans[0] if plans else None)


def tries_left(context: Context) -> bool:
    """Return whether Airflow tries this task again when it fails now, unless it fails for good."""
    ti = context["ti"]
    return int(getattr(ti, "try_number", 1)) <= int(getattr(ti, "max_tries", 0))


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
        result = PreflightResult.from_xcom(value)
        waits = {purpose: f"{self.run_prefix}{WAITS[purpose]}" for purpose in result.alternatives}
        offers = {
            purpose: WaitResult.read(context["ti"].xcom_pull(task_ids=task)).offer
            for purpose, task in waits.items()
        }
        return Run.of(result, context["run_id"], offers)

    def live_workspace(self, run: Run) -> dict[str, Any]:
        """Read the Workspace again, signed URLs included, and make sure that it still is the one of this run."""
        live = self.cluster.find(workspace_kind(run.document.get("apiVersion")), run.name, run.namespace)
        return as_written(fence(live, run.name, run.uid, run.generation))

    def record_cost(self, run: Run, unregistered: Sequence[UnregisteredCapacity] | None = None) -> None:
        """Bring the Workspace's ledger up to date. Never raises: the caller's own work matters more.

        :param unregistered: pools whose machines may not all have joined, None where nobody asked.
        """
        record_cost(self.cluster, run.name, run.namespace, run.uid, unregistered=unregistered)

    @staticmethod
    def leave_outcome(phase: conditions.Phase, message: str) -> None:
        """Leave a verdict in XCom, for the note of the run (:mod:`kaito.run_notes`). Never raises."""
        if phase in ENDS:
            with suppress(
                Exception
            ):  # no task is running, or Airflow's API is away: the conditions have it too
                get_current_context()["ti"].xcom_push(OUTCOME, outcome(phase, message))

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
        self.leave_outcome(phase, message)

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
