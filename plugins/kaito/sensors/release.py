"""The wait of a release."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from kaito.sensors.base import WorkspaceSensor
from kaito.settings import release_deadline
from kaito.triggers.release import ReleasedTrigger

#: The trigger gives up by itself at the deadline; this only backs it up.
SPARE = timedelta(minutes=10)


class ReleasedSensor(WorkspaceSensor):
    """Waits until nothing of a deleted Workspace is left."""

    trigger_class = ReleasedTrigger

    def __init__(self, *, deadline_seconds: float | None = None, **kwargs: Any) -> None:
        self.deadline_seconds = release_deadline() if deadline_seconds is None else deadline_seconds
        kwargs.setdefault("ready_within", timedelta(seconds=self.deadline_seconds) + SPARE)
        super().__init__(**kwargs)

    def trigger_arguments(self) -> dict[str, Any]:
        return {**super().trigger_arguments(), "deadline_seconds": self.deadline_seconds}
