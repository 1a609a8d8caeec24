"""How a Workspace stands, in a word and with its reason in words: what its row and its page say first.

The reason is always the message of a condition or of a part of the status that somebody wrote; nothing is guessed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from include.contracts.redaction import redact
from include.workspace.api import names
from include.workspace.status.conditions import ConditionType, Reason, condition, moment
from include.workspace.status.transitions import CALM_REASONS

T, R = ConditionType, Reason
Object = Mapping[str, Any]


class Tone(StrEnum):
    """What a state means to whoever is responsible."""

    GOOD = "good"
    BUSY = "busy"
    IDLE = "idle"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class State:
    """A word, its tone, and the reason as a sentence ("" where the word says all)."""

    word: str
    tone: Tone
    reason: str = ""


def state(workspace: Object) -> State:
    """How a Workspace stands, from the object as the cluster has it."""
    meta, status = workspace.get("metadata") or {}, workspace.get("status") or {}
    annotations = meta.get("annotations") or {}
    if meta.get("deletionTimestamp"):
        message = _message(status, T.WORKSPACE_DELETING)
        return State(
            "Deleting", Tone.BUSY, message or "Its runs stop, its machines go, then the Workspace goes."
        )
    if annotations.get(names.PAUSED) == "true":
        return State("Paused", Tone.IDLE, "Nothing is started, repaired or released until it is resumed.")
    if not status.get("conditions"):
        return State("New", Tone.BUSY, "Airflow has not looked at it yet.")
    return _told(status)


def _told(status: Object) -> State:
    summary = condition(status, T.WORKSPACE_READY) or {}
    reason = summary.get("reason")
    if reason == R.SCALED_TO_ZERO:
        return State("At zero", Tone.IDLE, _text(summary))
    if reason == R.BUDGET_EXCEEDED:
        return State("Over budget", Tone.BAD, _text(summary))
    if reason in (R.FAILED, R.DELETED):  # also where it is looked at again: then its cause is what helps
        return State("Failed", Tone.BAD, _text(summary))
    if retry := status.get("retry"):
        return State("Waiting", Tone.BUSY, redact(str(retry.get("message") or "")))
    if summary.get("status") == "True":
        served = (condition(status, T.INFERENCE_READY) or {}).get("status") == "True"
        return State("Serving" if served else "Done", Tone.GOOD, _text(summary))
    if str(status.get("state") or "") == "NotReady":
        return State("Not ready", Tone.BAD, _text(_latest(status)) or _text(summary))
    latest = _latest(status)
    bad = latest.get("status") == "False" and latest.get("reason") not in CALM_REASONS
    return State("Working", Tone.BAD if bad else Tone.BUSY, _text(latest))


def in_order(conditions: Iterable[Object]) -> list[Object]:
    """Conditions by the time of their last change, the earliest first; those of one moment stay as they are."""
    return sorted(conditions, key=lambda one: str(one.get("lastTransitionTime") or ""))


def _latest(status: Object) -> Object:
    """The condition that changed last, the summaries left aside."""
    summaries = (T.WORKSPACE_READY, T.WORKSPACE_SUCCEEDED)
    result: Sequence[Object] = in_order(c for c in status["conditions"] if c.get("type") not in summaries)
    return result[-1] if result else {}


def _text(one: Object) -> str:
    return redact(str(one.get("message") or one.get("reason") or ""))


def _message(status: Object, kind: ConditionType) -> str:
    return _text(condition(status, kind) or {})


def served_since(status: Object) -> Any:
    """The moment since when a service has been ready, None while none is."""
    ready = condition(status, T.INFERENCE_READY) or {}
    return moment(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None
