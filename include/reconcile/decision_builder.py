"""A decision in the making: the status as it will be, and the actions that go with it.

It only collects. A status that says nothing new is no status at all, so that a look without news costs no write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.pools.observed import ObservedPool
from include.reconcile.case import Case, deleting
from include.reconcile.decision import (
    Action,
    Decision,
    DeleteObject,
    DeletePool,
    Event,
    Object,
)
from include.workspace.status.conditions import (
    Phase,
    Reason,
    condition,
    progress,
    set_condition,
)
from include.workspace.status.transitions import transition_events


class DecisionBuilder:
    """What will be done about one Workspace."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.status: dict[str, Any] = dict(case.status)
        self.actions: list[Action] = []
        self.events: list[Event] = []
        self.after: float | None = None

    @property
    def run(self) -> Mapping[str, Any]:
        """`status.run` of this generation, empty when the last run was for another one."""
        result: Mapping[str, Any] = self.status.get("run") or {}
        return result if int(result.get("generation") or 0) == self.case.generation else {}

    @property
    def retry(self) -> Mapping[str, Any]:
        return self.status.get("retry") or {}

    def reach(self, phase: Phase, message: str, **more: Any) -> None:
        """Write the conditions of a phase."""
        workspace = {**self.case.workspace, "status": self.status}
        self.status = progress(workspace, phase, message=message, now=self.case.now, **more)

    def condition(self, kind: str, value: bool, reason: Reason | str, message: str) -> None:
        self.status["conditions"] = set_condition(
            self.status.get("conditions") or (),
            kind,
            value,
            reason,
            message,
            self.case.generation,
            self.case.now,
        )

    def says(self, kind: str) -> bool:
        """Whether a condition is True, for whichever generation it was written."""
        return (condition(self.status, kind) or {}).get("status") == "True"

    def note(self, **fields: Any) -> None:
        """Set parts of the status that are not conditions; None takes one out."""
        for name, value in fields.items():
            if value is None:
                self.status.pop(name, None)
            else:
                self.status[name] = value

    def act(self, action: Action) -> None:
        self.actions.append(action)

    def delete(self, kind: str, obj: Object, why: str) -> None:
        """Delete an object, unless it is going already or an action of this decision does it."""
        meta = obj["metadata"]
        uid = str(meta.get("uid") or "")
        known = any(isinstance(a, DeleteObject) and a.uid == uid and a.kind == kind for a in self.actions)
        if deleting(obj) or known:
            return
        namespace = str(meta.get("namespace") or self.case.namespace)
        self.act(DeleteObject(kind, str(meta["name"]), namespace, uid, why))

    def delete_pool(self, pool: ObservedPool, why: str) -> None:
        """Have a pool deleted, unless it is going already, goes with another, or this decision has it deleted."""
        known = any(isinstance(a, DeletePool) and a.pool == pool for a in self.actions)
        if not (pool.deleting or pool.made_by_a_pool or known):
            self.act(DeletePool(pool, why))

    def look_again(self, seconds: float | None) -> None:
        """Look again after that many seconds, or sooner if something else asks for it."""
        if seconds is not None:
            self.after = seconds if self.after is None else min(self.after, seconds)

    def decision(self, situation: str) -> Decision:
        changed = self.status != self.case.status
        events = transition_events(self.case.status, self.status) if changed else []
        return Decision(
            situation=situation,
            status=self.status if changed else None,
            actions=tuple(self.actions),
            events=(*events, *self.events),
            requeue_after=self.after,
        )
