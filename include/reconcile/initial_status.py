"""The initial status of a Workspace: what may be written at once, by somebody who does not carry the decision out.

A user who applies a Workspace waits to see that it was noticed, and whether it is any good. That much is said before
a worker has been found for the rest. It must never say anything that the decision itself would not say: what has not
been done yet is not said to be done.
"""

from __future__ import annotations

from include.reconcile.decision import Decision, Object, StartRun
from include.workspace.status.runs import RunState


def awaits_initial_status(workspace: Object) -> bool:
    """Whether nobody has told its author anything yet."""
    told = (workspace.get("status") or {}).get("conditions")
    return not told and not workspace["metadata"].get("deletionTimestamp")


def initial_status(workspace: Object, decision: Decision) -> Decision:
    """The part of a decision that may go ahead of the rest, for a Workspace that awaits its initial status.

    That is the status, with its events, where there is one to write. A run that would be started now is recorded as
    waiting: whoever looks next starts that very run. Nothing is created or deleted, so our finalizer, too, is left to
    whoever does the rest. For any other Workspace: a decision to do nothing.
    """
    if decision.status is None or not awaits_initial_status(workspace):
        return Decision(decision.situation)
    status = decision.status
    if any(isinstance(action, StartRun) for action in decision.actions):
        status = {**status, "run": {**status["run"], "state": RunState.WAITING}}
    return Decision(decision.situation, status, events=decision.events)
