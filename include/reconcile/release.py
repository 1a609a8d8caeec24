"""Letting a deleted Workspace go: our finalizer stays until nothing of ours is left, then it is dropped, and only it.

The work is done by runs of kaito_release. A deadline and an annotation end a release that is stuck, with a Warning
that lists what was left. Objects of others, volumes that a user brought and the pushed adapter are never touched.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from include.contracts.plural import plural
from include.reconcile import backoff, cost, service
from include.reconcile.case import RELEASE, SERVING, Case
from include.reconcile.decision import (
    Decision,
    Event,
    RemoveFinalizer,
    StartRun,
)
from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.api import names
from include.workspace.status.conditions import Phase
from include.workspace.status.runs import OVER, RunCause, RunState
from include.workspace.status.transitions import NORMAL, WARNING

LOOK_SECONDS = 10.0


def decide(case: Case) -> Decision:
    """What to do about a Workspace with a deletionTimestamp."""
    if not case.finalizer:
        return Decision("deleting")
    builder = DecisionBuilder(case)
    left = remains(case)
    until = deadline(case)
    forced = case.annotations.get(names.FORCE_RELEASE) == "true"
    if forced or until <= 0:
        return _remove_finalizer_anyway(builder, left, forced)
    if not left and _nothing_under_way(case):
        builder.events.append(Event(NORMAL, "Released", "Everything of this Workspace is released."))
        builder.act(RemoveFinalizer(names.FINALIZER))
        return builder.decision("deleting")
    builder.look_again(min(LOOK_SECONDS, until))
    builder.reach(Phase.DELETING, f"Releasing {in_words(left)}")
    service.mark_not_ready(builder)
    cost.account(builder, busy=True)
    _ensure_run(builder)
    return builder.decision("deleting")


def deadline(case: Case) -> float:
    """Seconds until the release is given up."""
    since = backoff.moment(case.meta.get("deletionTimestamp"))
    elapsed = (case.now - since).total_seconds() if since else 0.0
    return case.config.release_deadline - elapsed


def remains(case: Case) -> list[tuple[str, str]]:
    """(kind, name) of everything of ours that is still there, what is going included."""
    kinds: list[tuple[str, list[Any]]] = [
        ("Pod", [*case.run_pods, *case.serving_pods]),
        ("StatefulSet", case.sets),
        ("Service", case.services),
        ("PersistentVolumeClaim", case.volume_claims),
    ]
    found = [(kind, str(obj["metadata"]["name"])) for kind, objects in kinds for obj in objects]
    return [*found, *((pool.kind, pool.name) for pool in case.pools)]


def in_words(left: list[tuple[str, str]]) -> str:
    """`2 Pods, 1 Service`, or `what a run may still hold`."""
    counts = Counter(kind for kind, _ in left)
    return ", ".join(plural(n, kind) for kind, n in counts.items()) or "what a run may hold"


def _nothing_under_way(case: Case) -> bool:
    """Whether no run can make anything any more: none was started, or the last one is known to be over."""
    run = case.status.get("run") or {}
    if not run:
        return True
    if run.get("dag") != RELEASE and _served(case):
        return False  # a release tells the ledger what the service's machines have cost to their end
    if run.get("dag") == RELEASE and case.observed.runs.get(str(run.get("id"))) == RunState.SUCCESS:
        return True
    if not case.observed.pools.watched:
        # Only a release looks where such machines are made: they may not even be in the cluster.
        return run.get("dag") == RELEASE and run.get("state") == RunState.SUCCESS
    return run.get("state") in OVER


def _served(case: Case) -> bool:
    return any(r.get("purpose") == SERVING for r in (case.status.get("cost") or {}).get("claims") or ())


def _remove_finalizer_anyway(builder: DecisionBuilder, left: list[tuple[str, str]], forced: bool) -> Decision:
    why = f"{names.FORCE_RELEASE} asks for it" if forced else "the deadline has passed"
    if left:
        listed = ", ".join(f"{kind} {name}" for kind, name in left)
        builder.events.append(
            Event(WARNING, "ReleasedByForce", f"Let go, since {why}. Left behind: {listed}")
        )
    else:
        builder.events.append(Event(NORMAL, "Released", "Everything of this Workspace is released."))
    for pool in builder.case.pools:
        # Nothing else would ask for it any more: a pool has no owner that takes it along.
        builder.delete_pool(pool, "its Workspace is released")
    builder.act(RemoveFinalizer(names.FINALIZER))
    return builder.decision("deleting")


def _ensure_run(builder: DecisionBuilder) -> None:
    """There is a release run under way, or the next one waits for its time."""
    case = builder.case
    run: dict[str, Any] = dict(builder.status.get("run") or {})
    if run.get("dag") != RELEASE:
        builder.note(retry=None)
        return _start(builder, 1)
    attempt = int(run.get("attempt") or 1)
    if run.get("state") == RunState.STARTED:
        seen = case.observed.runs.get(run["id"], "unasked")
        if seen is None:
            return _order(builder)
        if seen not in OVER:
            return None
        # Over while something is left: what came later, or what this run could not end.
        builder.note(run={**run, "state": seen}, retry=_again(builder, seen))
        return None
    if backoff.wait(builder.retry, case.now) > 0:
        return None
    return _start(builder, attempt + 1)


def _again(builder: DecisionBuilder, seen: str) -> dict[str, Any]:
    words = "the release failed" if seen == RunState.FAILED else "something was left after the release"
    return backoff.failed(builder.retry, builder.case.now, words)


def _start(builder: DecisionBuilder, attempt: int) -> None:
    case = builder.case
    run_id = names.release_run_id(case.workspace, attempt)
    builder.note(
        run={
            "id": run_id,
            "dag": RELEASE,
            "attempt": attempt,
            "generation": case.generation,
            "rerun": str((builder.status.get("run") or {}).get("rerun") or ""),
            "url": case.config.run_url(RELEASE, run_id),
            "cause": RunCause.DELETED,
            "state": RunState.STARTED,
        }
    )
    _order(builder)


def _order(builder: DecisionBuilder) -> None:
    conf = {"workspace": {"metadata": {"name": builder.case.name, "namespace": builder.case.namespace}}}
    builder.act(StartRun(RELEASE, str(builder.status["run"]["id"]), conf))
