"""`status.retrain`: what a retraining writes, as pure changes of a status, for the reconciler and a run's tasks alike.

The state is small and whole: which run works, which version it makes, what was learnt from last, which version is on
its way to be served, and what has become of the others. A change must never touch the service or the adapter, but for
`take_over`, which is what a promotion is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from include.workspace.status.conditions import ConditionType, Reason, set_condition, timestamp
from include.workspace.status.runs import RunState

Status = dict[str, Any]
#: States of `status.retrain.promotion`.
WANTED, ROLLING, BAKING = "wanted", "rolling", "baking"
#: ... of one that answers a share of the requests first, and of one whose share is being taken away.
CANARY, WITHDRAWING = "canary", "withdrawing"
ADAPTER = ("image", "digest", "reference", "reproduce", "learnt")


def of(status: Mapping[str, Any] | None) -> dict[str, Any]:
    """`status.retrain`, to be changed; {} without one."""
    return copy.deepcopy(dict((status or {}).get("retrain") or {}))


def with_retrain(status: Mapping[str, Any], retrain: Mapping[str, Any]) -> Status:
    """The status with another `status.retrain`, none for an empty one."""
    found = {key: value for key, value in status.items() if key != "retrain"}
    kept = {key: value for key, value in retrain.items() if value not in (None, [], {})}
    return {**found, "retrain": kept} if kept else found


def told(
    status: Mapping[str, Any], ok: bool, reason: Reason, message: str, generation: int, now: datetime
) -> Status:
    """The status with its condition RetrainReady."""
    conditions = set_condition(
        status.get("conditions") or (), ConditionType.RETRAIN_READY, ok, reason, message, generation, now
    )
    return {**status, "conditions": conditions}


def working(status: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The run of a retraining that has not said that it is over, {} without one."""
    run = ((status or {}).get("retrain") or {}).get("run") or {}
    return run if run.get("state") == RunState.STARTED else {}


def served_version(status: Mapping[str, Any] | None) -> str:
    """The version that answers, by the adapter's digest; "" where it has none (the Workspace's own tuning)."""
    digest = ((status or {}).get("adapter") or {}).get("digest")
    known = ((status or {}).get("retrain") or {}).get("versions") or ()
    return next(
        (str(one["version"]) for one in reversed(known) if digest and one.get("digest") == digest), ""
    )


def rows_learnt_from(status: Mapping[str, Any] | None) -> str:
    """Where the digests of the rows are that were learnt from last, by digest; "" where that is not known.

    They are beside the adapter of the version that has learnt from them, or of the Workspace's own tuning.
    """
    retrain = (status or {}).get("retrain") or {}
    last = (retrain.get("dataset") or {}).get("digest")
    if not last:
        return str(((status or {}).get("adapter") or {}).get("learnt") or "")
    known = reversed(retrain.get("versions") or ())
    return next(
        (
            str(one["learnt"])
            for one in known
            if (one.get("dataset") or {}).get("digest") == last and one.get("learnt")
        ),
        "",
    )


def wanted(
    status: Mapping[str, Any],
    entry: Mapping[str, Any],
    *,
    cause: str,
    bake_seconds: float,
    generation: int,
    limits: Mapping[str, float] | None = None,
    canary: Mapping[str, float] | None = None,
) -> Status:
    """The status in which a version is to be served; the reconciler carries it out.

    :param limits: what it may do worse within its bake time (include/reconcile/bake.py), None for anything.
    :param canary: `percent` of the requests that it answers first, for `canarySeconds`; None for all at once.
    """
    retrain = of(status)
    retrain["promotion"] = {
        "version": entry["version"],
        "state": WANTED,
        "cause": cause,
        "bakeSeconds": bake_seconds,
        "generation": generation,
        **({"limits": dict(limits)} if limits else {}),
        **(canary or {}),
        **{key: entry[key] for key in ADAPTER if entry.get(key)},
        "earlier": dict(status.get("adapter") or {}),
    }
    return with_retrain(status, retrain)


def canary(status: Mapping[str, Any] | None, generation: int) -> dict[str, Any]:
    """The version that answers `percent` of the requests beside the one that is served, {} without one.

    :param generation: of the Workspace: a version that was made for an earlier one is tried no more.
    """
    found = ((status or {}).get("retrain") or {}).get("promotion") or {}
    return dict(found) if found.get("state") == CANARY and found.get("generation") == generation else {}


def take_over(status: Mapping[str, Any], adapter: Mapping[str, Any]) -> Status:
    """The status that names another adapter as the one to serve."""
    return {**status, "adapter": {key: adapter[key] for key in ADAPTER if adapter.get(key)}}


def at(now: datetime) -> str:
    """A moment as the status has it."""
    return timestamp(now)
