"""What earlier runs left: pods and machines that nobody needs, and machines that the next run can use.

A pool in use is never released: tuning machines while a run of theirs is under way, serving machines while there is a
StatefulSet that may run on them. What belongs to somebody else is not in the Case and so cannot be touched here.
"""

from __future__ import annotations

from include.ledger.machines import instance_type as machine
from include.reconcile.case import (
    SERVING,
    TUNE,
    TUNING,
    ended,
    label,
    node_of,
)
from include.reconcile.contract import HandOver, Object
from include.reconcile.decision_builder import Draft
from include.workspace.api import names


def supersede(draft: Draft) -> bool:
    """Clear the way for the recorded run; True while pods of other runs are still there.

    Machines of the same type go over to the run at once, before the old run's teardown lets them go; others are
    deleted when no pod works on them any more.
    """
    working = strays(draft)
    case = draft.case
    if not case.service_stands:
        for claim in case.live_claims(SERVING):
            _pass_on(draft, claim, wanted=draft.run["dag"] != TUNE, free=True)
    return working


def _pass_on(draft: Draft, claim: Object, *, wanted: bool, free: bool) -> None:
    ours = names.run_id_label(draft.run["id"])
    if label(claim, names.RUN_ID) == ours:
        return
    if wanted and (not draft.case.machine or machine(claim) == draft.case.machine):
        draft.act(HandOver(str(claim["metadata"]["name"]), str(claim["metadata"]["uid"]), ours))
    elif free:
        draft.delete("NodeClaim", claim, "its run is over and the next one cannot use it")


def strays(draft: Draft) -> bool:
    """While a run is under way: let go pods and tuning machines of others; True while such pods still work."""
    case = draft.case
    ours = names.run_id_label(draft.run["id"])
    others = [pod for pod in case.run_pods if label(pod, names.RUN_ID) != ours]
    for pod in others:
        draft.delete("Pod", pod, f"it is of another run than {draft.run['id']}")
    working = [pod for pod in others if not ended(pod)]
    for claim in case.live_claims(TUNING):
        _pass_on(draft, claim, wanted=draft.run["dag"] == TUNE, free=not working)
    return bool(working)


def release(draft: Draft) -> None:
    """No run is under way: let go whatever only a run may hold."""
    case = draft.case
    for pod in case.run_pods:
        draft.delete("Pod", pod, "no run is under way")
    if not any(not ended(pod) for pod in case.run_pods):
        for claim in case.live_claims(TUNING):
            draft.delete("NodeClaim", claim, "no run is under way")
    if not case.service_stands:
        for claim in case.live_claims(SERVING):
            draft.delete("NodeClaim", claim, "there is no service on it")


def withdraw(draft: Draft) -> None:
    """Take back a service that a failed run made and that answers nobody, as the run's own teardown does."""
    found = draft.case.stateful_set
    if found is None or label(found, names.RUN_ID) != names.run_id_label(draft.run.get("id") or ""):
        return
    if not (found.get("status") or {}).get("readyReplicas"):
        draft.delete("StatefulSet", found, f"run {draft.run['id']} failed and it never answered")


def surplus(draft: Draft, wanted: int) -> None:
    """Serving machines beyond what the service needs: those without a pod of it, never the others."""
    case = draft.case
    used = {str((p.get("spec") or {}).get("nodeName") or "") for p in case.serving_pods if not ended(p)}
    claims = case.live_claims(SERVING)
    idle = [c for c in claims if node_of(c) not in used]
    idle.sort(key=lambda c: str(c["metadata"].get("creationTimestamp") or ""))
    for claim in idle[: max(0, len(claims) - wanted)]:
        draft.delete(
            "NodeClaim", claim, f"the service needs {wanted} machine(s) and none of its pods is on it"
        )
