"""Triggers, run over a cluster in memory until they end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent, TriggerEvent
from kaito.triggers.base import WorkspaceTrigger
from kaito.triggers.pool import GpuPoolReadyTrigger

NAME = "workspace-tuning-phi-3"

WHICH: dict[str, Any] = {
    "workspace": NAME,
    "namespace": "default",
    "kubernetes_conn_id": "kubernetes_default",
    "timeout_seconds": 5.0,
    "poll_seconds": 0.0,
}


async def ending(trigger: WorkspaceTrigger) -> TriggerEvent:
    events = [event async for event in trigger.run()]
    assert len(events) == 1
    return events[0]


def given_up(event: TriggerEvent) -> str:
    """The sentence with which a wait for machines has failed: it goes to a worker, which may ask for others."""
    assert not isinstance(event, TaskSuccessEvent | TaskFailedEvent)
    return str(event.payload["message"])


def pool_trigger(**changes: Any) -> GpuPoolReadyTrigger:
    return GpuPoolReadyTrigger(**{**WHICH, "purpose": "tuning", **changes})


def own_claim(made: dict[str, Any]) -> dict[str, Any]:
    made["metadata"]["labels"]["kaito.sh/workspace"] = NAME
    return made


def in_run(run_id: str) -> WorkspaceTrigger:
    trigger = pool_trigger()
    trigger._task_instance = SimpleNamespace(run_id=run_id)
    return trigger
