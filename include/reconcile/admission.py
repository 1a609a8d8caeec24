"""First sight of a generation: may it run, and what stands in the way.

Nothing is created for a Workspace with faults, and all faults are named at once. Faults that lie in the cluster (a
missing Secret, a name that is taken) pass without an edit, so they are looked at again with back-off.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from include.reconcile import attempts, backoff, leftovers, progress, service
from include.reconcile.case import SERVE, TUNE, Case
from include.reconcile.decision import Decision, Fault, Object
from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.api import names
from include.workspace.status.conditions import (
    ConditionType,
    Phase,
    Reason,
    condition,
    timestamp,
)
from include.workspace.status.runs import OVER, RunCause

#: How long faults of the document itself wait for another look: only a new release of ours can lift them.
DOCUMENT_SECONDS = 3600.0
#: A run that this reconciler did not record may pause this long between two of its steps.
UNRECORDED_SECONDS = 120.0
TAKEN = "P6"


def first_sight(builder: DecisionBuilder) -> Decision:
    """A generation without a run of its own: judge it, or wait until it may be judged again."""
    case = builder.case
    told = _told(case)
    if told == "open" and _alive(case):
        builder.look_again(progress.QUIET_SECONDS)
        return builder.decision("running")
    if told == "final":
        return attempts.adopt(builder, RunCause.FOUND)
    if not told and (dag_and_run := _made_by(case)):
        return attempts.follow(builder, *dag_and_run)
    if told == "invalid" and (pause := backoff.wait(builder.retry, case.now)) > 0:
        return refuse(builder, pause)
    found = [*case.config.faults(case.workspace, accepted_document(case)), *taken(case)]
    if not found:
        return attempts.begin(builder, cause=RunCause.SPEC, attempt=1)
    _invalid(builder, found, again=told == "invalid")
    return refuse(builder, backoff.wait(builder.retry, case.now))


def _made_by(case: Case) -> tuple[str, str] | None:
    """The (DAG id, run id) that made this Workspace and works on it, while it is as that run made it."""
    dag, _, run_id = str(case.annotations.get(names.STARTED_BY) or "").partition("/")
    known = dag in (TUNE, SERVE) or case.candidate
    return (dag, run_id) if case.generation == 1 and known and run_id else None


def refuse(builder: DecisionBuilder, pause: float) -> Decision:
    """Let nothing stand that only a run may hold; a service of an earlier generation goes on."""
    leftovers.release(builder)
    service.mark_not_ready(builder)
    service.mark_nodes_not_ready(builder)
    builder.look_again(pause or None)
    return builder.decision("invalid")


def _told(case: Case) -> str:
    """What the conditions say of a generation that has no run: "", "open", "invalid" or "final"."""
    ready = condition(case.status, ConditionType.WORKSPACE_READY) or {}
    if ready.get("observedGeneration") != case.generation:
        return ""
    resource = condition(case.status, ConditionType.RESOURCE_READY) or {}
    if resource.get("observedGeneration") != case.generation:
        return ""  # no run begins without saying so there
    if resource.get("reason") == Reason.RESOURCE_FAILED and ready.get("reason") == Reason.FAILED:
        return "invalid"
    return "final" if case.verdict(case.status) in OVER else "open"


def _invalid(builder: DecisionBuilder, found: Sequence[Fault], again: bool) -> None:
    builder.reach(Phase.INVALID, "; ".join(str(fault) for fault in found))
    if any(fault.rule[:1] in ("P", "M") for fault in found):
        retry = backoff.failed(builder.retry if again else None, builder.case.now, "waiting for the cluster")
    else:
        after = timestamp(builder.case.now + timedelta(seconds=DOCUMENT_SECONDS))
        retry = {
            "failures": 1,
            "after": after,
            "message": "waiting for an edit; unedited, it is judged again then",
        }
    builder.note(retry=retry)


def _alive(case: Case) -> bool:
    """Whether a run that somebody started by hand, and that is not recorded, shows signs of life."""
    changed = [backoff.moment(c.get("lastTransitionTime")) for c in case.status.get("conditions") or ()]
    latest = max((at for at in changed if at), default=None)
    quiet = (case.now - latest).total_seconds() if latest else UNRECORDED_SECONDS
    return bool(case.run_pods or case.pools) or quiet < UNRECORDED_SECONDS


def accepted_document(case: Case) -> Object | None:
    """The document of the last accepted generation, from its ControllerRevision; None on first sight."""
    known = [r for r in case.observed.revisions if isinstance(r.get("data"), dict)]
    if not known:
        return None
    wanted = case.annotations.get(names.REVISION_HASH)
    exact = [r for r in known if (r["metadata"].get("annotations") or {}).get(names.REVISION_HASH) == wanted]
    newest = max(exact or known, key=lambda r: int(r.get("revision") or 0))
    data: dict[str, Any] = {key: value for key, value in newest["data"].items() if value is not None}
    identity = {key: case.workspace[key] for key in ("apiVersion", "kind") if key in case.workspace}
    return {**identity, "metadata": dict(case.meta), **data}


def taken(case: Case) -> list[Fault]:
    """A fault for each object of somebody else that stands where one of ours must."""
    return [
        Fault(
            "metadata.name",
            case.name,
            TAKEN,
            f"{kind} {name} exists and belongs to {owner}; it is not touched",
            "remove that object or give the Workspace another name",
        )
        for kind, name, owner in case.strangers()
    ]
