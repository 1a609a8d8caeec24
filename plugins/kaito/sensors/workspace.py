"""The two waits of a run: for GPU machines, and for the service that runs on them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from kaito.sensors.base import WorkspaceSensor
from kaito.triggers.pool import GpuPoolReadyTrigger
from kaito.triggers.rollout import RolloutReadyTrigger

# The budgets of the stages ([kaito] pool_launch_seconds, ...) end the wait earlier; this bounds them all.
NODES_READY_WITHIN = timedelta(hours=2)
# An image of 25 GB and weights of 100 GB come before the first answer.
SERVICE_READY_WITHIN = timedelta(minutes=60)


class GpuPoolReadySensor(WorkspaceSensor):
    """Waits until all machines of a pool are Ready and offer GPUs; fails with the cloud's own words.

    :param purpose: ``tuning`` or ``serving``.
    """

    trigger_class = GpuPoolReadyTrigger

    def __init__(self, *, purpose: str, ready_within: timedelta = NODES_READY_WITHIN, **kwargs: Any) -> None:
        self.purpose = purpose
        super().__init__(ready_within=ready_within, **kwargs)

    def trigger_arguments(self) -> dict[str, Any]:
        return {**super().trigger_arguments(), "purpose": self.purpose}


class RolloutReadySensor(WorkspaceSensor):
    """Waits until all replicas of the Workspace's service are ready; fails when they cannot become so."""

    trigger_class = RolloutReadyTrigger

    def __init__(self, *, ready_within: timedelta = SERVICE_READY_WITHIN, **kwargs: Any) -> None:
        super().__init__(ready_within=ready_within, **kwargs)
