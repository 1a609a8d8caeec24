"""The Workspace's status as a pure function of what a run has reached.

Types and reasons are KAITO's (kaito-api.md#conditions), so that its users' tools keep working; two
types of our own say what KAITO does not show, the dataset and the pushed adapter. A status must never claim what is
not so: when the tuning nodes are released, ResourceReady says it. Every write carries observedGeneration, and a write
for an older generation than the status has seen is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from include.workspace.api.dialect import serves
from include.workspace.api.names import RERUN
from include.workspace.api.names import generation as generation_of
from include.workspace.status.phases import (
    ENDED_BADLY,
    FINISHED,
    INFERENCE_STATES,
    MACHINES,
    NEXT,
    STEPS,
    TRAINING_OVER,
    TUNING_ONLY,
    ConditionType,
    Phase,
    Reason,
    Step,
)
from include.workspace.status.runs import FOR_THE_SERVICE, UNDER_WAY, RunState

__all__ = [
    "ENDED_BADLY",
    "NEXT",
    "STEPS",
    "ConditionType",
    "Phase",
    "Reason",
    "StaleGeneration",
    "Step",
    "condition",
    "fence",
    "moment",
    "progress",
    "repairs",
    "set_condition",
    "status_for",
    "timestamp",
    "with_next_step",
]

T, R = ConditionType, Reason
MESSAGE_LENGTH = 1024


class StaleGeneration(RuntimeError):
    """A status write for a generation that the cluster has already left behind; the writer should stop."""


def fence(status: Mapping[str, Any] | None, generation: int) -> None:
    """Raises StaleGeneration when any condition of `status` was written for a newer generation."""
    seen = max(
        (int(c.get("observedGeneration") or 0) for c in (status or {}).get("conditions") or ()), default=0
    )
    if seen > generation:
        raise StaleGeneration(
            f"the status already speaks of generation {seen}, so a run for generation {generation} may not write it"
        )


def set_condition(
    conditions: Iterable[Mapping[str, Any]],
    type: ConditionType | str,
    status: bool,
    reason: Reason | str,
    message: str,
    generation: int,
    now: datetime,
) -> list[dict[str, Any]]:
    """New conditions with one of them set; lastTransitionTime moves only when its status changes.

    Conditions keep their order, a new one goes last, and unknown ones (another controller's) are kept.
    """
    kept = [dict(condition) for condition in conditions]
    old = next((condition for condition in kept if condition.get("type") == str(type)), None)
    text = "True" if status else "False"
    unchanged = old is not None and old.get("status") == text and old.get("lastTransitionTime")
    new = {
        "type": str(type),
        "status": text,
        "observedGeneration": generation,
        "lastTransitionTime": old["lastTransitionTime"] if old and unchanged else timestamp(now),
        "reason": str(reason),
        "message": message if len(message) <= MESSAGE_LENGTH else message[: MESSAGE_LENGTH - 3] + "...",
    }
    if old is None:
        return [*kept, new]
    return [new if condition is old else condition for condition in kept]


def progress(
    workspace: Mapping[str, Any],
    phase: Phase | str,
    *,
    message: str,
    now: datetime,
    reason: Reason | str | None = None,
    generation: int | None = None,
    nodes: Sequence[str] | None = None,
    target_nodes: int | None = None,
    adapter: Mapping[str, Any] | None = None,
    begun: Mapping[str, Any] | None = None,
    again: bool = False,
    machines_stay: bool = False,
) -> dict[str, Any]:
    """The status after a phase, from the Workspace as the cluster holds it NOW (read it just before).

    `generation` is the one that the run works for (default: the Workspace's own). `reason` replaces the reason of the
    phase's first condition, and of ResourceReady among its causes, such as a machine's own LaunchFailed. `nodes` are
    node names for status.workerNodes; `adapter` is the push's {"image", "digest", "reference"}, with the "dataset" that
    it has learnt from. `begun` is the {"id", "dag"} of a run that begins: it is recorded as the Workspace's run, unless
    another one is under way (but for the one whose id is its "replaces", which Airflow says is over).
    `again`: a step has failed and is tried again, so its own condition says so and the Workspace has not failed.
    `machines_stay`: the machines that are there do for what is accepted, so that their conditions stay True.
    Raises StaleGeneration when the cluster has moved on to a newer generation.
    """
    phase = Phase(phase)
    run_for = generation_of(workspace) if generation is None else generation
    status: dict[str, Any] = copy.deepcopy(dict(workspace.get("status") or {}))
    fence(status, run_for)
    if generation_of(workspace) > run_for:
        newer = generation_of(workspace)
        raise StaleGeneration(
            f"the Workspace is at generation {newer}; a run for {run_for} may not write its status"
        )
    staying = _staying(status, phase, machines_stay, begun, run_for)
    step, tuning = STEPS[phase], workspace.get("tuning") is not None
    if begun is not None:
        status["run"] = _recorded(workspace, status.get("run") or {}, begun, run_for)
    repair = repairs(status, run_for)
    left = _left_alone(phase, tuning, serves(workspace), repair, status) | staying
    if phase == Phase.RELEASED and _without_machines(status, run_for):
        left |= set(MACHINES)  # why there are none is the news
    conditions = [
        {**one, "observedGeneration": run_for} if one.get("type") in staying else dict(one)
        for one in status.get("conditions") or ()
    ]
    by_itself = again or reason == R.CAPACITY_UNAVAILABLE  # it is tried again, and says when
    cause, message = message, message if by_itself else with_next_step(message, phase)
    for index, (kind, value, default) in enumerate(step.writes):
        if kind in left:
            continue
        own = reason if reason and (index == 0 or kind == T.RESOURCE_READY) else default
        if again and (kind, value, default) in FINISHED:
            own = R.PENDING
        conditions = set_condition(conditions, kind, value, own, message, run_for, now)
    if not again:
        conditions = _with_others(conditions, phase, left, cause, run_for, now)
    status["conditions"] = conditions
    if phase in TRAINING_OVER and not again:
        status.pop("progress", None)
    if step.state and not again:
        status["state"] = _state(step.state, tuning, repair, str(status.get("state") or ""))
    _observe(status, phase, nodes, target_nodes, adapter, keep_adapter=repair)
    return status


def with_next_step(message: str, phase: Phase) -> str:
    """A failure's sentence with what to do next, which a long sentence does not push out; any other as it is."""
    following = NEXT.get(phase, "")
    if not following or following in message:
        return message
    room = MESSAGE_LENGTH - len(following) - 2
    kept = message if len(message) <= room else message[: room - 3] + "..."
    return f"{kept}{'' if kept.endswith(('.', '!', '?')) else '.'} {following}"


def _with_others(
    conditions: list[dict[str, Any]],
    phase: Phase,
    left: Collection[str],
    message: str,
    generation: int,
    now: datetime,
) -> list[dict[str, Any]]:
    """The conditions with those of other phases that a beginning or an end concerns too."""
    if phase == Phase.RESUMED:
        return _reopened(conditions, left, message, generation, now)
    if FINISHED[0] in STEPS[phase].writes:
        return _not_reached(conditions, message, generation, now)
    return conditions


def _not_reached(
    conditions: Iterable[Mapping[str, Any]], message: str, generation: int, now: datetime
) -> list[dict[str, Any]]:
    """What a run that has failed never came to says so, in place of what was planned.

    A training of an earlier generation has lost its pod by the time that a newer one has failed.
    """
    done = [dict(one) for one in conditions]
    for kind, _, pending in STEPS[Phase.ACCEPTED].writes:
        if kind in (T.WORKSPACE_SUCCEEDED, T.WORKSPACE_READY):
            continue
        known = condition({"conditions": done}, kind)
        if known is None:
            continue
        # What waited for a run of an earlier generation waits no longer either: this one has taken its place.
        waits = known.get("status") != "True" and known.get("reason") == pending
        gone = kind == T.JOB_STARTED and known.get("status") == "True"
        gone = gone and int(known.get("observedGeneration") or 0) < generation
        if waits or gone:
            done = set_condition(done, kind, False, pending, f"Not reached: {message}", generation, now)
    return done


def _reopened(
    conditions: Iterable[Mapping[str, Any]],
    left: Collection[str],
    message: str,
    generation: int,
    now: datetime,
) -> list[dict[str, Any]]:
    """What failed or was not reached may be reached now; what is so stays, and so do machines that were let go."""
    done = [dict(one) for one in conditions]
    for kind, _, pending in STEPS[Phase.ACCEPTED].writes:
        known = condition({"conditions": done}, kind)
        if kind in left or known is None or known.get("status") == "True":
            continue
        if known.get("reason") not in (R.NODES_RELEASED, R.ADAPTER_KEPT):
            done = set_condition(done, kind, False, pending, message, generation, now)
    return done


def _without_machines(status: Mapping[str, Any], generation: int) -> bool:
    """Whether the cloud had no machines for this generation."""
    resource_ready = condition(status, T.RESOURCE_READY) or {}
    return (resource_ready.get("reason"), resource_ready.get("observedGeneration")) == (
        R.CAPACITY_UNAVAILABLE,
        generation,
    )


def repairs(status: Mapping[str, Any] | None, generation: int) -> bool:
    """Whether the run that `status.run` names brings back a service of a generation that was finished before."""
    run = (status or {}).get("run") or {}
    return run.get("generation") == generation and run.get("cause") in FOR_THE_SERVICE


def _recorded(
    workspace: Mapping[str, Any], known: Mapping[str, Any], run: Mapping[str, Any], generation: int
) -> dict[str, Any]:
    """`status.run` after a run has begun, which somebody may have started by hand."""
    same = known.get("generation") == generation
    under_way = same and known.get("state") in UNDER_WAY
    if known.get("id") == run["id"] and not under_way:
        return {**known, "state": RunState.STARTED}  # somebody has cleared steps of it
    if known.get("id") == run["id"] or (under_way and known.get("id") != run.get("replaces")):
        return dict(known)
    service_only = workspace.get("tuning") is not None and run["dag"] == "kaito_serve"
    return {
        "id": run["id"],
        "dag": run["dag"],
        "attempt": known.get("attempt", 1) if same else 1,
        "generation": generation,
        "rerun": ((workspace["metadata"].get("annotations") or {}).get(RERUN)) or "",
        "cause": "repair" if service_only else "found",
        "state": "started",
    }


def _staying(
    status: Mapping[str, Any],
    phase: Phase,
    machines_stay: bool,
    begun: Mapping[str, Any] | None,
    generation: int,
) -> set[ConditionType]:
    """The conditions of machines that stay True when a generation is accepted.

    They also stay when the run begins that was recorded with its acceptance: what is True of its generation was judged.
    """
    run, resource = status.get("run") or {}, condition(status, T.RESOURCE_READY) or {}
    recorded = run.get("id") == (begun or {}).get("id") and run.get("state") in UNDER_WAY
    judged = begun is not None and recorded and resource.get("observedGeneration") == generation
    if phase != Phase.ACCEPTED or not (machines_stay or judged):
        return set()
    return {kind for kind in MACHINES if _is_true(status, kind)}


def _left_alone(
    phase: Phase, tuning: bool, served: bool, repair: bool, status: Mapping[str, Any]
) -> set[ConditionType]:
    """The condition types that a phase does not write for this Workspace.

    A repair concerns the service only: what the tuning has reached stays reached. A service that still answers while a
    run for it (a repair, or a newer generation) is prepared says so until it is rolled, and so do its machines.
    """
    answers, machines = (_is_true(status, kind) for kind in (T.INFERENCE_READY, T.RESOURCE_READY))
    left: set[ConditionType] = set()
    if not tuning or repair:
        left |= set(TUNING_ONLY)
    if not served or (phase == Phase.ACCEPTED and (repair or answers)):
        left.add(T.INFERENCE_READY)
    if phase == Phase.ACCEPTED and repair and answers and machines:
        left |= set(MACHINES)
    if repair and tuning:
        left.add(T.WORKSPACE_SUCCEEDED)
    return left


def _state(state: str, tuning: bool, repair: bool, before: str) -> str:
    if tuning:
        return before if repair and before else state
    if repair and state in ("Pending", "Running"):
        return "NotReady"
    return INFERENCE_STATES.get(state, state)


status_for = progress


def _observe(
    status: dict[str, Any],
    phase: Phase,
    nodes: Sequence[str] | None,
    target_nodes: int | None,
    adapter: Mapping[str, Any] | None,
    keep_adapter: bool,
) -> None:
    """Fills the parts of the status that are not conditions."""
    if nodes is not None:
        status["workerNodes"] = sorted(nodes)
    elif phase in (Phase.RELEASED, Phase.ACCEPTED) and not _is_true(status, T.RESOURCE_READY):
        status["workerNodes"] = []
    if target_nodes is not None:
        status["targetNodeCount"] = target_nodes
    if adapter is not None:
        before = status.get("adapter") or {}
        same = adapter.get("digest") and before.get("digest") == adapter["digest"]
        said = {**({"dataset": before.get("dataset")} if same else {}), **adapter}
        status["adapter"] = {
            key: said[key]
            for key in ("image", "digest", "reference", "reproduce", "signature", "learnt", "dataset")
            if said.get(key)
        }
    elif phase == Phase.ACCEPTED and not keep_adapter:
        status.pop("adapter", None)


def condition(status: Mapping[str, Any] | None, kind: ConditionType | str) -> dict[str, Any] | None:
    """The condition of this type, or None."""
    found = (c for c in (status or {}).get("conditions") or () if c.get("type") == str(kind))
    return next((dict(c) for c in found), None)


def _is_true(status: Mapping[str, Any], kind: ConditionType) -> bool:
    return (condition(status, kind) or {}).get("status") == "True"


def timestamp(now: datetime) -> str:
    """A moment as Kubernetes writes it, in UTC with whole seconds."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: object) -> datetime | None:
    """A Kubernetes time as a datetime; None when it is missing or is none."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None
