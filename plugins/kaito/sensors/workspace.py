"""The two waits of a run: for GPU machines, and for the service that runs on them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from include.contracts.purpose import Purpose
from include.workspace.status import conditions
from kaito.sensors.base import WorkspaceSensor
from kaito.tasks.machines import NODES_READY_WITHIN, MachineAsking
from kaito.triggers.pool import GpuPoolReadyTrigger
from kaito.triggers.rollout import RolloutReadyTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

# An image of 25 GB and weights of 100 GB come before the first answer.
SERVICE_READY_WITHIN = timedelta(minutes=60)


class GpuPoolReadySensor(MachineAsking, WorkspaceSensor):
    """Waits until all machines of a pool are Ready and offer GPUs; fails with the cloud's own words.

    When the cloud has none of them, the wait comes back to a worker, which lets them go, asks for the Workspace's next
    choice and waits again. The result names what was got: ``{"offer", "nodes", "message"}``.

    :param purpose: ``tuning`` or ``serving``.
    :param dataset_task_id: the task whose result says how much there is to read.
    """

    trigger_class = GpuPoolReadyTrigger

    def __init__(
        self,
        *,
        purpose: Purpose,
        dataset_task_id: str | None = None,
        ready_within: timedelta = NODES_READY_WITHIN,
        **kwargs: Any,
    ) -> None:
        self.purpose = purpose
        self.dataset_task_id = dataset_task_id
        # For a worker that dies while it asks for other machines; every failure of the wait itself is final.
        kwargs.setdefault("retries", 5)
        super().__init__(ready_within=ready_within, **kwargs)

    def trigger_arguments(self) -> dict[str, Any]:
        return {**super().trigger_arguments(), "purpose": self.purpose}

    def execute_complete(self, context: Context, event: object = None) -> None:
        """Come back from a wait that failed: with other machines, or for good."""
        if not isinstance(event, Mapping) or "message" not in event:
            super().execute_complete(context, event)
            return
        message = str(event["message"])
        run = self.this_run(context)
        if event.get("unavailable"):
            self.ask(run, (str(event.get("offer") or ""), message), context=context)
        elif event.get("missing") and self.was_interrupted(run):
            self.log.info("An earlier try had deleted the machines and asked for no others yet.")
            self.ask(run, context=context)
        elif event.get("missing"):
            self.report(run, conditions.Phase.NODES_FAILED, message, reason=event.get("reason"))
            raise AirflowFailException(message)
        else:
            raise AirflowFailException(message)
        self.execute(context)


class CandidatePoolReadySensor(GpuPoolReadySensor):
    """As that, for a Workspace whose name an earlier step has made: it is told by XCom, so a worker begins the wait."""

    start_from_trigger = False


class RolloutReadySensor(WorkspaceSensor):
    """Waits until all replicas of the Workspace's service are ready; fails when they cannot become so."""

    trigger_class = RolloutReadyTrigger

    def __init__(self, *, ready_within: timedelta = SERVICE_READY_WITHIN, **kwargs: Any) -> None:
        super().__init__(ready_within=ready_within, **kwargs)
