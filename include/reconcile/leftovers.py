"""What earlier runs left: pods and machines that nobody needs, and machines that the next run can use.

A pool in use is never released: tuning machines while a run of theirs is under way, serving machines while there is a
StatefulSet that may run on them. What belongs to somebody else is not in the Case and so cannot be touched here.
"""

from __future__ import annotations

from datetime import datetime

from include.contracts.plural import plural
from include.pools.observed import ObservedPool
from include.reconcile.case import (
    SERVING,
    TUNE,
    TUNING,
    ended,
    label,
)
from include.reconcile.decision import HandOver
from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.api import names
from include.workspace.status.conditions import ConditionType as T
from include.workspace.status.conditions import Phase, moment

#: How long machines that were handed over wait while the adapter is pushed: a boot that they save takes half of it.
LONGEST_PUSH_SECONDS = 900.0


def supersede(builder: DecisionBuilder) -> bool:
    """Clear the way for the recorded run; True while pods of other runs are still there.

    Machines of the same type go over to the run at once, before the old run's teardown lets them go; others are
    deleted when no pod works on them any more.
    """
    working = delete_stale_pods(builder)
    case = builder.case
    if not case.service_stands:
        for pool in case.single_machines(SERVING):
            _pass_on(builder, pool, wanted=builder.run["dag"] != TUNE, free=True)
    return working


def _pass_on(builder: DecisionBuilder, pool: ObservedPool, *, wanted: bool, free: bool) -> None:
    ours = names.run_id_label(builder.run["id"])
    if pool.run == ours:
        return
    if wanted and (not builder.case.machine or pool.instance_type == builder.case.machine):
        builder.act(HandOver(pool, ours))
    elif free:
        builder.delete_pool(pool, "its run is over and the next one cannot use it")


def delete_stale_pods(builder: DecisionBuilder) -> bool:
    """While a run is under way: let go pods and tuning machines of others; True while such pods still work."""
    case = builder.case
    ours = names.run_id_label(builder.run["id"])
    others = [pod for pod in case.run_pods if label(pod, names.RUN_ID) != ours]
    for pod in others:
        builder.delete("Pod", pod, f"it is of another run than {builder.run['id']}")
    working = [pod for pod in others if not ended(pod)]
    for pool in case.single_machines(TUNING):
        _pass_on(builder, pool, wanted=builder.run["dag"] == TUNE, free=not working)
    return bool(working)


def release_waiting(builder: DecisionBuilder) -> None:
    """While a tuning run pushes: machines that were handed over to its service do not wait for it for ever.

    A push takes seconds to minutes. One that hangs, or whose DAG was paused, may last for hours, and its machines cost
    money all the while. The rollout asks for others when its turn comes.
    """
    case = builder.case
    if builder.run["dag"] != TUNE or case.stateful_set is not None or builder.says(T.ADAPTER_PUBLISHED):
        return
    ours = names.run_id_label(builder.run["id"])
    for pool in case.single_machines(SERVING):
        since = _handed_over_at(builder, pool) if pool.run == ours else None
        if since is None:
            continue
        left = LONGEST_PUSH_SECONDS - (case.now - since).total_seconds()
        if left > 0:
            builder.look_again(left)
            continue
        minutes = f"{LONGEST_PUSH_SECONDS / 60:.0f} minutes"
        builder.delete_pool(pool, f"it has waited for its service for {minutes} and nothing is published yet")
        message = (
            f"The machines that tuned were kept for the service and released after {minutes}, since the adapter is not "
            "published yet; the rollout asks for machines of its own."
        )
        builder.reach(Phase.RELEASED, message)


def _handed_over_at(builder: DecisionBuilder, pool: ObservedPool) -> datetime | None:
    """Since when a machine is on the books as a serving one of this run, None where it is not."""
    uids = {machine.uid for machine in pool.machines}
    for record in (builder.status.get("cost") or {}).get("claims") or ():
        if (record.get("uid") in uids, record.get("run"), record.get("purpose")) == (True, pool.run, SERVING):
            return moment(record.get("since"))
    return None


def release(builder: DecisionBuilder) -> None:
    """No run is under way: let go whatever only a run may hold."""
    case = builder.case
    for pod in case.run_pods:
        builder.delete("Pod", pod, "no run is under way")
    if not any(not ended(pod) for pod in case.run_pods):
        for pool in case.single_machines(TUNING):
            builder.delete_pool(pool, "no run is under way")
    if not case.service_stands:
        for pool in case.single_machines(SERVING):
            builder.delete_pool(pool, "there is no service on it")


def rollback_service(builder: DecisionBuilder) -> None:
    """Take back a service that a failed run made and that answers nobody, as the run's own teardown does."""
    found = builder.case.stateful_set
    if found is None or label(found, names.RUN_ID) != names.run_id_label(builder.run.get("id") or ""):
        return
    if not (found.get("status") or {}).get("readyReplicas"):
        builder.delete("StatefulSet", found, f"run {builder.run['id']} failed and it never answered")


def scale_down(builder: DecisionBuilder, wanted: int) -> None:
    """Serving machines beyond what the service needs: those without a pod of it, never the others."""
    case = builder.case
    used = {str((p.get("spec") or {}).get("nodeName") or "") for p in case.serving_pods if not ended(p)}
    pools = case.single_machines(SERVING)
    idle = [pool for pool in pools if not pool.nodes & used]
    idle.sort(key=lambda pool: str(pool.created or ""))
    for pool in idle[: max(0, len(pools) - wanted)]:
        builder.delete_pool(
            pool, f"the service needs {plural(wanted, 'machine')} and none of its pods is on it"
        )
