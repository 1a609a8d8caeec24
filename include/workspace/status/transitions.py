"""Which Kubernetes Events a change of status is worth: a pure comparison of two statuses.

KAITO tells next to nothing by Events (kaito-api.md#events); here `kubectl describe` shows every step, its cause first.
One sentence that several conditions share becomes one Event, and a new state that comes with them is told in it. It
must never repeat itself: no change, no Event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from include.workspace.status.conditions import ConditionType, Reason

NORMAL, WARNING = "Normal", "Warning"
SUMMARY = ConditionType.WORKSPACE_READY
#: Reasons that say no more than a new state does.
SUMMING_UP = frozenset({Reason.SUCCEEDED, Reason.READY, Reason.FAILED, Reason.PENDING})
FAILED_STATE = "Failed"

#: What is said of a machine that is on its way.
MACHINE_COMES = (
    "AwaitingReconciliation",
    "NodeNotFound",
    "NodeNotRegistered",
    "NotLaunched",
    "NotRegistered",
    "NotInitialized",
    "StartupTaintsExist",
    "KnownEphemeralTaintsExist",
    "ResourceNotRegistered",
)
#: Reasons of a False condition that are part of the ordinary course of things.
CALM_REASONS = frozenset(
    {
        Reason.NODE_CLAIM_NOT_READY,
        Reason.NODE_NOT_READY,
        Reason.NODE_PLUGINS_NOT_READY,
        Reason.RESOURCE_NOT_READY,
        Reason.NODES_RELEASED,
        Reason.DATASET_PENDING,
        Reason.JOB_PENDING,
        Reason.ADAPTER_PENDING,
        Reason.INFERENCE_PENDING,
        Reason.PENDING,
        Reason.SCALED_TO_ZERO,
        *MACHINE_COMES,
        Reason.RETRAINING,
        Reason.AWAITING_APPROVAL,
        Reason.PROMOTING,
    }
)


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about the Workspace; `type` is Normal or Warning.

    `once` is a key for what lasts rather than happens: the shell names the Event object after it, so that the same
    sentence is not said again at each look. "" for what happens.
    """

    type: str
    reason: str
    message: str
    once: str = ""


def transition_events(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> list[Event]:
    """The Events of a change from `old` to `new` status: conditions that turned, then a new state that none explains.

    A condition turns when its status or its reason changes; one that appears as not yet reached says nothing.
    """
    before = {c.get("type"): c for c in (old or {}).get("conditions") or ()}
    turned: dict[str, list[Mapping[str, Any]]] = {}
    for condition in (new or {}).get("conditions") or ():
        if _turned(before.get(condition.get("type")), condition):
            turned.setdefault(str(condition.get("message") or ""), []).append(condition)
    state, was = str((new or {}).get("state") or ""), str((old or {}).get("state") or "")
    moved = f"{was} -> {state}" if was else state
    why = _summary(new or {}) if state and state != was else None
    events = [
        _event(group, message, before, state if message == why else "", moved)
        for message, group in turned.items()
    ]
    if why is not None and why not in turned:
        events.append(Event(_state_type(state), state, f"{moved}: {why}" if why else moved))
    return events


def _summary(status: Mapping[str, Any]) -> str:
    """What the whole Workspace says of itself."""
    told = (c.get("message") for c in status.get("conditions") or () if c.get("type") == SUMMARY)
    return str(next(told, None) or "")


def _state_type(state: str) -> str:
    return WARNING if state == FAILED_STATE else NORMAL


def _turned(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    if old is None:
        return new.get("status") == "True" or new.get("reason") not in CALM_REASONS
    if old.get("status") != new.get("status"):
        return True
    return old.get("reason") != new.get("reason") and new.get("reason") not in CALM_REASONS


def _event(
    group: list[Mapping[str, Any]],
    message: str,
    before: Mapping[Any, Mapping[str, Any]],
    state: str,
    moved: str,
) -> Event:
    """One Event for the conditions that share a sentence; the first one's reason speaks for all.

    :param state: the new state, where it comes with them, and is the reason where they say no more; "" else.
    :param moved: the state before and the new one, in words.
    """
    alarming = [c for c in group if _alarming(c, before.get(c.get("type")))]
    values = {c.get("status") for c in group}
    kinds = ", ".join(str(c.get("type")) for c in group)
    verdict = f"{kinds}: {group[0].get('status')}" if len(values) == 1 else kinds
    reason = str((alarming or group)[0].get("reason"))
    if state:
        verdict = f"{verdict}, {moved}"
        reason = state if reason in SUMMING_UP else reason
    kind = WARNING if alarming or (state and _state_type(state) == WARNING) else NORMAL
    return Event(kind, reason, f"{verdict}. {message}".strip())


def _alarming(condition: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    if condition.get("status") == "True":
        return False
    if condition.get("reason") not in CALM_REASONS:
        return True
    if condition.get("reason") == Reason.SCALED_TO_ZERO:
        return False  # it was asked for
    # A service that answered and no longer does is news, unless a new generation begins.
    lost = before is not None and before.get("status") == "True"
    same = before is not None and before.get("observedGeneration") == condition.get("observedGeneration")
    return lost and same and condition.get("type") == ConditionType.INFERENCE_READY
