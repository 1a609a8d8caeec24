"""`status.machines`: what a run has asked the cloud for, and what the cloud said to it, in the order of asking.

It is history for people and memory for a run whose worker died; which machines there are, the cloud's own objects say.
An entry is {offer, purpose, run, state, message, at}; those of an earlier run are dropped when a later one writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from include.workspace.conditions import MESSAGE_LENGTH, timestamp

ASKED, REFUSED = "Asked", "Refused"
#: The cloud's sentences may be long; their beginnings say it.
KEPT_CHARACTERS = 300
LEAST_CHARACTERS = 60

Status = Mapping[str, Any]


def asked(status: Status, run: str, purpose: str, offer: str, now: datetime) -> dict[str, Any]:
    """The status after these machines were asked for."""
    return _noted(status, run, purpose, offer, {"state": ASKED}, now)


def refused(status: Status, run: str, purpose: str, offer: str, told: str, now: datetime) -> dict[str, Any]:
    """The status after the cloud has refused them in these words."""
    return _noted(
        status, run, purpose, offer, {"state": REFUSED, "message": _cut(told, KEPT_CHARACTERS)}, now
    )


def _noted(
    status: Status, run: str, purpose: str, offer: str, said: Mapping[str, str], now: datetime
) -> dict[str, Any]:
    same = [dict(entry) for entry in status.get("machines") or () if entry.get("run") == run]
    others = [entry for entry in same if (entry.get("purpose"), entry.get("offer")) != (purpose, offer)]
    entry = {"offer": offer, "purpose": purpose, "run": run, **said, "at": timestamp(now)}
    return {**status, "machines": [*others, entry]}


def refusals(status: Status | None, run: str, purpose: str) -> dict[str, str]:
    """What was refused to this run, and in which words."""
    return {
        str(entry.get("offer")): str(entry.get("message") or "")
        for entry in (status or {}).get("machines") or ()
        if (entry.get("run"), entry.get("purpose"), entry.get("state")) == (run, purpose, REFUSED)
    }


def exhausted(told: Sequence[tuple[str, str]]) -> str:
    """One sentence over all offers and what the cloud said of each; a single one speaks for itself."""
    if len(told) == 1:
        return told[0][1]
    most = max(LEAST_CHARACTERS, MESSAGE_LENGTH // max(len(told), 1) - 60)
    parts = [f"{offer}: {_cut(words or 'refused', most)}" for offer, words in told]
    return f"The cloud has none of {len(told)} choices of machines. {' | '.join(parts)}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
