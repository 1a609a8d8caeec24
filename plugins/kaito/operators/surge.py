"""The rollout's second pod: whether a change of a service gets one beside the pod that answers, and the wait for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from include.reconcile import surge
from include.reconcile.surge import Stage
from kaito.tasks.earlier_service import TEMPLATE_DIGEST
from kaito.triggers.surge import SurgePodTrigger

if TYPE_CHECKING:
    from include.planning import Plan
    from kaito.tasks.base import Run

POLL_SECONDS = 0.5
#: How long the new pod may take, and what is left to the wait to end by itself.
WITHIN, BACKSTOP = timedelta(minutes=60), timedelta(minutes=1)
BESIDE = "a new pod starts beside the one that answers, which goes when the new one is ready"
STAYS = "no pod changes, and it answers meanwhile"
IN_PLACE = "its pod is replaced and answers again when it has started: its machine has GPUs for one"


def begins(plan: Plan, live: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> tuple[Stage | None, str]:
    """Return where a change begins that lets the present pod answer, None where it does not; and that in words.

    What needs no other pod begins nowhere and is `STAYS`.
    A machine that was made for this service has no room for a second pod; one of the user's own may have.
    """
    rolls = live is not None and _digest(live) != _digest(wanted)
    if live is not None and not rolls and surge.stays(live, wanted):
        return None, STAYS
    stage = surge.begins(live, rolls) if plan.node_count == 1 else None
    if stage and not plan.own_nodes:
        return None, IN_PLACE if rolls else ""
    return stage, BESIDE if stage else ""


def wait(run: Run, stage: Stage, kubernetes_conn_id: str) -> dict[str, Any]:
    """Return the arguments of the task's ``defer``."""
    trigger = SurgePodTrigger(
        workspace=run.name,
        namespace=run.namespace,
        kubernetes_conn_id=kubernetes_conn_id,
        timeout_seconds=WITHIN.total_seconds(),
        poll_seconds=POLL_SECONDS,
        ordinal=stage.ordinal,
    )
    return {"trigger": trigger, "kwargs": {"stage": str(stage)}, "timeout": WITHIN + BACKSTOP}


def _digest(stateful_set: Mapping[str, Any]) -> str:
    return str((stateful_set["metadata"].get("annotations") or {}).get(TEMPLATE_DIGEST) or "")
