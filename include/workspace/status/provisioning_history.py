"""`status.machines`: what a run has asked the cloud for, and why it did not get it, in the order of asking.

It is history for people and memory for a run whose worker died; which machines there are, the cloud's own objects say.
An entry is {offer, purpose, run, state, message, at}; those of an earlier run are dropped when a later one writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from include.contracts.purpose import Purpose
from include.workspace.api import names
from include.workspace.status.conditions import MESSAGE_LENGTH, timestamp

ASKED, REFUSED, OVER_BUDGET = "Asked", "Refused", "OverBudget"
#: The same, as earlier versions wrote it: a run that began under one goes on.
FORMERLY_OVER_BUDGET = "TooDear"
#: The cloud's sentences may be long; their beginnings say it.
KEPT_CHARACTERS = 300
LEAST_CHARACTERS = 60

Status = Mapping[str, Any]


def asked(status: Status, run: str, purpose: Purpose, offer: str, now: datetime) -> dict[str, Any]:
    """The status after these machines were asked for."""
    return _noted(status, run, purpose, offer, {"state": ASKED}, now)


def refused(
    status: Status, run: str, purpose: Purpose, offer: str, told: str, now: datetime
) -> dict[str, Any]:
    """The status after the cloud has refused them in these words."""
    said = {"state": REFUSED, "message": _cut(told, KEPT_CHARACTERS)}
    return _noted(status, run, purpose, offer, said, now)


def over_budget(
    status: Status, run: str, purpose: Purpose, offer: str, told: str, now: datetime
) -> dict[str, Any]:
    """The status after they were not asked for because the budget does not allow them."""
    said = {"state": OVER_BUDGET, "message": _cut(told, KEPT_CHARACTERS)}
    return _noted(status, run, purpose, offer, said, now)


def _noted(
    status: Status, run: str, purpose: Purpose, offer: str, said: Mapping[str, str], now: datetime
) -> dict[str, Any]:
    same = [dict(entry) for entry in status.get("machines") or () if entry.get("run") == run]
    others = [entry for entry in same if (entry.get("purpose"), entry.get("offer")) != (purpose, offer)]
    entry = {"offer": offer, "purpose": purpose, "run": run, **said, "at": timestamp(now)}
    return {**status, "machines": [*others, entry]}


def refusals(status: Status | None, run: str, purpose: Purpose) -> dict[str, str]:
    """What this run did not get, be it refused or over budget, and in which words."""
    return _without(status, run, purpose, (REFUSED, OVER_BUDGET, FORMERLY_OVER_BUDGET))


def beyond_budget(status: Status | None, run: str, purpose: Purpose) -> set[str]:
    """Which of these the cloud was not even asked for, because of the budget."""
    return set(_without(status, run, purpose, (OVER_BUDGET, FORMERLY_OVER_BUDGET)))


def _without(status: Status | None, run: str, purpose: Purpose, states: Collection[str]) -> dict[str, str]:
    return {
        str(entry.get("offer")): str(entry.get("message") or "")
        for entry in (status or {}).get("machines") or ()
        if (entry.get("run"), entry.get("purpose")) == (run, purpose) and entry.get("state") in states
    }


def exhausted(told: Sequence[tuple[str, str]], beyond: Collection[str] = ()) -> str:
    """One sentence over all offers and why each is not to be had; a single one speaks for itself.

    :param told: (offer, the cloud's words or the budget's).
    :param beyond: the offers that the budget ruled out.
    """
    if len(told) == 1:
        return told[0][1]
    most = max(LEAST_CHARACTERS, MESSAGE_LENGTH // max(len(told), 1) - 60)
    unaffordable = sum(offer in beyond for offer, _ in told)
    if not unaffordable:
        parts = [f"{offer}: {_cut(words or 'refused', most)}" for offer, words in told]
        return f"The cloud has none of {len(told)} choices of machines. {' | '.join(parts)}"
    parts = [
        f"{offer}: {'over budget' if offer in beyond else 'refused'}{': ' if words else ''}{_cut(words, most)}"
        for offer, words in told
    ]
    return (
        f"None of {len(told)} choices of machines can be had: the cloud refused {len(told) - unaffordable}, "
        f"{unaffordable} would exceed the budget (annotation {names.BUDGET}). {' | '.join(parts)}"
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
