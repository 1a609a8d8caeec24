"""What the steps of a retraining share: the Workspace that is retrained, the plan of the run, and how both are told.

The steps between work on the candidate, which is a Workspace of its own, as the steps of any tuning do. These here
speak of the Workspace whose service is to be renewed: only its status is written, never its service.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from include.contracts.results import PublishedAdapter, Result
from include.retraining import policy as policies
from include.retraining import versions
from include.retraining.policy import Policy
from include.workspace.status import retraining
from include.workspace.status.conditions import Reason, StaleGeneration
from include.workspace.status.runs import RunState
from kaito.controller import event_recorder as events
from kaito.hooks import cluster_calls
from kaito.hooks.api import WORKSPACE, ClusterError
from kaito.hooks.kubernetes import StaleWorkspace
from kaito.tasks.base import WorkspaceTask

if TYPE_CHECKING:
    from airflow.sdk import Context

#: The first step of a retraining.
PLAN = "plan_candidate"
R = TypeVar("R", bound=Result)
Change = Callable[[dict[str, Any]], dict[str, Any]]


#: A policy is read and written as its author would write it.
PolicyField = Annotated[
    Policy,
    BeforeValidator(lambda given: policies.of(given) if isinstance(given, Mapping) else given),
    PlainSerializer(Policy.as_dict),
]


class Retraining(BaseModel):
    """What the first step has decided.

    :param workspace: the name of the Workspace that is retrained.
    :param candidate: the name of the one that trains.
    :param current: the adapter that answers today, an empty one for none.
    :param generation: of the Workspace when the run began.
    :param marks: what the dataset's servers said of it.
    :param urls: where this run's dataset lies, [] where it is the Workspace's own.
    """

    model_config = ConfigDict(frozen=True)

    workspace: str
    namespace: str
    uid: str
    generation: int
    version: str
    candidate: str
    policy: PolicyField
    current: PublishedAdapter
    marks: list[dict[str, str]]
    urls: list[str] = []

    @classmethod
    def from_xcom(cls, value: Mapping[str, Any]) -> Retraining:
        return cls.model_validate(value)

    def to_xcom(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class RetrainTask(WorkspaceTask):
    """Mixin of the steps that speak of the Workspace that is retrained."""

    def retraining(self, context: Context) -> Retraining:
        """Return what the first step has decided."""
        value = context["ti"].xcom_pull(task_ids=self.beside(PLAN))
        if not value:
            raise RuntimeError(f"Task {self.beside(PLAN)} left no plan: clear it, so that it runs again.")
        return Retraining.from_xcom(value)

    def beside(self, task_id: str) -> str:
        """Return the id of another step of the same retraining."""
        return f"{self.run_prefix}{task_id}"

    def pull(self, context: Context, task_id: str, result: type[R]) -> R:
        """Return the result of another step of the same retraining, an empty one without any."""
        return result.read(context["ti"].xcom_pull(task_ids=self.beside(task_id)))

    def change(self, name: str, namespace: str, uid: str, edit: Change) -> dict[str, Any] | None:
        """Change the status of the Workspace that is retrained, and tell by Events what turned.

        :returns: the Workspace as it was changed.
        :raises StaleWorkspace: it is gone or going.
        """
        news = events.News(lambda live: edit(dict(live.get("status") or {})))
        self.cluster.patch_status(name, namespace, news, uid=uid, generation=sys.maxsize, begins=True)
        cluster_calls.run(events.tell(self.cluster.calls, news.live, news.events))
        return self.cluster.find(WORKSPACE, name, namespace)

    def tell(
        self,
        plan: Retraining,
        ok: bool | None = None,
        reason: Reason | None = None,
        message: str = "",
        *,
        entry: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """Write RetrainReady, a version and fields of ``status.retrain``; what cannot be written is a warning.

        :param fields: of ``status.retrain``; None takes one out.
        """

        def edit(status: dict[str, Any]) -> dict[str, Any]:
            known = retraining.of(status)
            if entry is not None:
                known["versions"] = versions.with_entry(
                    known.get("versions") or (), {"version": plan.version, **entry}
                )
            found = retraining.with_retrain(status, {**known, **fields})
            if ok is not None and reason is not None:
                return retraining.told(found, ok, reason, message, plan.generation, datetime.now(UTC))
            return found

        if message:
            self.log.info("%s", message)
        try:
            self.change(plan.workspace, plan.namespace, plan.uid, edit)
        except (ClusterError, StaleWorkspace, StaleGeneration) as error:
            self.log.warning("The status of Workspace %s could not be written: %s", plan.workspace, error)

    def over(
        self, status: Mapping[str, Any], run_id: str, state: RunState = RunState.SUCCESS
    ) -> dict[str, Any]:
        """Return ``status.retrain`` with this run marked as over, where it is the recorded one."""
        known = retraining.of(status)
        run = known.get("run") or {}
        return {**known, "run": {**run, "state": state}} if run.get("id") == run_id else known
