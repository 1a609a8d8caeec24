"""What people may do to a Workspace from a page: what each does, what it costs, and the change that it is.

Each is a change of the object that `kubectl annotate` or `kubectl delete` could make as well; the reconciler does the
rest. Which of them make sense now is decided here, so that no page offers what would be passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from include.ledger import records
from include.views import fleet
from include.views.state import state
from include.views.words import usd
from include.workspace.api import names
from include.workspace.api.annotations import idle_seconds
from include.workspace.api.dialect import serves
from include.workspace.status.conditions import timestamp

Object = Mapping[str, Any]

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Action(StrEnum):
    """What may be asked for."""

    RERUN = "rerun"
    PAUSE = "pause"
    RESUME = "resume"
    SCALE_TO_ZERO = "scale-to-zero"
    WAKE = "wake"
    APPROVE = "approve"
    REJECT = "reject"
    ROLL_BACK = "roll-back"
    DELETE = "delete"


class ActionRefused(ValueError):
    """An action that makes no sense for this Workspace now, or a value that it cannot have; ``str()`` says why."""


@dataclass(frozen=True, slots=True)
class OfferedAction:
    """An action that a Workspace offers now.

    :param does: what will happen and what it costs, as sentences for the one who confirms.
    :param value: what is asked for besides, as a label ("" for nothing).
    :param proposal: the value that is meant where nobody writes another.
    """

    action: Action
    label: str
    does: str
    value: str = ""
    proposal: str = ""
    dangerous: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What an action writes: annotations (None takes one away), or that the object goes."""

    annotations: Mapping[str, str | None]
    deletes: bool = False


def offers(workspace: Object) -> list[OfferedAction]:
    """What makes sense for a Workspace now, in the order of a page."""
    meta, status = workspace["metadata"], workspace.get("status") or {}
    if meta.get("deletionTimestamp"):
        return []
    annotations = meta.get("annotations") or {}
    result: list[OfferedAction] = []
    if annotations.get(names.PAUSED) == "true":
        result.append(_resume())
    else:
        if _over(status):
            result.append(_rerun(workspace))
        result += _scaling(workspace) if serves(workspace) else []
        result.append(_pause(status))
    return [*result, *_retraining(status), _delete(workspace)]


def change(workspace: Object, action: Action, value: str, now: datetime) -> Change:
    """The change that an action is.

    :param value: what was written into the action's field; the proposal counts where it is empty.
    :raises ActionRefused: it is not on offer, or cannot have this value.
    """
    offer = next((one for one in offers(workspace) if one.action is action), None)
    if offer is None:
        told = state(workspace)
        raise ActionRefused(
            f"{action} makes no sense now: Workspace {workspace['metadata']['name']} is {told.word}."
        )
    return _CHANGES[action](workspace, value.strip() or offer.proposal, now)


def _over(status: Object) -> bool:
    return (status.get("run") or {}).get("state") in fleet.OVER


def _hourly(status: Object) -> str:
    rate = records.usd_per_hour(status.get("cost"))
    if rate:
        return f"about {usd(rate)} an hour"
    known = [float(one.get("usdPerHour") or 0) for one in (status.get("cost") or {}).get("claims") or ()]
    return f"about {usd(known[-1])} an hour for each machine" if known else "the price of its machines"


def _rerun(workspace: Object) -> OfferedAction:
    status = workspace.get("status") or {}
    what = "the training" if workspace.get("tuning") is not None else "the rollout"
    kept = " A finished adapter that was not delivered is not made again." if "tuning" in workspace else ""
    return OfferedAction(
        Action.RERUN,
        "Run again",
        f"Starts {what} once more as a new Airflow run, on new machines: {_hourly(status)} while they are held.{kept}",
    )


def _pause(status: Object) -> OfferedAction:
    rate = records.usd_per_hour(status.get("cost"))
    going = f" Machines that it holds stay and cost {usd(rate)} an hour." if rate else " It costs nothing."
    return OfferedAction(
        Action.PAUSE,
        "Pause",
        f"Airflow leaves the Workspace alone: nothing is started, repaired or released until it is resumed.{going}",
    )


def _resume() -> OfferedAction:
    does = "Airflow looks after the Workspace again, and does at once what is due; machines may be ordered for it."
    return OfferedAction(Action.RESUME, "Resume", does)


def _scaling(workspace: Object) -> list[OfferedAction]:
    status = workspace.get("status") or {}
    how = state(workspace).word
    if how == "At zero":
        does = (
            f"Orders the machines again and starts the service: {_hourly(status)}. It goes to zero again when nobody "
            "has asked it for as long as before."
        )
        return [OfferedAction(Action.WAKE, "Wake", does)]
    if how != "Serving":
        return []
    does = (
        f"Gives the service's machines back once nobody has asked it for that many minutes, which saves "
        f"{_hourly(status)}. It answers nothing while it is at zero; Wake brings it back in some minutes."
    )
    return [
        OfferedAction(
            Action.SCALE_TO_ZERO, "Scale to zero", does, value="minutes without a request", proposal="1"
        )
    ]


def _retraining(status: Object) -> list[OfferedAction]:
    retrain = status.get("retrain")
    if not isinstance(retrain, Mapping):
        return []
    result: list[OfferedAction] = []
    if candidate := digest_of(retrain.get("approval")):
        does = (
            f"Serves the candidate {candidate[:19]} in place of the present adapter, as its policy says. It costs "
            "nothing by itself."
        )
        result.append(OfferedAction(Action.APPROVE, "Approve", does, proposal=candidate))
        does = (
            f"Refuses the candidate {candidate[:19]}: its run ends, and the present adapter goes on answering. What "
            "its training cost is spent; its adapter stays in the registry until the policy removes it."
        )
        result.append(OfferedAction(Action.REJECT, "Reject", does, proposal=candidate))
    if earlier := earlier_versions(status):
        known = ", ".join(f"{version} ({digest[:19]})" for version, digest in earlier.items())
        does = (
            "Serves an earlier adapter again: the service rolls out anew, which costs nothing by itself. "
            f"There are: {known}."
        )
        newest = list(earlier)[-1]
        result.append(
            OfferedAction(Action.ROLL_BACK, "Roll back", does, value="version to serve", proposal=newest)
        )
    return result


def earlier_versions(status: Object) -> dict[str, str]:
    """The digests of the versions that were pushed and are not served now, the oldest first."""
    retrain = status.get("retrain")
    known = retrain.get("versions") if isinstance(retrain, Mapping) else None
    served = digest_of(status.get("adapter"))
    return {
        str(one["version"]): digest
        for one in (known if isinstance(known, list) else ())
        if isinstance(one, Mapping) and one.get("version")
        if one.get("reference") and (digest := digest_of(one)) and digest != served
    }


def digest_of(told: object) -> str:
    """The digest in what a status says of an adapter: a reference, a digest, or an object with one; "" without."""
    text = told.get("digest") or told.get("reference") if isinstance(told, Mapping) else told
    match = DIGEST.search(str(text or ""))
    return match[0] if match else ""


def _delete(workspace: Object) -> OfferedAction:
    rate = records.usd_per_hour((workspace.get("status") or {}).get("cost"))
    saves = f" It saves {usd(rate)} an hour." if rate else ""
    does = (
        "Deletes the Workspace: its runs stop, then service, pods, machines and work volume go. Pushed adapters and "
        f"your own volumes stay.{saves} This cannot be undone."
    )
    return OfferedAction(Action.DELETE, "Delete", does, value="its name, to confirm", dangerous=True)


def _annotate(
    key: str, value: Callable[[str, datetime], str | None]
) -> Callable[[Object, str, datetime], Change]:
    return lambda _workspace, given, now: Change({key: value(given, now)})


def _minutes(workspace: Object, given: str, now: datetime) -> Change:
    try:
        idle_seconds({names.SCALE_TO_ZERO: given})
    except ValueError as error:
        raise ActionRefused(f"{error}.") from None
    return Change({names.SCALE_TO_ZERO: given})


def _woken(workspace: Object, _given: str, _now: datetime) -> Change:
    """The same minutes, written another way: a changed annotation is what wakes a service."""
    before = str((workspace["metadata"].get("annotations") or {}).get(names.SCALE_TO_ZERO) or "")
    if not before:
        return Change({names.SCALE_TO_ZERO: None})
    again = before[1:] if before.startswith("0") and before[1:2].isdigit() else f"0{before}"
    return Change({names.SCALE_TO_ZERO: again})


def _answered(key: str, other: str) -> Callable[[Object, str, datetime], Change]:
    """Answer for a candidate by one annotation, and take back what the other one said before."""

    def change(_workspace: Object, given: str, _now: datetime) -> Change:
        if not DIGEST.fullmatch(given):
            raise ActionRefused(
                f"{given!r} is no digest of an adapter: write sha256: and its 64 hexadecimal digits."
            )
        return Change({key: given, other: None})

    return change


def _rolled_back(workspace: Object, given: str, _now: datetime) -> Change:
    known = earlier_versions(workspace.get("status") or {})
    if given not in known and given not in known.values():
        raise ActionRefused(f"{given!r} is no version that can be served; there are: {', '.join(known)}.")
    return Change({names.ROLLBACK_TO: given})


def _deleted(workspace: Object, given: str, _now: datetime) -> Change:
    name = workspace["metadata"]["name"]
    if given != name:
        raise ActionRefused(f"Deleting takes the Workspace's name, {name}, not {given!r}.")
    return Change({}, deletes=True)


_CHANGES: Mapping[Action, Callable[[Object, str, datetime], Change]] = {
    Action.RERUN: _annotate(names.RERUN, lambda _, now: timestamp(now)),
    Action.PAUSE: _annotate(names.PAUSED, lambda *_: "true"),
    Action.RESUME: _annotate(names.PAUSED, lambda *_: None),
    Action.SCALE_TO_ZERO: _minutes,
    Action.WAKE: _woken,
    Action.APPROVE: _answered(names.APPROVE, names.REJECT),
    Action.REJECT: _answered(names.REJECT, names.APPROVE),
    Action.ROLL_BACK: _rolled_back,
    Action.DELETE: _deleted,
}
